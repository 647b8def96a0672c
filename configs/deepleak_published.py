"""Figures of DeepLeak (arXiv 2601.03429) and of its references, shown beside xinv's.

The paper's "GradCAM++" is captum's Guided Grad-CAM in its released code, and so compared with
xinv's `guided_gradcam`; `NOTES` has further methods of the code under other names.
"""

import math
from collections.abc import Iterable

from configs import base

DATASETS = ("cifar10", "cifar100", "gtsrb")
EXAMPLES = {"cifar10": 5000, "cifar100": 5000, "gtsrb": 1500}
"""Numbers of members, and of others, behind the paper's figures."""
RATES = {5000: 0.0028, 1500: 0.0047}
"""The 97.5 % quantile of the TPR at 0.1 % FPR of an attack by chance: negative hypergeometric."""
METRICS = ("tpr_at_0.001", "balanced_accuracy", "auc")
NOTES = {
    "guided_gradcam": (
        'the paper\'s "GradCAM++", which its code computes as Guided Grad-CAM with noise'
    ),
    "smoothgrad": "its code smooths integrated gradients",
    "vargrad": "its code takes the variance of integrated gradients",
    "deeplift": "its code computes input × gradient",
    "guided_backprop": "its code computes the gradient",
    "deconvolution": "its code computes the gradient",
    "protodash": "its code takes the explained images as reference",
}
"""Deviations of the released code from a method of that name; xinv computes the method."""

TABLE_I = {
    "smoothgrad": 0.0007,
    "vargrad": 0.001,
    "integrated_gradients": 0.0052,
    "gradcam": 0.0011,
    "guided_gradcam": 0.0052,
    "kernel_shap": 0.0041,
    "lime": 0.0037,
}
"""TPR at 0.1 % FPR of the canonical shadow attack.

The text does not state the data set; shown beside CIFAR-10.
"""

TABLE_II = {
    "smoothgrad": ((0.1038, 0.0681, 0.063), (0.786, 0.799, 0.631), (0.910, 0.827, 0.751)),
    "vargrad": ((0.0678, 0.0668, 0.035), (0.635, 0.779, 0.619), (0.732, 0.846, 0.726)),
    "integrated_gradients": (
        (0.0488, 0.1642, 0.4352),
        (0.793, 0.903, 0.968),
        (0.861, 0.986, 0.995),
    ),
    "gradcam": ((0.0095, 0.0678, 0.0074), (0.63, 0.82, 0.663), (0.651, 0.86, 0.613)),
    "guided_gradcam": ((0.067, 0.18, 0.0578), (0.703, 0.905, 0.729), (0.862, 0.983, 0.795)),
    "kernel_shap": ((0.0504, 0.118, 0.2883), (0.711, 0.8393, 0.981), (0.857, 0.884, 0.962)),
    "lime": ((0.1026, 0.105, 0.2152), (0.751, 0.8425, 0.935), (0.815, 0.891, 0.947)),
}
"""TPR at 0.1 % FPR, balanced accuracy and AUC, on each data set."""

TABLE_II_SHOKRI = {
    "smoothgrad": ((0.002, 0.004, 0.003), (0.607, 0.741, 0.500), (0.642, 0.799, 0.679)),
    "vargrad": ((0.002, 0.003, 0.001), (0.616, 0.754, 0.658), (0.638, 0.814, 0.692)),
    "integrated_gradients": ((0.003, 0.004, 0.001), (0.594, 0.712, 0.637), (0.630, 0.777, 0.687)),
    "gradcam": ((0.003, 0.006, 0.003), (0.614, 0.775, 0.578), (0.654, 0.843, 0.642)),
    "guided_gradcam": ((0.002, 0.006, 0.003), (0.621, 0.765, 0.623), (0.659, 0.842, 0.613)),
    "kernel_shap": ((0.002, 0.004, 0.002), (0.607, 0.751, 0.616), (0.618, 0.798, 0.638)),
    "lime": ((0.001, 0.004, 0.002), (0.604, 0.744, 0.610), (0.616, 0.788, 0.627)),
}
"""The same of Shokri 2021's variance threshold."""

TABLE_II_LIU = {
    "smoothgrad": ((0.041, 0.163, 0.021), (0.652, 0.876, 0.619), (0.750, 0.961, 0.708)),
    "vargrad": ((0.039, 0.164, 0.015), (0.656, 0.885, 0.617), (0.745, 0.957, 0.704)),
    "integrated_gradients": ((0.038, 0.16, 0.017), (0.656, 0.878, 0.611), (0.757, 0.958, 0.701)),
    "gradcam": ((0.039, 0.158, 0.019), (0.656, 0.887, 0.616), (0.751, 0.962, 0.740)),
    "guided_gradcam": ((0.039, 0.165, 0.019), (0.632, 0.897, 0.616), (0.750, 0.962, 0.707)),
    "kernel_shap": ((0.039, 0.157, 0.013), (0.652, 0.861, 0.624), (0.755, 0.961, 0.708)),
    "lime": ((0.04, 0.163, 0.013), (0.644, 0.852, 0.622), (0.751, 0.959, 0.703)),
}
"""The same of Liu 2024, with the loss trajectory."""

TABLE_III = {
    "saliency": (0.0524, 0.1884, 0.0584),
    "guided_backprop": (0.1094, 0.4532, 0.0664),
    "deeplift": (0.01, 0.1182, 0.3761),
    "input_x_gradient": (0.024, 0.2468, 0.4637),
    "deconvolution": (0.1608, 0.4848, 0.0584),
    "occlusion": (0.011, 0.0064, 0.0053),
    "protodash": (0.149, 0.149, 0.5296),
    "anchors": (0.4544, 0.4332, 0.808),
}
"""TPR at 0.1 % FPR before hardening, of the explainers missing in Table II."""


