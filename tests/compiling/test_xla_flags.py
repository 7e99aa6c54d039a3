"""Flags of the compiler: their text, what XLA says of unknown ones, and the greedy search."""

import copy

import pytest

from vtadl_jax.compiling import flag_search, writing, xla_flags
from vtadl_jax.compiling.reading import began
from vtadl_jax.compiling.topology import LOCAL, find_target
from vtadl_jax.compiling.xla_flags import Candidate
from vtadl_jax.errors import UserError


@pytest.fixture(scope="module")
def local():
    return find_target(LOCAL)


def test_values_are_read_as_xla_takes_them():
    given = ["--xla_a=true", "xla_b=False", "xla_c=3", "xla_d=0.5", "xla_e=AUTO", "xla_f="]
    assert xla_flags.parse(given) == {
        "xla_a": True, "xla_b": False, "xla_c": 3, "xla_d": 0.5, "xla_e": "AUTO", "xla_f": "",
    }  # fmt: skip
    assert xla_flags.written({"xla_a": True, "xla_c": 3}) == "xla_a=true xla_c=3"
    assert xla_flags.written({}) == "none"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["xla_a"], r"--xla 'xla_a': give NAME=VALUE"),
        (["=1"], r"--xla '=1': give NAME=VALUE"),
        (["xla_a=1", "xla_a=2"], r"--xla xla_a is given as 1 and 2"),
    ],
)
def test_texts_that_are_no_flags_are_rejected(texts, message):
    with pytest.raises(UserError, match=message):
        xla_flags.parse(texts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"xla_nope": 1}, "--xla xla_nope=1 on local: No such compile option: 'xla_nope'"),
        (
            {"xla_cpu_enable_fast_math": "maybe"},
            "xla_cpu_enable_fast_math, 'maybe' is not a valid bool value",
        ),
    ],
)
def test_an_unknown_flag_is_told_in_xlas_words(local, flags, message):
    with pytest.raises(UserError, match=message) as raised:
        xla_flags.check(local, flags)
    assert "\n" not in str(raised.value)
    assert not xla_flags.is_known(local, flags)


def test_known_flags_pass(local):
    xla_flags.check(local, {})
    xla_flags.check(local, {"xla_cpu_enable_fast_math": True})
    assert "xla_cpu_enable_fast_math" in xla_flags.taken(local)


@pytest.mark.parametrize("table", [xla_flags.TPU, xla_flags.CPU])
def test_every_candidate_says_what_it_does_and_where_it_is_documented(table):
    assert len({candidate.text for candidate in table}) == len(table)
    for candidate in table:
        assert candidate.what
        assert candidate.source


def test_the_line_for_a_run_names_the_variable(local):
    flags = {"xla_a": True, "xla_b": 3}
    assert xla_flags.launch_lines(local, flags) == 'export XLA_FLAGS="--xla_a=true --xla_b=3"'
    assert xla_flags.launch_lines(local, {}) == ""


A, B, C, B2 = (
    Candidate({"a": True}, "saves a fifth", "s"),
    Candidate({"b": 1}, "saves a tenth", "s"),
    Candidate({"c": True}, "costs", "s"),
    Candidate({"b": 2}, "saves a twentieth", "s"),
)
FACTORS = {"a": {True: 0.8}, "b": {1: 0.9, 2: 0.95}, "c": {True: 1.5}}


def reader(reading, refused=(), large=()):
    """Returns a function flags → reading whose cycles are the product of FACTORS."""
    asked = []

    def read(flags):
        asked.append(dict(flags))
        if any(name in flags for name in refused):
            raise UserError("--xla: the compiler fails")
        found = copy.deepcopy(reading)
        for name, value in flags.items():
            factor = FACTORS.get(name, {}).get(value, 1.0)
            found["cycles"]["total"] = round(found["cycles"]["total"] * factor)
        if any(name in flags for name in large):
            found.update(fits=False, memory={"needed": 2**40})
        return found

    return read, asked


def test_the_search_joins_the_flags_that_help(reading):
    reading["collective_totals"]["wire_bytes"] = 0
    read, asked = reader(reading)
    found = flag_search.search(read, {}, [C, B, B2, A], "cycles", lambda _: None)
    assert found.best.flags == {"a": True, "b": 1}
    assert asked == [{}, {"c": True}, {"b": 1}, {"b": 2}, {"a": True}, {"a": True, "b": 1}]
    target = find_target(LOCAL)
    tables = flag_search.sections(found, target, "cycles", [C])
    marked = [row for row in tables[0].rows if row[0].endswith(" *")]
    assert [row[0] for row in marked] == ["a=true b=1 *"]
    assert marked[0][4] == "-28.0 %"
    assert "Not known to this compiler: c=true" in tables[0].note
    assert 'export XLA_FLAGS="--a=true --b=1"' in tables[1].note
    assert 'export XLA_FLAGS="--a=true --b=1"' in writing.terminal("t", "s", tables)
    data = flag_search.as_data(found)
    assert [one["best"] for one in data] == [False] * 5 + [True]
    assert "instructions" not in data[0]["reading"]


def test_flags_given_at_the_start_stay(reading):
    read, asked = reader(reading)
    found = flag_search.search(read, {"z": 1}, [A], "cycles", lambda _: None)
    assert found.best.flags == {"z": 1, "a": True}
    assert asked[0] == {"z": 1}


def test_refused_and_too_large_ones_are_told_and_not_chosen(reading):
    read, _ = reader(reading, refused=["a"], large=["b"])
    found = flag_search.search(read, {}, [A, B, C], "cycles", lambda _: None)
    assert found.best.flags == {}
    tables = flag_search.sections(found, find_target(LOCAL), "cycles", [])
    assert [row[2] for row in tables[0].rows][1:3] == ["refused", "does not fit"]
    assert "Refused: --xla: the compiler fails." in tables[0].note
    assert "nothing to set" in tables[1].note


def test_a_compiler_without_estimates_is_searched_for_memory(reading):
    reading["cycles"] = {"total": None, "once": None, "without_estimate": 0}
    read, _ = reader({**reading, "cycles": {"total": 0}, "program": {**reading["program"]}})
    plain = {**reading}
    with pytest.raises(UserError, match="use --search_flags memory"):
        flag_search.search(lambda _: plain, {}, [A], "cycles", lambda _: None)
    found = flag_search.search(read, {}, [A], "memory", lambda _: None)
    assert found.best.flags == {}  # the same memory with every flag


def test_a_program_that_ended_the_process_is_not_compiled_again(tmp_path):
    stored = tmp_path / "key.json"
    with began(stored):
        assert stored.with_suffix(".began").is_file()
    assert not stored.with_suffix(".began").exists()
    stored.with_suffix(".began").touch()  # as a process leaves it that was ended
    with pytest.raises(UserError, match="an earlier process ended"), began(stored):
        pass
    with began(None):
        pass
