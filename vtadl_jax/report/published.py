"""Results printed in papers, as data; `tables` adds them to our results.

P. Mishra, R. Verk, D. Fornasier, C. Piciarelli, G. L. Foresti: VT-ADL: A Vision Transformer Network
for Image Anomaly Detection and Localization, 2021: tables II (MNIST), III (MVTec AD), IV (BTAD).

All numbers are as printed, including misprints. Means are sometimes truncated, not rounded, and
that of AnoGAN in table III (0.443) is not the mean of its column (0.447). In table III carpet and
zipper are equal in three columns. In table II OC SVM has 0.995 for the digit 9, where an earlier
paper of the authors, citing the same source, prints 0.955.

P. Mishra's thesis, chapter 3 (CapsNet): tables 3.3 (MNIST), 3.5 (Fashion-MNIST), 3.6 (KMNIST) and
3.7 (CIFAR-10). Percentages are given as fractions. The thesis does not define the threshold of the
proposed score, and sets its accuracies beside other methods' AUROC in table 3.7.

The same thesis, chapters 4 (pyramidal auto-encoder: tables 4.5, which is the column of table II
above, and 4.6) and 5 (PIADE: tables 5.3 and 5.4). Tables 4.6 and 5.4 print the rates of true
negatives and of true positives; the values here are their means. Both name thresholds that are
chosen on the test images. For Fashion-MNIST (0.936, pyramidal auto-encoder) and COIL-100 (0.998,
PIADE) only means over all classes are printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vtadl_jax.data.sources.cifar import CLASSES as CIFAR10
from vtadl_jax.data.sources.idx import SETS


@dataclass(frozen=True)
class PublishedTable:
    """One metric of one data set, by category (in printed order) and method.

    key: name of the metric in our results, aupro_0.3 for AU-PRO up to a false positive rate of 0.3;
    means: the row of means as printed; note: what the paper does not specify.
    """

    metric: str
    key: str
    source: str
    methods: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    means: tuple[float, ...]
    note: str = ""

    def value(self, category: str, method: str) -> float | None:
        """Returns the value, None for an unknown category; unknown methods raise ValueError."""
        column = self.methods.index(method)
        return self.rows[category][column] if category in self.rows else None


PAPER = "Mishra et al. 2021 (VT-ADL)"

_MNIST = PublishedTable(
    metric="image AUROC",
    key="image_auroc",
    source=f"{PAPER}, table II",
    methods=(
        *("OC SVM", "KDE", "DAE", "VAE", "Pix CNN GAN", "LSA", "Deep SVDD", "Pyr. AE"),
        "VT-ADL",
    ),
    rows={
        "0": (0.988, 0.885, 0.991, 0.994, 0.531, 0.993, 0.98, 0.995, 0.99),
        "1": (0.999, 0.996, 0.999, 0.999, 0.995, 0.999, 0.997, 0.999, 1.0),
        "2": (0.902, 0.71, 0.89, 0.96, 0.478, 0.959, 0.917, 0.941, 0.976),
        "3": (0.950, 0.693, 0.935, 0.947, 0.517, 0.966, 0.919, 0.966, 0.976),
        "4": (0.955, 0.844, 0.921, 0.965, 0.739, 0.956, 0.949, 0.960, 0.984),
        "5": (0.968, 0.776, 0.937, 0.963, 0.542, 0.964, 0.885, 0.972, 0.971),
        "6": (0.978, 0.861, 0.981, 0.995, 0.592, 0.994, 0.983, 0.993, 0.995),
        "7": (0.965, 0.884, 0.964, 0.974, 0.789, 0.980, 0.946, 0.993, 0.99),
        "8": (0.853, 0.669, 0.841, 0.905, 0.340, 0.953, 0.939, 0.895, 0.974),
        "9": (0.995, 0.825, 0.96, 0.978, 0.662, 0.981, 0.965, 0.989, 0.99),
    },
    means=(0.95, 0.81, 0.94, 0.97, 0.62, 0.97, 0.948, 0.97, 0.984),
)

_MVTEC_AD = PublishedTable(
    metric="AU-PRO (FPR 0.3)",
    key="aupro_0.3",
    source=f"{PAPER}, table III",
    methods=(
        *("1-NN", "OC SVM", "K Means", "AE MSE", "VAE", "AE SSIM", "Ano GAN", "CNN Feat. Dic"),
        *("Uni. Stud.", "VT-ADL"),
    ),
    rows={
        "carpet": (0.512, 0.355, 0.253, 0.456, 0.501, 0.647, 0.204, 0.469, 0.695, 0.773),
        "grid": (0.228, 0.125, 0.107, 0.582, 0.224, 0.849, 0.226, 0.183, 0.819, 0.871),
        "leather": (0.446, 0.306, 0.308, 0.819, 0.635, 0.561, 0.378, 0.641, 0.819, 0.728),
        "tile": (0.822, 0.722, 0.779, 0.897, 0.87, 0.175, 0.177, 0.797, 0.912, 0.796),
        "wood": (0.502, 0.336, 0.411, 0.727, 0.628, 0.605, 0.386, 0.621, 0.725, 0.781),
        "bottle": (0.898, 0.85, 0.495, 0.91, 0.897, 0.834, 0.62, 0.742, 0.918, 0.949),
        "cable": (0.806, 0.431, 0.513, 0.825, 0.654, 0.478, 0.383, 0.558, 0.865, 0.776),
        "capsule": (0.631, 0.554, 0.387, 0.862, 0.526, 0.86, 0.306, 0.306, 0.916, 0.672),
        "hazelnut": (0.861, 0.616, 0.698, 0.917, 0.878, 0.916, 0.698, 0.844, 0.937, 0.897),
        "metal_nut": (0.705, 0.319, 0.351, 0.83, 0.576, 0.603, 0.32, 0.358, 0.895, 0.726),
        "pill": (0.725, 0.544, 0.514, 0.893, 0.769, 0.83, 0.776, 0.46, 0.935, 0.705),
        "screw": (0.604, 0.644, 0.55, 0.754, 0.559, 0.887, 0.466, 0.277, 0.928, 0.928),
        "toothbrush": (0.675, 0.538, 0.337, 0.822, 0.693, 0.784, 0.749, 0.151, 0.863, 0.901),
        "transistor": (0.68, 0.496, 0.399, 0.728, 0.626, 0.725, 0.549, 0.628, 0.701, 0.796),
        "zipper": (0.512, 0.355, 0.253, 0.839, 0.549, 0.665, 0.467, 0.703, 0.933, 0.808),
    },
    means=(0.64, 0.479, 0.423, 0.79, 0.639, 0.694, 0.443, 0.515, 0.857, 0.807),
)

# The paper counts products from 0, the data set's folders from 01.
_BTAD_PRO = PublishedTable(
    metric="AU-PRO (FPR 0.3)",
    key="aupro_0.3",
    source=f"{PAPER}, table IV",
    methods=("VT-ADL",),
    rows={"01": (0.92,), "02": (0.89,), "03": (0.86,)},
    means=(0.89,),
)

_BTAD_PR = PublishedTable(
    metric="PR AUC",
    key="image_pr_auc",
    source=f"{PAPER}, table IV",
    methods=("VT-ADL", "AE MSE", "AE MSE+SSIM"),
    rows={"01": (0.99, 0.49, 0.53), "02": (0.94, 0.92, 0.96), "03": (0.77, 0.95, 0.89)},
    means=(0.90, 0.78, 0.79),
    note="the paper does not say whether of images or of pixels",
)

THESIS = "Mishra's thesis, chapter 3"
# "Standard": the longer capsule decides. "Proposed": the anomaly score at an undefined threshold.
CAPSNET = (
    *("CapsNet proposed, 10 % anomalies", "CapsNet standard, 10 % anomalies"),
    *("CapsNet proposed, 1 % anomalies", "CapsNet standard, 1 % anomalies"),
)


def _accuracy(
    name: str, classes: tuple[str, ...], *columns: tuple[float, ...], note: str = ""
) -> PublishedTable:
    """Returns a table of accuracies. columns: as printed, the classes' percentages and their mean,
    for each of `CAPSNET` that is there."""
    rows = zip(*columns, strict=True)
    *values, means = (tuple(round(value / 100, 4) for value in row) for row in rows)
    return PublishedTable(
        metric="image accuracy",
        key="image_accuracy",
        source=f"{THESIS}, {name}",
        methods=CAPSNET[: len(columns)],
        rows=dict(zip(classes, values, strict=True)),
        means=means,
        note=note,
    )


_UNDEFINED = "the thesis does not define the threshold"
# fmt: off
_MNIST_CAPSNET = _accuracy(
    "table 3.3", SETS["mnist"].classes,
    (99.50, 99.27, 99.22, 99.21, 99.10, 98.33, 98.74, 98.05, 99.00, 97.93, 98.84),
    (97.46, 98.78, 97.02, 92.87, 96.36, 93.42, 96.87, 96.83, 95.50, 92.13, 95.72),
    (99.20, 98.24, 98.19, 95.48, 94.37, 95.46, 98.34, 97.07, 97.85, 90.41, 96.46),
    (48.90, 73.58, 50.00, 49.66, 48.95, 46.56, 48.34, 50.00, 48.75, 49.63, 51.44),
    note=_UNDEFINED,
)
_FASHION_CAPSNET = _accuracy(
    "table 3.5", SETS["fashion_mnist"].classes,
    (93.28, 98.07, 87.50, 95.01, 91.50, 98.07, 84.44, 96.64, 97.73, 97.83, 94.01),
    (88.14, 96.89, 85.08, 92.19, 85.77, 96.15, 76.93, 95.11, 94.96, 97.18, 90.84),
    (87.45, 95.31, 84.98, 90.86, 87.70, 94.27, 77.32, 93.33, 92.14, 96.15, 89.95),
    (49.41, 49.41, 49.41, 49.41, 49.41, 49.41, 49.41, 49.46, 49.41, 49.41, 49.41),
    note=_UNDEFINED,
)
_KMNIST_CAPSNET = _accuracy(
    "table 3.6", SETS["kmnist"].classes,
    (96.54, 93.92, 88.69, 96.25, 88.19, 93.43, 93.08, 93.48, 95.85, 95.01, 93.44),
    (91.55, 80.58, 72.88, 87.40, 49.41, 87.10, 83.05, 93.23, 81.92, 81.97, 80.91),
    (92.31, 86.11, 79.17, 93.06, 83.27, 90.81, 86.56, 76.37, 87.91, 90.71, 86.63),
    (49.95, 49.95, 49.95, 49.95, 49.95, 49.95, 49.95, 49.95, 49.95, 49.95, 49.95),
    note=_UNDEFINED,
)
_CIFAR10_CAPSNET = _accuracy(
    "table 3.7", CIFAR10,
    (60.8, 55.5, 58.6, 58.7, 66.0, 50.1, 64.7, 48.4, 61.9, 57.6, 58.2),
    note="printed beside other methods' AUROC; the share of anomalies is not printed",
)
# fmt: on

PYRAMID, PIADE = "Pyr. AE", "PIADE"
CATEGORIES = tuple(_MVTEC_AD.rows)
# fmt: off
_RATES = {  # (true negatives, true positives), in the order of CATEGORIES
    PYRAMID: (
        (.42, .86, .62, .44, .85, .84, .58, .62, .90, .98, .76, .73, .80, .60, .64),
        (.72, .53, .625, .85, .95, 1.0, .89, .74, .89, .55, .62, .71, .92, .89, .82),
    ),
    PIADE: (
        (.33, .67, .82, .97, .85, .87, .73, .60, .89, .57, .89, .80, .92, .70, 1.0),
        (.74, .60, .45, .19, .93, 1.0, .93, .83, .97, .78, .51, .67, .96, .90, .65),
    ),
}
# fmt: on
_MVTEC_RATES = PublishedTable(
    metric="image balanced accuracy",
    key="image_balanced_accuracy_max",
    source="Mishra's thesis, tables 4.6 and 5.4",
    methods=(PYRAMID, PIADE),
    rows={
        name: tuple(
            round((negatives[i] + positives[i]) / 2, 4) for negatives, positives in _RATES.values()
        )
        for i, name in enumerate(CATEGORIES)
    },
    means=(0.745, 0.757),
    note="means of the printed rates of true negatives and true positives; means over categories "
    "are not printed",
)

_CIFAR10_PIADE = PublishedTable(
    metric="image AUROC",
    key="image_auroc",
    source="Mishra's thesis, table 5.3",
    methods=(PIADE,),
    rows=dict(
        zip(
            CIFAR10,
            ((v,) for v in (0.751, 0.55, 0.708, 0.609, 0.805, 0.645, 0.729, 0.651, 0.771, 0.532)),
            strict=True,
        )
    ),
    means=(0.675,),
)

PUBLISHED: Mapping[str, tuple[PublishedTable, ...]] = {
    "mnist": (_MNIST, _MNIST_CAPSNET),
    "mvtec_ad": (_MVTEC_AD, _MVTEC_RATES),
    "btad": (_BTAD_PRO, _BTAD_PR),
    "fashion_mnist": (_FASHION_CAPSNET,),
    "kmnist": (_KMNIST_CAPSNET,),
    "cifar10": (_CIFAR10_CAPSNET, _CIFAR10_PIADE),
}


OWN = {"capsnet": CAPSNET, "pyramid_ae": (PYRAMID,), "piade": (PIADE,)}  # detector → columns


def published_methods(data_set: str, detector: str) -> tuple[str, ...]:
    """Returns the columns to show beside a detector's results: those of its own method, else of
    VT-ADL; () if none is published for the data set."""
    wanted = OWN.get(detector, ("VT-ADL",))
    known = {method for table in PUBLISHED.get(data_set, ()) for method in table.methods}
    return tuple(method for method in wanted if method in known)