TABLE_V = {
    "smoothgrad": 0.0572,
    "vargrad": 0.0895,
    "integrated_gradients": 0.052,
    "gradcam": 0.0093,
    "guided_gradcam": 0.0546,
    "kernel_shap": 0.052,
    "lime": 0.046,
}
"""TPR at 0.1 % FPR with a shadow trained on none of the target's images, CIFAR-10."""

TABLE_VI = {
    "saliency": (0.0708, 0.0642),
    "guided_backprop": (0.0, 0.108),
    "integrated_gradients": (0.0676, 0.0398),
    "guided_gradcam": (0.0, 0.054),
    "input_x_gradient": (0.0386, 0.043),
    "deconvolution": (0.0, 0.1346),
}
"""The same with a DenseNet-161 and a ResNet-18 as shadow of a MobileNetV2, CIFAR-10."""

TABLE_VII = {
    "smoothgrad": 0.0659,
    "vargrad": 0.0623,
    "integrated_gradients": 0.1523,
    "gradcam": 0.0591,
    "guided_gradcam": 0.0612,
    "kernel_shap": 0.1202,
    "lime": 0.0985,
}
"""The same of a target with a smaller generalisation gap, CIFAR-100."""

TABLE_X = {"cifar10": (0.998, 0.771), "cifar100": (1.0, 0.454), "gtsrb": (0.997, 0.745)}
"""The target's accuracy in training and in test."""


def published(dataset: str) -> tuple[dict, ...]:
    """Returns the rows of a data set, for the arms of configs/deepleak.py; "" has none."""
    if not dataset:
        return ()
    # Tables II and III have a column for each data set
    place = DATASETS.index(dataset)
    rate, *_ = METRICS
    rest = {name: values[place] for name, values in TABLE_III.items()}
    rows = (
        *_table_2("DeepLeak, Table II", "network({})", TABLE_II, place),
        *_rows("DeepLeak, Table III, before hardening", rate, "network({})", rest),
        *_table_2("Shokri 2021, in DeepLeak's Table II", "variance({})", TABLE_II_SHOKRI, place),
        *_table_2("Liu 2024, in DeepLeak's Table II", "network(removal({}))", TABLE_II_LIU, place),
    )
    # Tables of this data set alone
    if dataset == "cifar10":
        source = "DeepLeak, Table I: shadow of the target's distribution, data set not stated"
        first = _rows(source, rate, "network({})", TABLE_I)
        fifth = _rows("DeepLeak, Table V: disjoint shadow", rate, "network({})", TABLE_V)
        rows = (*first, *rows, *fifth)
    return (*_banded(rows, dataset), *_accuracies(dataset))


def table_6(dataset: str, shadow: str) -> tuple[dict, ...]:
    """Returns Table VI for a shadow "densenet" or "resnet"; empty but for CIFAR-10."""
    if dataset != "cifar10":
        return ()
    place = ("densenet", "resnet").index(shadow)
    values = {name: rates[place] for name, rates in TABLE_VI.items()}
    return _banded(_rows("DeepLeak, Table VI", METRICS[0], "network({})", values), dataset)


def table_7(dataset: str) -> tuple[dict, ...]:
    """Returns Table VII's smaller gap; empty but for CIFAR-100."""
    if dataset != "cifar100":
        return ()
    source = "DeepLeak, Table VII: smaller generalisation gap"
    return _banded(_rows(source, METRICS[0], "network({})", TABLE_VII), dataset)


def chance(count: int) -> dict[str, float]:
    """Returns the 97.5 % quantile of each metric of an attack by chance.

    It has `count` members and as many others. The AUC's is Mann-Whitney's, the balanced accuracy's
    from two binomials at a rate of 1/2, the widest case.
    """
    # Standard deviations by chance; 1.96 is the normal 97.5 % quantile
    area = math.sqrt((2 * count + 1) / (12 * count**2))
    accuracy = math.sqrt(1 / (8 * count))
    return dict(zip(METRICS, (RATES[count], 0.5 + 1.96 * accuracy, 0.5 + 1.96 * area), strict=True))


def _banded(rows: Iterable[dict], dataset: str) -> tuple[dict, ...]:
    """Returns the rows with the upper end of chance."""
    bands = chance(EXAMPLES[dataset])
    return tuple(row | dict(band=bands[row["metric"]]) for row in rows)


def _accuracies(dataset: str) -> tuple[dict, ...]:
    learned, test = TABLE_X[dataset]
    source = "DeepLeak, Table X"
    trained = base.published(source, "train_accuracy", {"target": learned})
    return (*trained, *base.published(source, "accuracy", {"target": test}))


def _table_2(source: str, arm: str, table: dict, place: int) -> tuple[dict, ...]:
    """Returns all metrics of one part of Table II, explainer by explainer."""
    rows = []
    for name, cells in table.items():
        for metric, values in zip(METRICS, cells, strict=True):
            rows += _rows(source, metric, arm, {name: values[place]})
    return tuple(rows)


def _rows(source: str, metric: str, arm: str, values: dict[str, float]) -> tuple[dict, ...]:
    """Returns figures by explainer, with a note if the code computes something else."""
    # Notes by arm, since rows name arms and not explainers
    notes = {arm.format(name): note for name, note in NOTES.items()}
    rows = base.published(
        source, metric, {arm.format(name): value for name, value in values.items()}
    )
    return tuple(row | dict(note=notes[row["arm"]]) if row["arm"] in notes else row for row in rows)
