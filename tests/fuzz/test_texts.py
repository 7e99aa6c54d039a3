"""File names of any characters, and texts as values on the command line."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import answers, quick
from vtadl_jax.experiment import base, load
from vtadl_jax.options import fields_of
from vtadl_jax.report.names import LONGEST, cell, file_names, flat_name, png_name

CHARACTERS = st.characters(exclude_characters="/\0") | st.sampled_from("=+-@;.\\ \t\r\nä")
PARTS = st.text(CHARACTERS, min_size=1, max_size=12) | st.sampled_from(("a" * 300, "con", ".. "))
NAMES = st.lists(
    st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6, unique=True
)
CONFIG = "configs/position_gaussian.py"
FIELDS = [
    name for name, _, _ in fields_of(load(CONFIG)[0]) if name not in ("data.root", "init_from")
]
TEXTS = st.text(max_size=12) | st.sampled_from(
    ("", "-1", "0", "1e999", "nan", "(1,2", "[]", "None", "true", "1,2,3", "9" * 30, "'", "0x10")
)


@pytest.mark.fuzz
@pytest.mark.parametrize("name_of", [flat_name, png_name])
def test_every_name_has_a_file_of_its_own_inside_the_folder(name_of):
    @quick(300)
    @given(NAMES)
    def check(names):
        files = file_names(names, name_of)
        assert len({file.casefold() for file in files}) == len(names)
        for file in files:
            path = PurePosixPath(file)
            assert not path.is_absolute()
            assert ".." not in path.parts
            assert all(len(part.encode()) < LONGEST + 30 for part in path.parts)

    check()


@pytest.mark.fuzz
def test_no_name_is_a_formula_or_ends_a_line():
    @quick(300)
    @given(st.text(CHARACTERS, max_size=20))
    def check(name):
        shown = cell(name)
        shown.encode()
        assert shown.isprintable()
        assert not shown.startswith(("=", "+", "-", "@"))

    check()


@pytest.mark.fuzz
def test_any_text_as_a_value_is_taken_or_refused_by_the_fields_name():
    @quick(200)
    @given(st.sampled_from(FIELDS), TEXTS)
    def check(field, text):
        with answers(field.rpartition(".")[2]):
            config, _ = load(CONFIG, [f"--config.{field}={text}"])
            assert base(config.detector)

    check()
