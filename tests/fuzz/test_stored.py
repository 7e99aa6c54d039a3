"""Config values and the files of a workdir, drawn at random."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import tiny_config
from tests.fuzz.damage import answers, damaged, quick
from vtadl_jax.detectors import DETECTORS
from vtadl_jax.evaluation.calibration import Calibration, calibrate
from vtadl_jax.evaluation.results import Results
from vtadl_jax.experiment import base, make_detector, parse
from vtadl_jax.options import fields_of
from vtadl_jax.training.stored import CONFIG, load_config

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**66), 2**66),
    st.integers(-2, 4),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 9), st.floats(), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def values_of(draw, detector: str):
    """(config as a dict with one field replaced, name of the field)."""
    config = tiny_config(detector=detector)
    name, _, _ = draw(st.sampled_from(list(fields_of(config))))
    values = json.loads(json.dumps(config.to_dict()))
    *groups, field = name.split(".")
    inside = values
    for group in groups:
        inside = inside[group]
    inside[field] = draw(VALUES)
    return values, name


@pytest.mark.fuzz
@pytest.mark.parametrize("detector", [name for name in sorted(DETECTORS) if name != "official"])
def test_a_config_of_any_value_is_taken_or_refused_by_the_fields_name(detector):
    @quick(100)
    @given(values_of(detector))
    def check(drawn):
        values, name = drawn
        with answers(name.rpartition(".")[2]):
            config = parse(values)
            for field, value, role in fields_of(config):
                assert role.allows(value), field
            sizes = [*config.image_size, config.data.channels or 3]
            if math.prod(sizes) < 1e6 and name.startswith("model"):
                with answers("model"):
                    make_detector(config)

    check()


@pytest.mark.fuzz
def test_a_damaged_config_file_is_read_or_named(tmp_path):
    sound = json.dumps(base("position_gaussian").to_dict(), indent=1).encode()

    @quick(300)
    @given(st.one_of(damaged((sound,)), st.recursive(VALUES, st.lists).map(dumped)))
    def check(content):
        (tmp_path / CONFIG).write_bytes(content)
        with answers(CONFIG):
            load_config(tmp_path)

    check()


def dumped(value) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", [Calibration.load, Results.load])
def test_damaged_numbers_are_read_or_named(reader, tmp_path):
    stored = calibrate("ab", [[0.0, 1.0], [1.0, 3.0]], None, weights=(1, 1)).to_dict()
    path = tmp_path / "numbers.json"
    fields = st.sampled_from(sorted(stored))

    @quick(200)
    @given(st.one_of(damaged((dumped(stored),)), st.tuples(fields, VALUES)))
    def check(drawn):
        content = drawn if isinstance(drawn, bytes) else dumped(stored | {drawn[0]: drawn[1]})
        path.write_bytes(content)
        with answers(path.name):
            found = reader(path)
            if isinstance(found, Calibration):
                assert math.isfinite(found.image_threshold)
                assert all(math.isfinite(x) and x > 0 for x in found.spread)

    check()
