"""What the command-line programs share: flags of their own, errors in one line, exit codes."""

import logging
import sys
from collections.abc import Callable, Sequence

from absl import flags
from absl import logging as absl_logging

from vtadl_jax.errors import UserError


def quiet_libraries() -> None:
    """What libraries log as errors they raise as well, and one line is to say it."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("orbax", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_command(
    values: flags.FlagValues,
    argv: Sequence[str],
    usage: str,
    run: Callable[[], int],
    interrupted: str,
) -> int:
    """Parse `argv` into `values`, then `run`. Returns the exit code: that of `run`, 2 for a
    mistake, 130 after Ctrl-C. `values` must define a flag `help`; `usage` is shown for it."""
    quiet_libraries()
    try:
        values.unparse_flags()
        try:
            rest = values(list(argv))[1:]
        except flags.Error as error:
            raise UserError(" ".join(str(error).split())) from error
        if values["help"].value:
            print(usage, values.get_help(), sep="\n")
            return 0
        if rest:
            raise UserError(f"argument {rest[0]!r} is not understood: flags start with --")
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return 130
