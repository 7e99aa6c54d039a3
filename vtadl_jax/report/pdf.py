"""Prints a page of a report as PDF, by a browser without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.files import temporary_name, writing

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 300  # a page of a thousand pictures takes some
DRAWING = 20_000  # milliseconds of the page's own time, in which pictures are decoded


def find_browser() -> str:
    """Returns the path of the browser. Raises UserError if there is none."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise UserError(
        f"no browser to print a PDF with ({', '.join(BROWSERS)} are not on the PATH): install "
        f"Chromium, or open the page in any browser and print it from there"
    )


def print_pdf(page: Path, pdf: Path) -> None:
    """Prints a page; the file is there whole or not at all.

    Raises UserError for a page that is not there, without a browser, and if it prints nothing.
    """
    if not page.is_file():
        raise UserError(f"{page} is no file: give the report.html of a run or of a prediction")
    browser = find_browser()
    if pdf.is_dir():
        raise UserError(f"{pdf} is a folder: give the name of the PDF")
    temporary = temporary_name(pdf)
    with writing(pdf):
        pdf.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        switches = [
            *("--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--no-pdf-header-footer", f"--virtual-time-budget={DRAWING}"),
            f"--user-data-dir={profile}",
            f"--print-to-pdf={temporary.resolve()}",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # it refuses to start with it
            switches.append("--no-sandbox")
        try:
            done = subprocess.run(
                [browser, *switches, page.resolve().as_uri()],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
            reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            if done.returncode or not temporary.is_file() or not temporary.stat().st_size:
                raise UserError(
                    f"{browser} did not print {page} (exit code {done.returncode}: {reason}): open "
                    f"the page in any browser and print it from there"
                )
            with writing(pdf):
                temporary.replace(pdf)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{browser} took more than {SECONDS} s to print {page}: open the page in any "
                f"browser and print it from there"
            ) from error
        except OSError as error:
            raise UserError(f"{browser} can't be started ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)
