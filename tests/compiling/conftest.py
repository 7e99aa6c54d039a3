"""What tests of compile studies share."""

import dataclasses

import pytest

from tests.compiling.hlo_text import MODULE
from vtadl_jax.compiling.chips import CHIPS
from vtadl_jax.compiling.reading import read_text


@pytest.fixture
def reading():
    """A reading of a train step on v5e:2x2, for the small module of hlo_text.py."""
    return {
        "program": {
            "config": "mvtec",
            "fields": {"num_train_steps": 0, "num_epochs": 400, "dtype": "bfloat16"},
            "step": "train",
            "topology": "v5e:2x2",
            "chip": dataclasses.asdict(CHIPS["v5e"]),
            "device_kind": "TPU v5 lite",
            "num_devices": 4,
            "mesh": {"data": 4},
            "images": 32,
            "images_per_device": 8.0,
            "dtype": "bfloat16",
            "num_parameters": 1000,
            "parameter_bytes": 4000,
            "versions": {"jax": "1"},
            "implementations": {},
            "xla": {},
        },
        "fits": True,
        "seconds": {"trace": 1.0, "lower": 2.0, "compile": 30.0},
        **read_text(MODULE, 4),
        "work": {"flops": 1.97e12, "bytes": 8.19e9},
        "memory": {
            "arguments": 100, "outputs": 90, "aliased": 80, "temporary": 50, "program": 7,
            "peak": 150, "needed": 167,
        },
        "programs": 1,
    }  # fmt: skip
