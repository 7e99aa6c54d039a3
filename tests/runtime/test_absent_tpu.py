"""JAX does not search for a TPU where there is no sign of one; with any sign nothing changes."""

from types import SimpleNamespace

import pytest

from vtadl_jax.runtime import absent_tpu
from vtadl_jax.runtime.absent_tpu import has_sign_of_tpu, may_use_gpu, skip_absent_tpu


@pytest.fixture
def machine(tmp_path):
    """Folders in place of /dev and /sys/bus/pci/devices of a machine with a network card."""
    devices, bus = tmp_path / "dev", tmp_path / "pci"
    (devices / "vfio").mkdir(parents=True)
    (devices / "vfio" / "vfio").touch()  # on any machine with the driver
    add_device(bus, "0", "0x1ae0", "0x020000")
    add_device(bus, "1", "0x8086", "0x060000")
    return devices, bus


def add_device(bus, name, vendor, kind):
    (bus / name).mkdir(parents=True)
    (bus / name / "vendor").write_text(f"{vendor}\n")
    (bus / name / "class").write_text(f"{kind}\n")


def test_a_machine_without_a_tpu_has_no_sign(machine, tmp_path):
    assert not has_sign_of_tpu({}, *machine)
    assert not has_sign_of_tpu({"TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": "x"}, *machine)
    assert not has_sign_of_tpu({}, tmp_path / "none", tmp_path / "none")


@pytest.mark.parametrize("file", ["accel0", "vfio/3"])
def test_device_files_are_a_sign(machine, file):
    (machine[0] / file).touch()
    assert has_sign_of_tpu({}, *machine)


@pytest.mark.parametrize("kind", ["0x088000", "0xff0000", "0x120000"])
def test_devices_of_google_that_are_no_disk_and_no_network_card_are_a_sign(machine, kind):
    add_device(machine[1], "2", "0x1ae0", kind)
    assert has_sign_of_tpu({}, *machine)


@pytest.mark.parametrize("name", absent_tpu.VARIABLES)
def test_variables_of_clusters_are_a_sign(machine, name):
    assert has_sign_of_tpu({name: "1"}, *machine)
    assert not has_sign_of_tpu({name: ""}, *machine)


def test_a_gpu_is_left_to_jax(tmp_path, monkeypatch):
    monkeypatch.setattr(absent_tpu.importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(absent_tpu.importlib.util, "find_spec", lambda name: None)
    assert not may_use_gpu(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert may_use_gpu(tmp_path)


@pytest.fixture
def config(monkeypatch):
    """JAX's settings on a machine with libtpu and without sign of a device."""
    values: dict[str, str | None] = {"jax_platforms": None}
    config = SimpleNamespace(values=values, update=values.__setitem__)
    monkeypatch.setattr(absent_tpu, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(absent_tpu.importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(absent_tpu, "has_sign_of_tpu", lambda environment: False)
    monkeypatch.setattr(absent_tpu, "may_use_gpu", lambda: False)
    return values


def test_without_any_sign_the_cpu_is_chosen(config):
    assert skip_absent_tpu()
    assert config == {"jax_platforms": "cpu"}


@pytest.mark.parametrize("sign", ["has_sign_of_tpu", "may_use_gpu"])
def test_with_a_sign_nothing_changes(config, monkeypatch, sign):
    monkeypatch.setattr(absent_tpu, sign, lambda *_: True)
    assert not skip_absent_tpu()
    assert config == {"jax_platforms": None}


def test_a_choice_of_the_user_is_kept(config):
    config["jax_platforms"] = "tpu"
    assert not skip_absent_tpu()
    assert config == {"jax_platforms": "tpu"}


def test_without_libtpu_nothing_changes(config, monkeypatch):
    monkeypatch.setattr(absent_tpu.importlib.util, "find_spec", lambda name: None)
    assert not skip_absent_tpu()
    assert config == {"jax_platforms": None}
