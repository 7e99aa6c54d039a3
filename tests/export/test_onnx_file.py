"""ONNX files of a run: what they hold, how they are opened, what is refused."""

import json

import jax
import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")

from vtadl_jax.data.sources import load_splits  # noqa: E402
from vtadl_jax.errors import UserError  # noqa: E402
from vtadl_jax.evaluation.predictor import Predictor  # noqa: E402
from vtadl_jax.evaluation.trained_run import load_calibration, load_run  # noqa: E402
from vtadl_jax.export import __main__ as command  # noqa: E402
from vtadl_jax.export.onnx import written  # noqa: E402
from vtadl_jax.export.validation import Tolerances, compare, precision_of  # noqa: E402

pytestmark = pytest.mark.slow  # a run is trained, and its scores compiled again


@pytest.fixture(scope="module")
def made(shared, finished):
    """(workdir, file, photographs) of a tiny VT-ADL run; not to be changed."""
    config, workdir, _ = finished

    def make(folder):
        folder.mkdir()
        path = folder / "part.onnx"
        assert command.main(["", f"--workdir={workdir}", "--format=onnx", f"--output={path}"]) == 0
        return path

    test = load_splits(config).test
    return workdir, shared("onnx", make), [record.image for record in test]


def test_the_file_scores_as_the_run(made):
    workdir, path, images = made
    found = compare(
        Predictor.from_workdir(workdir),
        Predictor.from_file(path, batch_size=3),
        images,
        Tolerances.of(path, None, None),
    )
    assert found["passed"], found
    assert found["flipped"] == 0
    assert found["score_difference"]["largest"] < 1e-4


def test_other_programs_need_pixels_only(made):
    workdir, path, images = made
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    assert given.name == "images"
    assert given.shape == ["batch", 32, 48, 3]
    assert {value.name for value in session.get_overridable_initializers()} == set(written.SETTABLE)
    run = load_run(workdir)
    pixels = np.stack([run.geometry.image(np.asarray(_pixels(i)), 3) for i in images[:5]])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": pixels}), strict=True))
    reference = Predictor.from_workdir(workdir)(list(images[:5]))
    np.testing.assert_allclose(outputs["score"], [p.score for p in reference], rtol=1e-3, atol=1e-3)
    assert outputs["defective"].tolist() == [p.is_defective for p in reference]
    assert outputs["anomaly_map"].shape == (5, 32, 48)
    assert outputs["defect_mask"].dtype == bool


