"""Counts by station and time: what tables and names tell, what is refused, what is written."""

import csv
import datetime
import json

import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.report.groups import Groups, Taken, by_pattern, read_meta

TABLE = """file,time,station,operator
a.png,2026-11-28T06:10:00,cam1,x
b/c.png,2026-11-28 07:59:59+01:00,cam2,y
d.png,,cam1,z
"""


def table(tmp_path, text=TABLE):
    (tmp_path / "meta.csv").write_text(text)
    return tmp_path / "meta.csv"


def test_a_table_tells_where_and_when(tmp_path):
    found = read_meta(table(tmp_path))
    assert found["a.png"] == Taken("cam1", datetime.datetime(2026, 11, 28, 6, 10))
    # A time is that of the station's clock.
    assert found["b/c.png"].time == datetime.datetime(2026, 11, 28, 7, 59, 59)
    assert found["d.png"] == Taken("cam1", None)
    periods = [found["a.png"].period(kind) for kind in ("hour", "day", "month")]
    assert periods == ["2026-11-28 06:00", "2026-11-28", "2026-11"]
    assert found["d.png"].period("day") == ""
    only = read_meta(table(tmp_path, "\ufefffile,station\r\n.\\b\\c.png,1\r\n"))
    assert only == {"b/c.png": Taken("1", None)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,time\na,b\n", "has the columns name, time: give file, and time or station"),
        ("file\na\n", "has the columns file: give file, and time or station"),
        ("", "has the columns : give file"),
        ("file,time\na,yesterday\n", "line 2: time 'yesterday' is not understood"),
        ("file,station\na,1\na,2\n", "line 3: a is there twice"),
        ("file,station\n,1\n", "line 2: no file"),
    ],
)
def test_other_tables_end_in_one_line(tmp_path, text, reason):
    with pytest.raises(UserError, match=reason) as error:
        read_meta(table(tmp_path, text))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="can't be read"):
        read_meta(tmp_path / "nothing.csv")


def test_names_tell_where_and_when():
    pattern = r"(?P<station>cam\d)_(?P<time>\d{8}_\d{6})"
    found = by_pattern(pattern, ["x/cam2_20261128_061000_7.png", "other.png"])
    taken = Taken("cam2", datetime.datetime(2026, 11, 28, 6, 10))
    assert found == {"x/cam2_20261128_061000_7.png": taken}
    only = by_pattern(r"/(?P<station>\w+)/", ["x/left/1.png"])
    assert only == {"x/left/1.png": Taken("left", None)}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "is no regular expression"),
        ("cam", "has no group: use for example"),
        (r"(?P<time>\d+)", "a17.png: time '17' is not understood"),
    ],
)
def test_other_patterns_end_in_one_line(pattern, reason):
    with pytest.raises(UserError, match=reason):
        by_pattern(pattern, ["a17.png"])


def test_counts_are_written_by_group(tmp_path):
    groups = Groups(read_meta(table(tmp_path)))
    for name, is_defective in (("a.png", True), ("d.png", False), ("e.png", True)):
        groups.add(name, is_defective)
    groups.skip("b/c.png")
    groups.save(tmp_path)
    with (tmp_path / "groups.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["station", "period", "images", "defective", "share", "left_out"],
        ["", "", "1", "1", "1", "0"],
        ["cam1", "", "1", "0", "0", "0"],
        ["cam1", "2026-11-28", "1", "1", "1", "0"],
        ["cam2", "2026-11-28", "0", "0", "", "1"],
    ]
    stored = json.loads((tmp_path / "groups.json").read_text())
    assert stored["by"] == "day"
    assert [row["images"] for row in stored["groups"]] == [1, 1, 1, 0]
    assert groups.notes(["a.png", "e.png"]) == [
        "note: 1 images have no time and station: e.png",
        "note: 2 rows of --meta have no image: b/c.png, d.png",
    ]
