"""Prints a page of a report as PDF, for example for a customer.

python -m vtadl_jax.pdf --page runs/mine/report.html --output report.pdf

Needs Chromium or Chrome on the PATH. Any page of this program prints: that of a run, of a
prediction, of a comparison. Exit codes: 0 done, 2 a mistake the user can fix, 130 interrupted.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from vtadl_jax.errors import UserError
from vtadl_jax.report.pdf import print_pdf
from vtadl_jax.runtime.command import run_command
from vtadl_jax.runtime.console import say

FLAGS = flags.FlagValues()
_define = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_PAGE = _define("page", "", "The page: report.html, or a folder that holds it.")
_OUTPUT = _define("output", "", "The PDF. Default: beside the page, with the ending .pdf.")


def run() -> int:
    """Prints the page that the flags name."""
    if not _PAGE.value:
        raise UserError(f"no --page: {FLAGS['page'].help}")
    page = Path(_PAGE.value).expanduser()
    page = page / "report.html" if page.is_dir() else page
    pdf = Path(_OUTPUT.value).expanduser() if _OUTPUT.value else page.with_suffix(".pdf")
    print_pdf(page, pdf)
    say(f"printed {page} as {pdf}")
    return 0


def main(argv: list[str]) -> int:
    return run_command(FLAGS, argv, __doc__, run, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
