"""Printing a page: by the browser on the PATH, whole or not at all, with a remedy if it fails."""

import shutil
import sys

import pytest

from tests.cli import run_main
from tests.report.test_page import make_card, make_report
from vtadl_jax.errors import UserError
from vtadl_jax.report import pdf
from vtadl_jax.report.page import write_page

FAKE = """#!{python}
import pathlib, sys
given = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--") and "=" in a)
{body}
"""
PRINTS = 'pathlib.Path(given["print-to-pdf"]).write_bytes(b"%PDF " + sys.argv[-1].encode())'


@pytest.fixture
def page(tmp_path):
    (tmp_path / "report.html").write_text("<p>page</p>")
    return tmp_path / "report.html"


@pytest.fixture
def browser(tmp_path, monkeypatch):
    """Puts a program in the browser's place."""

    def put(body):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "chromium"
        program.write_text(FAKE.format(python=sys.executable, body=body))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


def test_the_browser_prints_the_page(page, browser, tmp_path):
    browser(PRINTS)
    out = tmp_path / "sub" / "report.pdf"
    pdf.print_pdf(page, out)
    assert out.read_bytes() == b"%PDF " + page.as_uri().encode()
    assert [p.name for p in out.parent.iterdir()] == ["report.pdf"]


def test_without_a_browser_the_remedy_is_told(page, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install Chromium, or open the page in any browser"):
        pdf.print_pdf(page, tmp_path / "out.pdf")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('sys.exit("no display")', r"did not print .*exit code 1: no display"),
        ("pass", "it says nothing"),
        ("import time; time.sleep(60)", "took more than 0.2 s"),
    ],
)
def test_a_browser_that_fails_leaves_what_was_there(
    page, browser, tmp_path, monkeypatch, body, reason
):
    monkeypatch.setattr(pdf, "SECONDS", 0.2 if "time" in body else 60)
    browser(body)
    (tmp_path / "report.pdf").write_bytes(b"before")
    with pytest.raises(UserError, match=reason):
        pdf.print_pdf(page, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes() == b"before"
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.pdf", "bin"}


def test_the_command_prints_beside_the_page(page, browser, tmp_path, capsys):
    browser(PRINTS)
    done = run_main(capsys, "vtadl_jax.pdf", f"--page={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.pdf").is_file()
    done = run_main(capsys, "vtadl_jax.pdf", "--page=/no/such.html")
    assert done.returncode == 2
    assert "is no file" in done.stderr


@pytest.mark.browser
def test_a_real_browser_prints_pages_without_buttons(tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("chromium not found on the path")
    cards = [make_card(f"{i}.png", i % 2, float(i)) for i in range(30)]
    write_page(tmp_path / "report.html", make_report(cards))
    pdf.print_pdf(tmp_path / "report.html", tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= content.count(b"/Type /Page\n") + content.count(b"/Type/Page/") <= 12
