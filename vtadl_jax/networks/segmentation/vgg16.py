"""The convolutions of VGG16 (Simonyan and Zisserman, 2014), under torchvision's names."""

from vtadl_jax.networks.segmentation.layers import CHANNELS

# Channels of the convolutions of five stages, each before a 2 × 2 max pooling.
STAGES = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
WIDTHS = tuple(width for stage in STAGES for width in stage)
# Numbers in `features` of a VGG16 without and with batch norms, which come right after.
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
PLACES_NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def channels() -> tuple[tuple[int, int], ...]:
    """Returns (inputs, outputs) of the thirteen convolutions."""
    return tuple(zip((CHANNELS, *WIDTHS[:-1]), WIDTHS, strict=True))
