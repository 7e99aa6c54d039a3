"""The table of methods agrees with the detectors, the configs, the figures and the docs."""

import json
from pathlib import Path

import pytest

from tests.cli import run_main
from vtadl_jax import methods
from vtadl_jax.detectors import DETECTORS
from vtadl_jax.detectors.descriptions import (
    DESCRIPTIONS,
    default_description,
    descriptions,
    page_of,
)
from vtadl_jax.experiment import load, make_detector
from vtadl_jax.runtime.text_table import WIDTH

DOCS = Path(__file__).resolve().parents[1] / "docs"
ALL_FIGURES = [figures for row in DESCRIPTIONS.values() for figures in row.figures]


def test_every_detector_is_described_and_every_row_has_a_detector():
    assert descriptions().keys() == DETECTORS.keys()
    assert DESCRIPTIONS.keys() <= DETECTORS.keys()


def test_a_detector_without_a_row_is_described_by_its_file():
    found = default_description("patch_memory")
    assert found.what.startswith("A memory bank of patch features")
    assert found.config == "configs/patch_memory.py"


@pytest.mark.parametrize("name", DETECTORS)
def test_the_config_to_start_with_uses_the_detector(name):
    config, _ = load(descriptions()[name].config)
    assert config.detector == name
    assert methods.facts_of(name).terms == make_detector(config).score_terms


@pytest.mark.parametrize("figures", ALL_FIGURES, ids=lambda figures: figures.command.split()[0])
def test_figures_are_measured_ones(figures):
    config, *overrides = figures.command.split()
    load(config, overrides)
    values = [figures.image_auroc, figures.pixel_auroc, figures.aupro]
    shown = [f"{value:.3f}" for value in values if value is not None]
    shown += [str(figures.seconds)] if figures.seconds is not None else []
    rows = [line for page in DOCS.rglob("*.md") for line in page.read_text("utf-8").splitlines()]
    assert any(line.startswith("|") and all(text in line for text in shown) for line in rows)


def test_what_a_method_is_trained_on_comes_from_the_detector():
    assert methods.facts_of("unet").trained_on == "good and defective images with masks"
    assert methods.facts_of("unet").training == "steps"
    assert methods.facts_of("context_mdn").trained_on == "good images"
    assert methods.facts_of("context_mdn").training == "one pass, then steps"
    assert methods.facts_of("patch_memory").training == "one pass, no steps"
    assert "efficientnet_lite0" in methods.facts_of("patch_memory").networks
    assert methods.facts_of("patch_memory").weights == "of frozen networks"
    assert methods.facts_of("position_gaussian").weights == "of frozen networks"
    assert methods.facts_of("image_mixture").weights == "none"
    assert methods.facts_of("vtadl").weights == "optional"


def test_the_listing_fits_a_terminal_and_names_every_method(capsys):
    done = run_main(capsys, "vtadl_jax.methods")
    assert done.returncode == 0
    assert all(len(line) <= WIDTH for line in done.stdout.splitlines())
    for name, row in descriptions().items():
        assert f"\n{name}\n" in f"\n{done.stdout}"
        assert row.config in done.stdout
        assert page_of(name) in done.stdout
    assert "patch_memory       -" in done.stdout  # not measured


def test_details_list_the_options(capsys):
    done = run_main(capsys, "vtadl_jax.methods", "--method=patch_memory")
    assert "--config.model.memory.size=2000  patches in the bank; 1 or more" in done.stdout
    assert "configs/patch_memory.py --config.data.root=DIR" in done.stdout
    wrong = run_main(capsys, "vtadl_jax.methods", "--method=patch_memry")
    assert wrong.returncode == 2
    assert "did you mean patch_memory?" in wrong.stderr


def test_json_holds_everything(capsys):
    found = json.loads(run_main(capsys, "vtadl_jax.methods", "--json").stdout)
    assert [row["method"] for row in found] == list(descriptions())
    best = next(row for row in found if row["method"] == "context_mdn")
    assert best["figures"][0]["aupro"] == 0.945
    one = json.loads(run_main(capsys, "vtadl_jax.methods", "--json", "--method=unet").stdout)
    assert [row["method"] for row in one] == ["unet"]


def test_the_docs_hold_the_command_s_table():
    index = DOCS / "methods" / "index.md"
    if not index.is_file():
        pytest.skip("docs/methods/index.md is not written yet")
    _, _, rest = index.read_text(encoding="utf-8").partition(methods.BEGIN)
    table, found, _ = rest.partition(methods.END)
    assert found, f"{index} has no lines {methods.BEGIN} and {methods.END}"
    assert table.strip() == methods.markdown(), "python -m vtadl_jax.methods --markdown"
