"""Times, schedules and comparisons from synthetic readings, and their pages and tables."""

import copy

import pytest

from vtadl_jax.compiling import comparing, figures, page, scaling, sections, wording, writing
from vtadl_jax.compiling.chips import CHIPS, chip_of
from vtadl_jax.compiling.figures import change
from vtadl_jax.compiling.reading import _memory_asked
from vtadl_jax.errors import UserError


def test_times_follow_from_the_chips_peaks(reading):
    found = figures.figures(reading)
    assert found.roofline == pytest.approx(0.01)
    assert found.intensity == pytest.approx(1.97e12 / 8.19e9)
    assert found.compute == pytest.approx(6360 / 1.5e9)
    wire = reading["collective_totals"]["wire_bytes"]
    assert found.links == pytest.approx(wire / 200e9)
    assert found.images_per_second == pytest.approx(32 / found.call)


def test_a_schedule_counts_as_training_does(reading):
    found = figures.schedule(reading, 209)
    assert found.calls == 400 * 209 // 32
    assert found.seconds == pytest.approx(found.calls * figures.figures(reading).call)
    assert found.epochs == 400
    reading["program"]["fields"]["num_train_steps"] = 7
    found = figures.schedule(reading, 209)
    assert (found.calls, found.epochs) == (7, 1.1)  # 7 batches of 32 out of 209 images


def test_an_unknown_chip_leaves_times_out(reading):
    reading["program"]["chip"] = None
    found = figures.figures(reading)
    assert found.roofline is None
    assert found.call is None
    text = writing.terminal("t", "s", sections.sections(reading, 209))
    assert "roofline" not in text


def test_every_format_of_a_report_has_the_same_numbers(reading):
    tables = sections.sections(reading, 209)
    texts = [
        writing.terminal(sections.title(reading), sections.subtitle(reading), tables),
        writing.markdown(sections.title(reading), sections.subtitle(reading), tables),
        page.reading_page("t", "s", reading, tables, 209),
    ]
    for text in texts:
        for told in ("6,360", "encoder/blocks/qkv", "networks/vit.py:93", "all-gather"):
            assert told in text
    assert "<script" not in texts[2]
    assert "http" not in texts[2].replace("http-equiv", "")


def test_the_page_escapes_what_it_is_given(reading):
    html = page.page("<b>", "a & b", [page.settings(reading)])
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html


def test_a_program_that_does_not_fit_says_by_how_much():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    )
    assert _memory_asked(message) == {"needed": 20.5 * 2**30, "limit": 15.75 * 2**30}
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (21.39G) exceeds available HBM (15.75G)."
    )
    assert _memory_asked(message) == {"needed": round(21.39 * 2**30), "limit": 15.75 * 2**30}
    assert _memory_asked("INTERNAL: something else") is None


def test_comparisons_name_settings_and_modules(reading):
    other = copy.deepcopy(reading)
    other["program"]["fields"]["dtype"] = "float32"
    other["cycles"]["total"] = 2 * reading["cycles"]["total"]
    other["modules"]["encoder"] = {"forward": 900, "backward": 0}
    tables = comparing.comparison(reading, other)
    settings, totals, modules = tables[0].rows, tables[1].rows, tables[2].rows
    assert settings == [["config.dtype", "bfloat16", "float32"]]
    assert totals[0] == ["estimated cycles", "6,360", "12,720", "+100.0 %"]
    assert modules[0] == ["encoder", "300", "900", "+600"]
    same = comparing.comparison(reading, copy.deepcopy(reading))
    assert same[0].rows == []
    assert "nothing" in same[0].note


def test_comparisons_match_instructions_by_their_origin(reading):
    other = copy.deepcopy(reading)
    other["instructions"][0]["name"] = "renumbered.7"  # as another compiler names it
    found = {t.title: t for t in comparing.comparison(reading, other)}["Fusions"]
    assert found.rows == []
    (loop,) = [one for one in other["instructions"] if one["name"] == "fusion.1"]
    loop["cycles"] = 1500
    found = {t.title: t for t in comparing.comparison(reading, other)}["Fusions"]
    (row,) = found.rows
    assert row[0] == "encoder/blocks/qkv (backward)"
    assert row[3:] == ["6,000", "9,000", "+3,000"]
    assert "1 of 1 that differ" in found.note


