"""What users see when something is wrong: one line with the value, the place and the remedy."""


class UserError(Exception):
    """A mistake that the user can mend; `main` prints it in one line and exits with code 2."""


class TrainingDiverged(Exception):
    """A loss term is no longer finite; `main` prints it in one line and exits with code 3."""


class Preempted(Exception):
    """The run was told to stop and has saved what it had; `main` exits with code 75."""
