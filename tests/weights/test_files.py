"""Arrays in files: what is written is read, whatever its memory looks like."""

import numpy as np
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.weights.files import read_arrays, read_files, write_arrays


def test_transposed_arrays_are_written_by_their_values(tmp_path):
    pytest.importorskip("safetensors")
    path, array = tmp_path / "a.safetensors", np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_arrays(path, {"a": array, "count": np.array(3)})
    found = read_arrays(path)
    np.testing.assert_array_equal(found["a"], array)
    assert found["count"].shape == ()


def test_several_files_are_read_as_one(tmp_path):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", **{name: np.ones(2)})
    np.savez(tmp_path / "a,b.npz", c=np.ones(1))
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    assert read_files(f"{first}, {second}").keys() == {"a", "b"}
    assert read_files(str(tmp_path / "a,b.npz")).keys() == {"c"}  # a comma in a name
    with pytest.raises(UserError, match=r"a is in another of the files|a \(of 1 names\)"):
        read_files(f"{first},{first}")
    with pytest.raises(UserError, match="no such file"):
        read_files(f"{first},{tmp_path / 'none.npz'}")
