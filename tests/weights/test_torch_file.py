"""PyTorch's files: their values, and no execution of code in malicious files."""

import collections
import io
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.weights import torch_format as form
from vtadl_jax.errors import UserError
from vtadl_jax.weights.files import check_writable, read_arrays, write_arrays

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([0.5, -1.0]),
    "count": np.array(7),
}
ORDERED_DICT = form.Global("collections", "OrderedDict")


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@FORMATS
def test_arrays_come_back(tmp_path, legacy):
    assert_equal(read_arrays(form.write(tmp_path / "a.pt", ARRAYS, legacy)), ARRAYS)


@FORMATS
@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda tensors: {"epoch": 3, "state_dict": tensors, "optimizer": {"lr": 0.1}}, ""),
        (lambda tensors: {"model": tensors}, "module."),
        (lambda tensors: tensors, "module."),
        (lambda tensors: form.Call(ORDERED_DICT, (list(tensors.items()),)), ""),
    ],
)  # fmt: skip
def test_a_state_dict_is_found_in_a_checkpoint(tmp_path, legacy, wrap, prefix):
    tensors = form.structure_of({prefix + name: a for name, a in ARRAYS.items()}, legacy)
    write = form.write_legacy if legacy else form.write_zip
    assert_equal(read_arrays(write(tmp_path / "a.pt", wrap(tensors), ARRAYS)), ARRAYS)


def test_views_of_one_storage_are_read(tmp_path):
    flat = {"flat": np.arange(12, dtype=np.float32)}
    storage = form.Storage("0", "FloatStorage", 12, False)
    structure = {
        "turned": form.tensor(storage, flat["flat"], shape=(4, 2), strides=(1, 4), offset=1),
        "all": form.tensor(storage, flat["flat"]),
    }
    got = read_arrays(form.write_zip(tmp_path / "a.pt", structure, flat))
    np.testing.assert_array_equal(got["turned"], np.arange(12.0).reshape(3, 4).T[:, :2] + 1)
    np.testing.assert_array_equal(got["all"], flat["flat"])
    assert np.shares_memory(got["all"], got["turned"])
    with pytest.raises(ValueError, match="read-only"):
        got["all"][:] = 0


def test_many_names_of_one_storage_do_not_unpack_to_more_than_the_file(tmp_path):
    values = np.zeros(1000, np.float32)
    storage = form.Storage("0", "FloatStorage", 1000, False)
    structure = {f"layer{i}": form.tensor(storage, values) for i in range(9)}
    path = form.write_zip(tmp_path / "a.pt", structure, {"0": values})
    with pytest.raises(UserError, match=r"a\.pt is not read: .* share 4000 bytes .* to 36000"):
        read_arrays(path)


def test_a_number_that_makes_room_for_gigabytes_is_rejected(tmp_path):
    structure = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", structure)
    with pytest.raises(UserError, match="under numbers without need"):
        read_arrays(path)


def description(text):
    """The start of a .npy file with this description."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def spoilt_npz(kind, path):
    """Writes a damaged or hostile .npz."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == "promise":
            text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"
            archive.writestr("kernel.npy", description(text) + bytes(64))
        elif kind == "bomb":
            count = 2**26
            text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({5 * count},)}}"
            with archive.open("kernel.npy", "w") as member:
                member.write(description(text))
                for _ in range(5):
                    member.write(bytes(count))
        else:
            stream = io.BytesIO()
            np.save(stream, np.random.default_rng(0).normal(size=500))
            archive.writestr("kernel.npy", stream.getvalue())
    content = bytearray(path.read_bytes())
    central = content.find(b"PK\x01\x02")
    if kind == "values":
        content[200:210] = b"\xff" * 10
    elif kind == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    elif kind == "packing":
        content[8] = content[central + 10] = 93
    elif kind == "array":
        content = stream.getvalue()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("promise", "promises 4000000000000 bytes and holds"),
        ("bomb", "bytes are said to hold"),
        ("values", "is cut short or not an .npz file"),
        ("encrypted", "kernel.npy is encrypted"),
        ("packing", "kernel.npy is packed in an unknown way"),
        ("array", "it is a single array"),
    ],
)
def test_a_damaged_npz_is_told_in_one_line(tmp_path, kind, message):
    path = tmp_path / "a.npz"
    spoilt_npz(kind, path)
    with pytest.raises(UserError, match=message) as told:
        read_arrays(path)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


