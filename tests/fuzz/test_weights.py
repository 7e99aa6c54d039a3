"""Files of weights with random damage."""

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import answers, bounded_memory, damaged, quick
from tests.weights import torch_format
from vtadl_jax.weights.files import read_arrays

ARRAYS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float32)}
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.integers(0, 100), st.floats(), st.none())
HEADERS = st.dictionaries(
    st.sampled_from(("a", "b", "__metadata__", "")),
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(("F32", "F64", "BF16", "I8", "BOOL", "X", 3)),
            "shape": st.lists(NUMBERS, max_size=3),
            "data_offsets": st.lists(NUMBERS, max_size=3),
        },
    ),
    max_size=3,
)


def npz(**options) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if options else np.savez)(stream, **ARRAYS)
    return stream.getvalue()


def safetensors(header) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


SOUND_HEADER = {"a": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}


def check_reads(path, content):
    path.write_bytes(content)
    with answers(path.name):
        found = read_arrays(path)
        assert sum(array.nbytes for array in found.values()) < 1e6


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["weights.npz", "weights.pt", "legacy.pt", "weights.safetensors"])
def test_damaged_weights_are_read_or_named(name, tmp_path):
    if name == "weights.npz":
        sound = (npz(), npz(compressed=True))
    elif name == "weights.safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
        sound = (safetensors(SOUND_HEADER),)
    else:
        written = torch_format.write(tmp_path / "sound.pt", ARRAYS, legacy=name == "legacy.pt")
        sound = (written.read_bytes(),)

    @quick(200)
    @given(damaged(sound))
    def check(content):
        check_reads(tmp_path / name, content)

    with bounded_memory():
        check()


@pytest.mark.fuzz
def test_headers_of_safetensors_that_lie_are_named(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")

    @quick(200)
    @given(HEADERS)
    def check(header):
        check_reads(tmp_path / "weights.safetensors", safetensors(header))

    with bounded_memory():
        check()
