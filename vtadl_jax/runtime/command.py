"""Shared code of the command-line programs: local flags, errors in one line, exit codes."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

import jax
from absl import flags
from absl import logging as absl_logging

from vtadl_jax.errors import Preempted, TrainingDiverged, UserError, disk_trouble, printable
from vtadl_jax.runtime import distributed, preemption
from vtadl_jax.runtime.absent_tpu import skip_absent_tpu

CLOSED = 141  # exit code if the output was closed before its end, as of a shell's command
CONFIG_HELP = (
    "--config FILE[:ARGUMENT] names the experiment, --config.FIELD=VALUE changes a field; with "
    "--config, --help lists its fields."
)


def quiet_libraries() -> None:
    """Silences error logs of libraries: they also raise the error, which is printed in one line."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("orbax", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def split_config(argv: Sequence[str], default: str = "") -> tuple[list[str], str, list[str]]:
    """Splits a command line into (program and its own flags, value of --config, flags of fields).

    A field's value may follow its flag as the next argument. Raises UserError for --config without
    a value.
    """
    own, config, fields = list(argv[:1]), default, list[str]()
    rest = iter(argv[1:])
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not (name == "config" or name.startswith("config.")):
            own.append(argument)
            continue
        if not equals:
            value = next(rest, "")
            if not value and name == "config":
                raise UserError("--config needs a file: for example --config configs/demo.py")
        if name == "config":
            config = value
        else:
            fields.append(f"--{name}={value}")
    return own, config, fields


def run_command(
    values: flags.FlagValues,
    argv: Sequence[str],
    usage: str,
    run: Callable[[], int | None],
    interrupted: str,
    fields: Callable[[], Sequence[str]] = lambda: (),
) -> int:
    """Parses `argv` into `values`, then calls `run`. Returns the exit code.

    The exit code of `run` (None is 0); 2 for a mistake or a full disk, 3 if the loss diverged, 75
    if stopped by SIGTERM, 76 if a peer was lost, 130 after Ctrl-C, 141 if the output was closed.
    For --help it prints `usage`, the flags and `fields`, and returns 0.
    """
    quiet_libraries()
    skip_absent_tpu()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold anything
            stream.reconfigure(errors="backslashreplace")
    if "help" not in values:
        flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    try:
        values.unparse_flags()
        try:
            rest = values(list(argv))[1:]
        except flags.Error as error:
            raise UserError(" ".join(str(error).split())) from error
        if values["help"].value:
            return _show_help("\n".join([usage, _help_of(values), *fields()]))
        if rest:
            raise UserError(f"argument {rest[0]!r} is not understood: flags start with --")
        return run() or 0
    except UserError as e:
        return _say(f"error: {e}", 2)
    except TrainingDiverged as e:
        return _say(f"diverged: {e}", 3)
    except Preempted as e:
        return _say(f"stopped: {e}: rerun the same command to continue", preemption.EXIT_CODE)
    except BrokenPipeError:  # whoever read the output has closed it, as `head` does
        _drop_output()
        return CLOSED
    except KeyboardInterrupt:
        return _say(f"interrupted: {interrupted}", 130)
    except OSError as e:
        if (reason := disk_trouble(e)) is None:
            raise
        where = f"{e.filename}: " if e.filename else ""
        return _say(f"error: {where}{reason}: make room and rerun the same command", 2)
    except jax.errors.JaxRuntimeError as e:
        if not distributed.lost_peer(e):
            raise
        distributed.exit_after_peer_loss(e)
        return distributed.PEER_LOST


def _help_of(values: flags.FlagValues) -> str:
    """Returns the help of a program's own flags, without those that absl adds to every program."""
    names = [name for name in values.flags_by_module_dict() if name != "absl.flags"]
    return "\n".join(values.module_help(name) for name in names)


def _show_help(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_output()
    return 0


def _drop_output() -> None:
    """Leads what is still to be written to nowhere: Python would try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _say(text: str, code: int) -> int:
    """Prints one line: names from files may hold line ends and codes of the terminal."""
    print(printable(text), file=sys.stderr)
    return code
