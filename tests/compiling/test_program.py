"""Steps and parts lowered from shapes alone, with the requested implementations."""

import jax
import pytest

from tests.factory import tiny_config
from vtadl_jax.compiling import implementations
from vtadl_jax.compiling.program import lower_step
from vtadl_jax.compiling.topology import LOCAL, find_target
from vtadl_jax.errors import UserError


@pytest.fixture(scope="module")
def local():
    return find_target(LOCAL)


@pytest.mark.slow
def test_a_batch_is_the_configs_over_all_devices_here(local):
    program = lower_step(tiny_config(), local, "ssim", 0)
    assert (program.images, program.num_devices) == (8, len(jax.devices()))
    assert lower_step(tiny_config(), local, "ssim", 3).images == 3 * len(jax.devices())
    with pytest.raises(UserError, match="batch_size 6 is not divisible by 8"):
        lower_step(tiny_config(batch_size=6), local, "ssim", 0)


@pytest.mark.slow
def test_prediction_is_one_image_on_one_device(local):
    program = lower_step(tiny_config(), local, "predict", 0)
    assert (program.images, program.num_devices) == (1, 1)
    assert program.num_parameters > 1000


@pytest.mark.slow
@pytest.mark.parametrize("part", ["decoder", "mixture"])
def test_parts_have_their_own_parameters_only(local, part):
    program = lower_step(tiny_config(), local, part, 0)
    whole = lower_step(tiny_config(), local, "predict", 0)
    assert 0 < program.num_parameters < whole.num_parameters


def test_another_implementation_makes_another_program(local):
    def text(chosen):
        return lower_step(tiny_config(), local, "ssim", 1, chosen).lowered.as_text()

    # 'cpu' is the default on this machine; the other one has products with band matrices.
    assert "dot_general" not in text({"ops.ssim": "cpu"})
    assert "dot_general" in text({"ops.ssim": "default"})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"ops.ssim": "gpu"}, "--implementations ops.ssim=gpu: it has cpu, default"),
        (
            {"ops.nothing": "cpu"},
            "--implementations ops.nothing: this step chooses no implementation in that file",
        ),
    ],
)
def test_unknown_implementations_are_rejected(local, chosen, message):
    with pytest.raises(UserError, match=message):
        lower_step(tiny_config(), local, "ssim", 1, chosen)


def test_implementations_are_read_from_the_command_line():
    assert implementations.parse("ops.ssim=cpu, networks.decoder=default") == {
        "ops.ssim": "cpu",
        "networks.decoder": "default",
    }
    assert implementations.parse("") == {}
    with pytest.raises(UserError, match=r"give FILE=KIND"):
        implementations.parse("ops.ssim")
