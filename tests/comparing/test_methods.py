"""The methods of the comparison: their configs load, and their weights are theirs or stand in."""

import pytest

from vtadl_jax.comparing.arguments import (
    Weights,
    arguments_of,
    config_of,
    parse_weights,
    weights_of,
)
from vtadl_jax.comparing.methods import METHODS, parse_methods
from vtadl_jax.errors import UserError
from vtadl_jax.experiment import assume_color, make_detector
from vtadl_jax.selection.sets import ImageSet

STAND_IN = Weights({}, "efficientnet_lite0", "lite0.pth")
SET = ImageSet("magnetic_tile", "DIR", "magnetic_tile")
LARGE = ("official", "unet2", "segnet", "subspace_pretrained")  # slow to build or to trace


@pytest.mark.parametrize("name", METHODS)
def test_the_config_of_a_method_loads(name):
    config = config_of(arguments_of(METHODS[name], SET, STAND_IN, 150))
    assert config.data.category == "magnetic_tile"
    assert config.data.root == "DIR"
    assert config.data.source == "folder"
    if name not in LARGE:
        detector = make_detector(assume_color(config))
        assert bool(config.data.folds) == bool(detector.needs), "supervised methods have folds"
        assert detector.pretrained_required == bool(METHODS[name].encoder)
    assert not config.data.folds or config.data.group_gap == 150
    assert bool(config.init_from) == bool(METHODS[name].encoder)


def test_own_weights_come_before_those_that_stand_in():
    spade = METHODS["spade"]
    assert weights_of(spade, Weights({"spade": "w.pth"}, "efficientnet_lite0", "l.pth"))[1] == "yes"
    flags, pretrained, line = weights_of(spade, STAND_IN)
    assert "--config.model.features=efficientnet_lite0" in flags
    assert pretrained == "stand-in"
    assert "stands in for wide_resnet50_2" in line
    with pytest.raises(UserError, match="spade needs the pretrained weights of wide_resnet50_2"):
        weights_of(spade, Weights())


def test_an_optional_network_starts_at_random_and_says_so():
    flags, pretrained, line = weights_of(METHODS["piade"], STAND_IN)
    assert (flags, pretrained) == ((), "no")
    assert "start from random values" in line


def test_a_field_is_given_once():
    arguments = arguments_of(METHODS["patch_memory_pretrained"], SET, STAND_IN, 0)
    assert sum("model.features=" in word for word in arguments) == 1


def test_groups_and_names_of_methods():
    assert len(parse_methods("all")) == len(METHODS)
    assert [m.name for m in parse_methods("unet, spade,unet")] == ["unet", "spade"]
    thesis = [m.published for m in parse_methods("chapter7") if m.published]
    assert set(thesis) == {
        "VT-ADL", "SPADE", "FCN32", "Unet (Tiny)", "Unet++", "Unet2", "SegNet",
    }  # fmt: skip
    for text, message in (("spad", "did you mean spade"), ("", "names none")):
        with pytest.raises(UserError, match=message):
            parse_methods(text)


def test_weights_of_the_command_line(tmp_path):
    file = tmp_path / "w.pth"
    file.touch()
    found = parse_weights([f"spade={file}"], f"efficientnet_lite0={file}")
    assert (found.own["spade"], found.encoder) == (str(file), "efficientnet_lite0")
    for own, encoder, message in (
        (["spade"], "", "METHOD=FILE"),
        (["spade=absent.pth"], "", "no file"),
        ([], "efficientnet=x", "did you mean efficientnet_lite"),
        ([], "efficientnet_lite0=absent.pth", "no file"),
    ):
        with pytest.raises(UserError, match=message):
            parse_weights(own, encoder)
    assert parse_weights([], "") == Weights()
