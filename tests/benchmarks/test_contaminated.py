"""The benchmark of defective training images: its mixtures, its table, and that it continues."""

import json

import pytest

from vtadl_jax.benchmarks.contaminated import FLAGS, main, mix, share_of, table_of
from vtadl_jax.data.records import Record
from vtadl_jax.errors import UserError


def records(count: int, label: int = 0) -> list[Record]:
    return [Record(b"", None, label, "good", f"{label}/{i}.png") for i in range(count)]


def test_intruders_leave_the_test_set_and_hide_among_the_good_images():
    test = [*records(10), *records(40, 1)]
    found = mix(records(90), test, 0.1, 0)
    assert (len(found.good), len(found.intruders), len(found.test)) == (90, 10, 40)
    assert all(record.label == 0 for record in found.train)
    names = {record.name for record in found.intruders}
    assert not names & {record.name for record in found.test}
    assert names <= {record.name for record in found.train}


def test_good_images_are_left_out_where_defects_are_few():
    found = mix(records(90), records(40, 1), 0.4, 0)
    assert (len(found.good), len(found.intruders)) == (30, 20)
    with pytest.raises(UserError, match="are too few for it"):
        mix(records(90), records(1, 1), 0.4, 0)


def test_shares_are_checked():
    assert share_of("0.25") == 0.25
    for text in ("0", "a", "0.9"):
        with pytest.raises(UserError, match="give shares"):
            share_of(text)


def test_what_was_measured_is_not_measured_again(dataset, tmp_path, capsys):
    row = {"share": 0.2, "good": 9, "intruders": 2, "found": 0.5, "clean": 0.9}
    row |= {"contaminated": 0.8, "trimmed": 0.85, "left_out": 2, "intruders_left_out": 1}
    line = "| 20 % | 9 | 2 | 50 % | 0.900 | 0.800 | 0.850 | 2 | 1 |"
    assert table_of([row])[-1] == line
    text = "configs/position_gaussian.py:gear"
    about = {"config": "position_gaussian", "overrides": [], "text": text, "trim": 0.0}
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({**about, "rows": [row]}))
    FLAGS.unparse_flags()
    arguments = ["contaminated", "--config", text, "--shares=0.2", f"--json={path}"]
    assert main(arguments) == 0
    assert line in capsys.readouterr().out
    FLAGS.unparse_flags()
    assert main([*arguments, "--trim=0.3"]) == 2
    assert "figures of another config" in capsys.readouterr().err


def test_a_tiny_set_is_measured(dataset, tmp_path, capsys):
    FLAGS.unparse_flags()
    path = tmp_path / "figures.json"
    fields = [f"--config.data.root={dataset}", "--config.image_size=32,32"]
    arguments = ["--config", "configs/position_gaussian.py:gear", *fields]
    assert main(["contaminated", *arguments, "--shares=0.1", f"--json={path}"]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["good"], row["intruders"], row["left_out"]) == (20, 2, 2)
    assert "| 10 % | 20 | 2 |" in capsys.readouterr().out