def test_arrays_of_an_npz_come_back(tmp_path):
    arrays = {
        "a/b": np.arange(6.0).reshape(2, 3).T,
        "none": np.empty((0, 2), np.int32),
        "one": np.float32(3),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        assert_equal(read_arrays(tmp_path / "a.npz"), arrays)


def evil_structures(marker):
    """Returns a structure that would create the file `marker` if any of it were run."""
    command = f"touch {marker}"
    system = form.Global(os.system.__module__, "system")
    rebuild = form.Global("torch._utils", "_rebuild_tensor_v2")
    touch = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    nested = {"a.weight": form.Call(form.Global("builtins", "exec"), (touch,))}
    return {
        "command": form.Call(system, (command,)),
        "among the tensors": nested,
        "as an argument": form.Call(rebuild, (form.Call(system, (command,)), 0, (1,), (1,))),
        "getattr": form.Call(
            form.Global("builtins", "getattr"), (form.Global("os", "system"), "x")
        ),
        "dotted": form.Call(form.Global("collections", "OrderedDict.fromkeys"), ((1,),)),
        "torch's own": form.Call(form.Global("torch", "load"), (str(marker),)),
        "instance": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "a module, pickled": form.Call(form.Global("copyreg", "_reconstructor"), (1, 2, 3)),
    }


@FORMATS
@pytest.mark.parametrize("kind", evil_structures("x"))
def test_a_pickle_that_would_run_code_is_rejected(tmp_path, legacy, kind):
    marker = tmp_path / "it ran".replace(" ", "_")
    structure = evil_structures(marker)[kind]
    path = (form.write_legacy if legacy else form.write_zip)(tmp_path / "a.pt", structure, {})
    if kind in ("command", "among the tensors", "instance"):  # the malicious variants are real
        data = structure if type(structure) is bytes else form.dump(structure)
        pickle.loads(data)
        assert marker.exists()
        marker.unlink()
    with pytest.raises(UserError, match="nothing of it was run"):
        read_arrays(path)
    assert not marker.exists()


def test_a_pickle_cannot_modify_objects_that_it_names(tmp_path):
    storage = form.Storage("0", "FloatStorage", 12, False)
    for target, state in (
        (form.Global("torch", "FloatStorage"), {"dtype": "float64"}),
        (form.Global("torch._utils", "_rebuild_tensor_v2"), {"function": 1}),
        (form.tensor(storage, ARRAYS["a.weight"]), (None, {"offset": 10**6})),
    ):
        # BUILD writes a state into the object on the stack.
        build = form.dump(target)[:-1] + form.dump(state)[2:-1] + pickle.BUILD + b"."
        with pytest.raises(UserError, match="it modifies the objects that it describes"):
            read_arrays(form.write_zip(tmp_path / "a.pt", build, ARRAYS))
    assert_equal(read_arrays(form.write(tmp_path / "b.pt", ARRAYS)), ARRAYS)


@FORMATS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "beyond its values"),
        ({"shape": (10**12,), "strides": (0,)}, "beyond its values"),
        ({"shape": (2, 2), "strides": (10**9, 1)}, "beyond its values"),
        ({"offset": -1}, "invalid sizes"),
        ({"shape": (3,), "strides": (1, 1)}, "invalid tensor"),
        ({"shape": (True,), "strides": (1,)}, "invalid sizes"),
    ],
)
def test_a_tensor_that_reaches_beyond_its_values_is_rejected(tmp_path, legacy, changes, message):
    path = form.write(tmp_path / "a.pt", {"w": np.zeros(4, np.float32)}, legacy, **changes)
    with pytest.raises(UserError, match=message):
        read_arrays(path)


@FORMATS
def test_a_file_truncated_anywhere_is_rejected(tmp_path, legacy):
    data = form.write(tmp_path / "whole.pt", ARRAYS, legacy).read_bytes()
    path = tmp_path / "cut.pt"
    for length in {*range(0, len(data), 7), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"copy it again|not a PyTorch file"):
            read_arrays(path)


@FORMATS
def test_a_corrupt_file_is_read_or_rejected(tmp_path, legacy):
    data = np.frombuffer(form.write(tmp_path / "whole.pt", ARRAYS, legacy).read_bytes(), np.uint8)
    rng, path, refused = np.random.default_rng(0), tmp_path / "spoilt.pt", 0
    for _ in range(300):
        spoilt = data.copy()
        spoilt[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(spoilt.tobytes())
        try:
            read_arrays(path)
        except UserError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds a dict"),
        ({"epoch": 3}, "'epoch' is not a tensor"),
        (3, "it holds a int"),
    ],
)
def test_other_structures_than_state_dicts_are_named(tmp_path, structure, message):
    with pytest.raises(UserError, match=message):
        read_arrays(form.write_zip(tmp_path / "a.pt", structure, {}))


def test_a_structure_that_contains_itself_terminates(tmp_path):
    layers = [[]]
    for _ in range(60):  # 2⁶⁰ paths lead through it
        layers.append([layers[-1], layers[-1]])
    layers[0].append(layers[-1])
    with pytest.raises(UserError, match="it holds a list"):
        read_arrays(form.write_legacy(tmp_path / "a.pt", layers[-1], {}))


def test_other_files_are_rejected(tmp_path):
    for name in ("a.pt", "a.npz", "a.safetensors"):
        path = tmp_path / name
        with pytest.raises(UserError, match="no such file"):
            read_arrays(path)
        for content in (b"", b"some text", os.urandom(999)):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"not a|is not read"):
                read_arrays(path)
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([collections.OrderedDict()], object))
    with pytest.raises(UserError, match="holds objects"):
        read_arrays(objects)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "float64", "bool"])
@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_reads_what_torch_writes(tmp_path, dtype, how):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    values = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    tensors = {"turned": values.permute(2, 0, 1), "part": values[1, :, 1:], "one": values[0, 0, 0]}
    path = tmp_path / ("a.safetensors" if how == "safetensors" else "a.pt")
    if how == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="extra weights")
        safetensors.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=how == "zip")
    want = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert_equal(
        read_arrays(path), {n: t.double().numpy().astype(want) for n, t in tensors.items()}
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_a_modules_state_dict_and_not_the_module(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path = tmp_path / "a.pt"
    options = {"_use_new_zipfile_serialization": not legacy}
    torch.save(module.state_dict(), path, **options)
    assert_equal(read_arrays(path), {n: t.numpy() for n, t in module.state_dict().items()})
    torch.save(module, path, **options)
    with pytest.raises(UserError, match=r"save model\.state_dict"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_was_written_comes_back(tmp_path, name):
    pytest.importorskip("torch" if name.endswith("pt") else "safetensors", reason="not installed")
    check_writable(tmp_path / name)
    write_arrays(tmp_path / name, ARRAYS)
    assert_equal(read_arrays(tmp_path / name), ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("pt"):
        import torch

        loaded = torch.load(tmp_path / name, weights_only=True)
        assert_equal({n: t.numpy() for n, t in loaded.items()}, ARRAYS)
    with pytest.raises(UserError, match="is not a folder"):
        check_writable(tmp_path / "nowhere" / name)
