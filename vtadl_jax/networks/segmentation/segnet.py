"""SegNet (Badrinarayanan et al., 2015), as in the repository segnet_pytorch.

VGG16's convolutions with batch norms, and their mirror image. The decoder gets no features of the
encoder, only the places of its maxima.
"""

from vtadl_jax.networks.segmentation.layers import Forward, Network, conv, norm
from vtadl_jax.networks.segmentation.vgg16 import STAGES, channels
from vtadl_jax.ops.pooling import max_pool_places, max_unpool

ENCODER = tuple(
    f"{stage}{i}" for stage, widths in enumerate(STAGES, 1) for i in range(1, len(widths) + 1)
)


def apply(forward: Forward, x):
    """Returns logits [B, H, W, 1]. x: [B, H, W, 3]."""
    places = []
    for stage, widths in enumerate(STAGES, 1):
        for i in range(1, len(widths) + 1):
            x = forward.conv_norm_relu(f"conv{stage}{i}", f"bn{stage}{i}", x)
        x, place = max_pool_places(x)
        places.append(place)
    for stage in range(len(STAGES), 0, -1):
        x = max_unpool(x, places[stage - 1])
        for i in range(len(STAGES[stage - 1]), 0, -1):
            name = f"{stage}{i}d"
            if name == "11d":
                return forward.conv("conv11d", x)
            x = forward.conv_norm_relu(f"conv{name}", f"bn{name}", x)
    raise AssertionError("the decoder ends with conv11d")


def network() -> Network:
    """Returns the network of 29,443,585 parameters."""
    layers = []
    widths = dict(zip(ENCODER, channels(), strict=True))
    for name, (inputs, outputs) in widths.items():
        layers += [conv(f"conv{name}", inputs, outputs), norm(f"bn{name}", outputs)]
    for name in reversed(ENCODER):  # the same channels, the other way round
        outputs, inputs = widths[name]
        if name != ENCODER[0]:
            layers += [conv(f"conv{name}d", inputs, outputs), norm(f"bn{name}d", outputs)]
    layers += [conv("conv11d", widths[ENCODER[0]][1], 1)]
    vgg, norms = ([f"{kind}{name}" for name in ENCODER] for kind in ("conv", "bn"))
    return Network(tuple(layers), apply, 32, tuple(vgg), tuple(norms))
