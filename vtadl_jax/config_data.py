"""The groups of a config about images: their source, their sizes, their augmentation."""

import dataclasses

from vtadl_jax.options import option

LARGEST_SIDE = 16384  # px


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random augmentation of training images, in the compiled step."""

    flip_horizontal: bool = option(False, "mirror every second image left and right")
    flip_vertical: bool = option(False, "mirror every second image top and bottom")
    rotation_degrees: float = option(
        0.0, "largest rotation, either way", unit="degrees", at_least=0, at_most=180
    )
    brightness: float = option(
        0.0, "largest sum, as a part of the range, either way", at_least=0, at_most=1
    )
    contrast: float = option(
        0.0, "factor 1 ± up to this, about the image's mean", at_least=0, at_most=1
    )
    saturation: float = option(0.0, "factor 1 ± up to this, about the grey", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class WindowOptions:
    """Overlapping windows of large images, each scored at the network's size."""

    side: int = option(
        0,
        "side of the square windows that images are cut into, at each scale; 0: no windows, the "
        "whole image is resized",
        unit="px",
        at_least=0,
        limit=LARGEST_SIDE,
    )
    overlap: float = option(
        0.5, "part of a window that the next one covers, too", at_least=0, below=1
    )
    scales: tuple[float, ...] = option(
        (1.0,),
        "factors that the image is scaled by before it is cut, as 1,0.25; their maps are combined",
        above=0,
        at_most=1,
        filled=True,
    )
    map_stride: int = option(
        4, "pixels of the scaled image per value of the map, along each side", at_least=1,
        limit=LARGEST_SIDE, compiled=False,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Source of the images and how they are resized to the network's size."""

    source: str = option("mvtec_layout", "kind of data set: a name of vtadl_jax.data.sources")
    root: str = option(
        "", "folder of the data, as the source has it", resumable=True, compiled=False
    )
    category: str = option(
        "", "sub-folder, product or normal class; empty: root itself", compiled=False
    )
    defects: tuple[str, ...] = option((), "kinds of defect to test on; empty: all", compiled=False)
    bad: str = option(
        "",
        "source 'folder': folder of defective images, if root holds only good ones",
        resumable=True,
        compiled=False,
    )
    masks: str = option(
        "",
        "source 'folder': folder of their masks, all in it or in the same sub-folders",
        resumable=True,
        compiled=False,
    )
    more: tuple[str, ...] = option(
        (),
        "folders or files of more good images to train on, beside those of the source",
        compiled=False,
    )
    without: tuple[str, ...] = option(
        (), "names of training images that are left out, as images.json has them", compiled=False
    )
    regions: str = option(
        "",
        "where to inspect: a mask (white) or polygons in JSON for all images, or a folder with "
        "such a file for each; empty: everywhere",
        resumable=True,
        compiled=False,
    )
    trim: float = option(
        0.0,
        "share of the good training images that is left out: those most novel to the others, by a "
        "ranking before the fit; for folders that may hold defective images",
        at_least=0,
        at_most=0.6,
        compiled=False,
    )
    trimmed: tuple[str, ...] = option(
        (), "names of those that a run left out, most novel first; written by it", compiled=False
    )
    test_fraction: float = option(
        0.2,
        "share of the good images to test on, for data sets without a split",
        at_least=0,
        below=1,
        compiled=False,
    )
    anomaly_fraction: float = option(
        0.0,
        "anomalous training images per good one, moved from the test images; for detectors that "
        "learn from labels or masks",
        at_least=0,
        compiled=False,
    )
    repeat_anomalies: bool = option(
        False, "repeat anomalous training images to about the number of good ones", compiled=False
    )
    balanced_batches: bool = option(
        False, "every second image of a batch is an anomalous one", compiled=False
    )
    folds: int = option(
        0,
        "cross-validation for detectors that learn from defects: test on one fold of the test "
        "images, train on the defects of the others; 0: none",
        at_least=0,
        limit=1000,
        compiled=False,
    )
    fold: int = option(0, "which of the folds to test on, from 0", at_least=0, compiled=False)
    group_gap: int = option(
        0,
        "folds: images whose numbers, the last in a file's name, are closer than this are of one "
        "part and stay together; 0: every image by itself",
        at_least=0,
        compiled=False,
    )
    balanced_test: bool = option(
        False, "one-class sets: only as many anomalies as normal test images", compiled=False
    )
    test_limit: int = option(
        0,
        "one-class sets: at most that many normal and as many anomalous test images, drawn by "
        "seed, in place of data.balanced_test; 0: no limit",
        at_least=0,
        compiled=False,
    )
    resize: tuple[int, ...] = option(
        (), "(height, width) before the centre crop to image_size; empty: no crop", at_least=1,
        limit=LARGEST_SIDE, counts=(0, 2), unit="px", compiled=False,
    )  # fmt: skip
    fit: str = option(
        "stretch",
        "how an image is scaled to that size; 'pad' and 'crop' keep the aspect",
        choices=("stretch", "pad", "crop"),
        compiled=False,
    )
    channels: int = option(3, "3: RGB, 1: grey, 0: from the training images", choices=(0, 1, 3))
    bits: int = option(
        0,
        "bits per value that the camera gives, in files of 16 or 32 bits; 0: all 16",
        choices=(0, 8, 10, 12, 14, 16),
        compiled=False,
    )
    shots: int = option(
        0,
        "good training images to take, chosen by the seed, for experiments with few; 0: all",
        at_least=0,
        compiled=False,
    )
    orientations: str = option(
        "auto",
        "mirror images and rotations of good images that count as good, for fitted detectors: "
        "'none', some of mirror, flip, rot180, rot90, any (as 'mirror,rot90'), or 'auto': those "
        "that up to 16 good images show to be normal",
        compiled=False,
    )
    holdout_fraction: float = option(
        0.1,
        "share of the good training images held out for calibration; at least 8 images where that "
        "is at most a fifth of them",
        above=0,
        below=1,
        compiled=False,
    )
    cache: str = option(
        "none",
        "where decoded training images are kept: 'host' or 'device' memory",
        choices=("none", "host", "device"),
        resumable=True,
    )
    num_threads: int = option(
        4, "threads that decode images", at_least=0, limit=1024, resumable=True, compiled=False
    )
    prefetch: int = option(
        16, "batches decoded ahead", at_least=0, limit=4096, resumable=True, compiled=False
    )
    augment: AugmentOptions = AugmentOptions()
    windows: WindowOptions = WindowOptions()
