"""The table of all methods: its order, what it says of those that are refused, what is cached."""

import copy

import jax
import pytest

from vtadl_jax.compiling import every_method
from vtadl_jax.detectors.descriptions import descriptions
from vtadl_jax.errors import UserError


def test_all_methods_are_those_that_are_described():
    assert every_method.chosen("all") == list(descriptions())
    assert every_method.chosen("unet, vtadl,unet") == ["unet", "vtadl"]
    with pytest.raises(UserError, match="detector 'unett': did you mean unet"):
        every_method.chosen("unett")


@pytest.fixture
def study(monkeypatch, reading, tmp_path):
    """A function (methods, …) → (rows, [(config, step, images), …]) with synthetic readings."""
    calls = []

    def read(config, name, target, step, images=0, cache=None, xla=None):
        calls.append((config.detector, step, images))
        if config.detector == "spade":
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such operation\nmore")
        found = copy.deepcopy(reading)
        found["program"]["images_per_device"] = images or 8
        found["seconds"]["compile"] = 90.0 if config.detector == "capsnet" else 3.0
        found["memory"]["needed"] = 2**30 * found["program"]["images_per_device"]
        found["fits"] = found["memory"]["needed"] <= 16 * 2**30
        return found

    monkeypatch.setattr(every_method, "read_step", read)

    def run(methods, **more):
        said = []
        options = {"cache": tmp_path, "largest": False, **more}
        rows = every_method.study(methods, ["local"], [], progress=said.append, **options)
        return rows, calls, said

    return run


def test_the_cheapest_are_compiled_first_and_shown_by_method(study):
    rows, calls, said = study(["capsnet", "position_gaussian"])
    assert calls == [
        ("capsnet", "predict", 0),
        ("position_gaussian", "predict", 0),
        ("position_gaussian", "eval", 0),  # compiled faster before
        ("capsnet", "eval", 0),
        ("capsnet", "train", 0),
    ]
    assert [(row["method"], row["step"]) for row in rows] == [
        (name, step) for name in ("capsnet", "position_gaussian") for step in every_method.SHOWN
    ]
    assert said[0] == "1 of 6: capsnet, predict on local"
    (table,) = every_method.sections(rows)
    assert len(table.rows) == 6
    assert "2 methods, 1 of them with train steps" in table.note
    assert "position_gaussian, train: no steps: it is fitted in one pass." in table.note
    data = every_method.as_data(rows)
    assert "instructions" not in data[0]["reading"]


def test_one_step_can_be_chosen(study):
    rows, calls, _ = study(["capsnet", "position_gaussian"], steps=("predict",))
    assert [step for _, step, _ in calls] == ["predict", "predict"]
    (table,) = every_method.sections(rows)
    assert table.note.startswith("2 methods. Cycles")


def test_what_the_compiler_refuses_has_a_row(study):
    rows, _, _ = study(["spade", "capsnet"])
    (table,) = every_method.sections(rows)
    assert table.rows[1][3:] == ["–"] * 9
    assert "spade, eval: refused by the compiler: UNIMPLEMENTED: no such operation." in table.note
    assert table.rows[3][4] == "6,360"


def test_largest_batches_are_unknown_where_the_memory_is(study):
    rows, calls, said = study(["capsnet"], largest=True)
    assert rows[0]["largest"] is None
    assert len(calls) == 3
    assert any("memory size of these devices is unknown" in line for line in said)
