"""Errors that users see: one line with the value, the place and the remedy."""

import errno


class UserError(Exception):
    """A mistake that the user can fix; `main` prints it in one line and exits with code 2."""


class TrainingDiverged(Exception):
    """A loss term is no longer finite; `main` prints it in one line and exits with code 3."""


class Preempted(Exception):
    """The run stopped on request (SIGTERM or a preemption notice); `main` exits with code 75."""


def disk_trouble(error: BaseException | None) -> str | None:
    """Returns the disk's reason (full, quota, file too large) for an error, None for other errors.

    Follows the chain of causes: orbax and tensorstore wrap the system's OSError.
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        if isinstance(error, OSError) and error.errno in full:
            return error.strerror
        for text in ("No space left on device", "Disk quota exceeded", "File too large"):
            if text in str(error):
                return text
        error = error.__cause__ or error.__context__
    return None