def _pixels(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_a_threshold_changes_without_a_new_export(made, tmp_path):
    _, path, images = made
    plain = Predictor.from_file(path)(images[0])
    assert plain.threshold == pytest.approx(Predictor.from_file(path).threshold)
    assert not Predictor.from_file(path, threshold=plain.score + 1)(images[0]).is_defective
    assert Predictor.from_file(path, threshold=plain.score - 1)(images[0]).is_defective
    model = onnx.load(path)
    at = next(t for t in model.graph.initializer if t.name == "threshold")
    at.CopyFrom(onnx.numpy_helper.from_array(np.float32(plain.score - 2), "threshold"))
    onnx.save(model, tmp_path / "other.onnx")
    changed = Predictor.from_file(tmp_path / "other.onnx")
    assert changed.threshold == pytest.approx(plain.score - 2)
    assert changed(images[0]).is_defective


def test_the_metadata_hold_manifest_and_calibration(made):
    workdir, path, _ = made
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    manifest = held["vtadl_jax.manifest"]
    assert manifest["kind"] == "onnx"
    assert manifest["detector"] == "vtadl"
    assert manifest["precision"] == precision_of(path) == "float32"
    assert manifest["image_size"] == [32, 48]
    assert manifest["licences"]
    calibration = load_calibration(load_run(workdir))
    assert held["vtadl_jax.calibration"] == json.loads(json.dumps(calibration.to_dict()))


@pytest.mark.parametrize(
    ("precision", "layers", "tolerance"),
    [("float16", 15, 2e-3), ("int8", 13, 0.05)],  # int8 has no transposed convolutions
)
def test_layers_may_be_rounded(made, tmp_path, precision, layers, tolerance, capsys):
    workdir, path, images = made
    small = tmp_path / "small.onnx"
    flags = [f"--workdir={workdir}", "--format=onnx", f"--output={small}"]
    assert command.main(["", *flags, f"--precision={precision}"]) == 0
    assert f"{layers} layers are in {precision}" in capsys.readouterr().err
    assert precision_of(small) == precision
    assert small.stat().st_size < path.stat().st_size
    pairs = zip(Predictor.from_file(path)(images), Predictor.from_file(small)(images), strict=True)
    for one, other in pairs:
        # Of maps: after four steps a term's spread is tiny, and scores are multiples of it.
        apart = np.abs(one.anomaly_map - other.anomaly_map).max()
        assert apart <= tolerance * np.abs(one.anomaly_map).max()


def test_images_of_a_camera_are_resized_by_the_file(made, tmp_path):
    workdir, _, _ = made
    path = tmp_path / "camera.onnx"
    flags = [f"--workdir={workdir}", "--format=onnx", f"--output={path}", "--image_size=50,70"]
    assert command.main(["", *flags]) == 0
    photograph = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    got, want = Predictor.from_file(path)(photograph), Predictor.from_workdir(workdir)(photograph)
    assert got.score == pytest.approx(want.score, rel=1e-3)
    assert got.anomaly_map.shape == (50, 70)
    np.testing.assert_allclose(got.anomaly_map, want.anomaly_map, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="50 × 70: export again with --image_size=40,70"):
        Predictor.from_file(path)(photograph[:40])


def test_mistakes_are_told(made, tmp_path, capsys, monkeypatch):
    workdir, path, _ = made
    new = tmp_path / "new.onnx"
    flags = ["", f"--workdir={workdir}", "--format=onnx", f"--output={new}"]

    def says(*more):
        assert command.main([*flags, *more]) == 2
        assert not list(tmp_path.glob("new*"))
        return capsys.readouterr().err

    assert "give height,width" in says("--image_size=9")
    assert "is named NAME.onnx" in says(f"--output={tmp_path}/new.bin")
    assert "--precision is of --format=onnx" in says("--precision=int8", "--format=saved")
    monkeypatch.setattr(written, "MOST_BYTES", 1000)
    assert "an ONNX file may have 2: use --format=saved" in says()
    monkeypatch.undo()
    monkeypatch.setattr(written, "AGREE", 0.0)
    assert "scores otherwise than the run" in says()
    monkeypatch.undo()
    from vtadl_jax.export.onnx import converter

    monkeypatch.delitem(converter.ELEMENTWISE, "exp")
    assert "can't be written as ONNX: the operation 'exp'" in says()
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "pip install 'vtadl_jax[onnx]'" in says()
    with pytest.raises(UserError, match="need onnxruntime"):
        Predictor.from_file(path)


def test_files_of_others_are_refused(made, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="can't be read by ONNX Runtime"):
        Predictor.from_file(path)
    model = onnx.load(made[1])
    entry = next(e for e in model.metadata_props if e.key == "vtadl_jax.manifest")
    entry.value = json.dumps({**json.loads(entry.value), "format": 99})
    onnx.save(model, path)
    with pytest.raises(UserError, match="is of format 99"):
        Predictor.from_file(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="has no manifest of vtadl_jax"):
        Predictor.from_file(path)


def test_a_method_without_such_layers_is_not_rounded(finished):
    from tests.factory import tiny_detector
    from vtadl_jax.export.onnx.model import to_onnx
    from vtadl_jax.export.onnx.precision import in_half

    detector = tiny_detector("position_gaussian", num_train_steps=0, num_epochs=0)
    variables = {"frozen": {}, **detector.init(jax.random.key(0))}
    model = to_onnx(
        lambda images, v, s: {"terms": detector.score(v, images).terms}, (32, 32, 3), variables
    )
    assert in_half(model) == 0
