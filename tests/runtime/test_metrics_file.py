"""metrics.jsonl: lines that were cut short are left out, and never continued."""

import json

import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.runtime.console import METRICS_FILE, MetricWriter, read_metrics

WHOLE = '{"step": 2, "train/loss": 1.5}\n'


def write(workdir, step):
    writer = MetricWriter(workdir)
    writer.write(step, {"loss": 0.5}, "train")
    writer.close()


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        (WHOLE + '{"step": 3, "tr', 1),
        (WHOLE + '{"step": 3, "tr' + WHOLE, 1),
        (WHOLE + "\0" * 9, 1),
        (WHOLE + "5\n[]\n\xff\n", 3),
        (WHOLE + '{"step": "3"}\n{"step": 4, "train/loss": null}\n', 2),
        (WHOLE, 0),
        (WHOLE.rstrip("\n"), 0),
    ],
)
def test_lines_that_are_no_records_are_counted_and_left_out(tmp_path, capsys, text, skipped):
    path = tmp_path / METRICS_FILE
    path.write_bytes(text.encode("latin1"))
    assert read_metrics(path) == [json.loads(WHOLE)]
    said = capsys.readouterr().err
    assert (f"{path}: {skipped} lines" in said) == (skipped > 0)
    write(tmp_path, 7)
    assert read_metrics(path) == [json.loads(WHOLE), {"step": 7, "train/loss": 0.5}]
    assert path.read_bytes().startswith(text.encode("latin1"))


def test_a_file_that_is_absent_has_no_records(tmp_path):
    assert read_metrics(tmp_path / METRICS_FILE) == []


def test_it_is_not_written_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    (tmp_path / METRICS_FILE).symlink_to(precious)
    with pytest.raises(UserError, match="is a link: remove it"):
        write(tmp_path, 1)
    assert precious.read_text() == "mine\n"
