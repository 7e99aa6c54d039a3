"""The history of updates, and the way back: what is stored, what is refused, exact copies."""

import json

import pytest

from tests.factory import tiny_config
from vtadl_jax.errors import UserError
from vtadl_jax.training.going_back import go_back, images_after
from vtadl_jax.training.known_images import save_marks
from vtadl_jax.training.stored import save_config
from vtadl_jax.training.updates import UPDATES, first_steps_of, load_updates, record_update, rows_of

IMAGES = [{"a": "1", "b": "2"}, {"a": "1", "b": "2", "more/0/c": "3"}, {"a": "1", "more/0/c": "9"}]


def fake_run(folder, train, step=4):
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "checkpoints" / str(step) / "weights").write_bytes(folder.name.encode())
    (folder / ".lock").write_text("1")
    save_config(tiny_config(), folder / "config.json")
    save_marks(folder, {"train": train, "test": {}})
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three runs: the second adds an image, the third removes one and has another in its place."""
    found = [fake_run(tmp_path / f"run{i}", train) for i, train in enumerate(IMAGES)]
    for number in (1, 2):
        marks = {"train": IMAGES[number], "test": {}}
        record_update(found[number - 1], found[number], marks, 100 * number, 1000, "how")
    return found


def test_each_update_is_an_entry(runs):
    assert load_updates(runs[0]) == []
    first, second = load_updates(runs[2])
    assert (first.added, first.removed) == ({"more/0/c": "3"}, {})
    assert (second.added, second.removed) == ({"more/0/c": "9"}, {"b": "2", "more/0/c": "3"})
    assert [each.steps for each in (first, second)] == [100, 200]
    assert first.when <= second.when
    assert second.source == str(runs[1])
    rows = rows_of([first, second])
    assert [row[2:5] for row in rows] == [["1", "0", "3"], ["1", "2", "2"]]
    assert rows[1][5:] == ["200 steps, how", "run1", "run2"]


def test_an_update_that_continues_keeps_its_entry(runs):
    before = (runs[2] / UPDATES).read_text()
    record_update(runs[1], runs[2], {"train": IMAGES[2], "test": {}}, 7, 7)
    assert (runs[2] / UPDATES).read_text() == before


def test_the_images_of_every_time_follow_from_the_history(runs):
    updates = load_updates(runs[2])
    assert [images_after(runs[2], updates, i) for i in range(3)] == IMAGES


@pytest.mark.parametrize("number", [0, 1, 2])
def test_going_back_is_an_exact_copy(runs, tmp_path, number):
    out = tmp_path / "back"
    assert f"of {len(IMAGES[number])} images" in go_back(runs[2], number, out)
    there = {p.relative_to(runs[number]) for p in runs[number].rglob("*") if p.name != ".lock"}
    assert {p.relative_to(out) for p in out.rglob("*")} == there
    for path in there:
        if (out / path).is_file():
            assert (out / path).read_bytes() == (runs[number] / path).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "run0", "run1", "run2"]


def test_what_can_not_be_gone_back_to_is_refused(runs, tmp_path):
    out = tmp_path / "back"
    with pytest.raises(UserError, match="has 2 updates: see them with --history"):
        go_back(runs[2], 3, out)
    with pytest.raises(UserError, match="has 0 updates"):
        go_back(runs[0], 0, out)
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        go_back(runs[2], 1, runs[0])
    save_marks(runs[1], {"train": IMAGES[0], "test": {}})
    with pytest.raises(UserError, match="holds a run of other images"):
        go_back(runs[2], 1, out)
    (runs[0] / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is gone: update .* with --remove"):
        go_back(runs[2], 0, out)
    assert not out.exists()


@pytest.mark.parametrize("text", ["{", "{}", '{"updates": [{"when": 1}]}', '{"updates": [3]}'])
def test_a_damaged_history_is_named(runs, text):
    (runs[2] / UPDATES).write_text(text)
    with pytest.raises(UserError, match=r"updates.json can't be read"):
        load_updates(runs[2])


def test_later_fields_are_passed_over(runs):
    stored = json.loads((runs[1] / UPDATES).read_text())
    stored["updates"][0]["color"] = "blue"
    (runs[1] / UPDATES).write_text(json.dumps(stored))
    assert len(load_updates(runs[1])) == 1


def test_the_steps_that_count_are_those_of_the_first_run(runs, tmp_path, capsys):
    config = tiny_config(start_from=str(runs[1]))
    assert first_steps_of(runs[2], config, 3) == 1000  # of the history
    for run in runs:
        (run / UPDATES).unlink(missing_ok=True)
    save_config(tiny_config(start_from=str(runs[0])), runs[1] / "config.json")
    (runs[0] / "checkpoints" / "50").mkdir()
    assert first_steps_of(runs[2], config, 3) == 50  # along start_from
    gone = tiny_config(start_from=str(tmp_path / "gone"))
    assert first_steps_of(runs[2], gone, 3) == 3
    assert "is gone" in "".join(capsys.readouterr())
