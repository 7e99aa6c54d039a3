"""Errors that users see: one line with the value, the place and the remedy."""

import errno


class UserError(Exception):
    """A mistake that the user can fix; `main` prints it in one line and exits with code 2."""


class TrainingDiverged(Exception):
    """A loss term is no longer finite; `main` prints it in one line and exits with code 3."""


class Preempted(Exception):
    """The run stopped on request (SIGTERM or a preemption notice); `main` exits with code 75."""


def printable(text: object) -> str:
    """Returns a text, such as a path, that any terminal and file can hold.

    Bytes of a file name that are not UTF-8 and characters that do not print become escapes, as
    `\\xe4` or `\\n`.
    """
    try:
        content = str(text).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = str(text).encode("utf-8", "backslashreplace")
    readable = content.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable)


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