def test_comparisons_without_estimates_count_fusions(reading):
    other = copy.deepcopy(reading)
    for one in (reading, other):
        one["modules"] = {}
    other["instructions"] = [i for i in other["instructions"] if i["name"] != "fusion.1"]
    found = {t.title: t for t in comparing.comparison(reading, other)}["Fusions"]
    assert [row[-1] for row in found.rows] == ["-6"]
    assert found.note.startswith("Executions of fusions")


def test_time_between_slices_is_part_of_a_call(reading):
    alone = figures.figures(reading)
    assert alone.slices == 0
    reading["between_slices"] = {
        "instructions": 1, "executed": 2, "bytes": 2**20, "wire_bytes": 2**20,
    }  # fmt: skip
    found = figures.figures(reading)
    assert found.slices == pytest.approx(2**20 / 3.125e9)
    assert found.call == pytest.approx(alone.call + found.slices)
    rows = {row[0]: row for row in sections.sections(reading, 209)[0].rows}
    assert rows["time between slices"][2] == "1.0 MiB in 2 transfers at 3.12 GB/s"
    reading["program"]["chip"]["dcn_bandwidth"] = None
    assert figures.figures(reading).call == pytest.approx(alone.call)
    rows = {row[0]: row for row in sections.sections(reading, 209)[0].rows}
    assert "not documented" in rows["time between slices"][2]


def test_comparisons_leave_out_fields_that_no_program_depends_on(reading):
    other = copy.deepcopy(reading)
    other["program"]["fields"] |= {"data.root": "there", "eval.map_sigma": 2.0, "model.x": 1}
    found = comparing.comparison(reading, other)[0].rows
    assert found == [["config.model.x", "None", "1"]]
    for one in (reading, other):
        one["program"]["step"] = "eval"  # which smooths maps
    found = comparing.comparison(reading, other)[0].rows
    assert found == [["config.eval.map_sigma", "None", "2.0"], ["config.model.x", "None", "1"]]


def test_scaling_tables_grow_from_the_first_that_fits(reading):
    larger = copy.deepcopy(reading)
    larger["cycles"]["total"] = 6996
    too_large = {"program": reading["program"], "fits": False, "memory": {"needed": 2**35}}
    tables = scaling.sections({"weak": [too_large, reading, larger], "strong": []}, 209)
    rows = tables[0].rows
    assert rows[0][3] == "needs 32.00 GiB"
    assert rows[1][4] == "+0.0 %"
    assert rows[2][4] == "+10.0 %"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("v5e:1x1,2x2", ["v5e:1x1", "v5e:2x2"]),
        ("v5p:2x2x1,v6e:2x2,4x4", ["v5p:2x2x1", "v6e:2x2", "v6e:4x4"]),
    ],
)
def test_a_sweep_names_its_chip_once(text, names):
    assert scaling.topologies(text) == names


def test_a_sweep_must_name_a_chip():
    with pytest.raises(UserError, match="begin with a chip"):
        scaling.topologies("2x2,4x4")


def test_changes_need_a_value_before():
    assert change(0, 4) is None
    assert change(None, 4) is None
    assert change(4, 5) == 0.25


def test_peaks_agree_with_the_clock_and_each_other():
    for name, chip in CHIPS.items():
        assert chip_of(chip.device_kind) is chip
        units = {"v4": 4, "v5e": 4, "v5p": 8, "v6e": 16, "tpu7x": 16}[
            name
        ]  # 128² matrix units of a device
        assert chip.bf16_flops / (units * 2 * 128**2) == pytest.approx(chip.clock, rel=0.01)
    assert chip_of("cpu") is None


def test_numbers_are_formatted():
    assert wording.si(12_345_678, digits=4) == "12.35 M"
    assert wording.mib(3 * 2**20) == "3.0 MiB"
    assert wording.duration(0.0123) == "12.3 ms"
    assert wording.duration(95.0) == "95 s"
    assert wording.duration(605.0) == "10 min 05 s"
    assert wording.percent(-0.0123, signed=True) == "-1.2 %"
