"""What DeepLeak (arXiv 2601.03429) and its references state, beside which xinv's figures are shown.

The paper's "GradCAM++" is Guided Grad-CAM with noise in its released code; its DeepLIFT is input x gradient, its
deconvolution and guided backpropagation are the gradient (see configs/deepleak.md).
"""

from configs import base

DATASETS = ("cifar10", "cifar100", "gtsrb")
BAND = {"cifar10": 0.0028, "cifar100": 0.0028, "gtsrb": 0.0047}
"""97.5 % of attacks that know nothing have a lower rate: 5,000 members and others, GTSRB 1,500."""

TABLE_II = {
    "smoothgrad": ((0.1038, 0.0681, 0.063), (0.910, 0.827, 0.751)),
    "vargrad": ((0.0678, 0.0668, 0.035), (0.732, 0.846, 0.726)),
    "integrated_gradients": ((0.0488, 0.1642, 0.4352), (0.861, 0.986, 0.995)),
    "gradcam": ((0.0095, 0.0678, 0.0074), (0.651, 0.86, 0.613)),
    "guided_gradcam": ((0.067, 0.18, 0.0578), (0.862, 0.983, 0.795)),
    "kernel_shap": ((0.0504, 0.118, 0.2883), (0.857, 0.884, 0.962)),
    "lime": ((0.1026, 0.105, 0.2152), (0.815, 0.891, 0.947)),
}
"""TPR at 0.1 % FPR, and AUC, on each data set."""

TABLE_II_SHOKRI = {
    "smoothgrad": ((0.002, 0.004, 0.003), (0.642, 0.799, 0.679)),
    "vargrad": ((0.002, 0.003, 0.001), (0.638, 0.814, 0.692)),
    "integrated_gradients": ((0.003, 0.004, 0.001), (0.630, 0.777, 0.687)),
    "gradcam": ((0.003, 0.006, 0.003), (0.654, 0.843, 0.642)),
    "guided_gradcam": ((0.002, 0.006, 0.003), (0.659, 0.842, 0.613)),
    "kernel_shap": ((0.002, 0.004, 0.002), (0.618, 0.798, 0.638)),
    "lime": ((0.001, 0.004, 0.002), (0.616, 0.788, 0.627)),
}
"""The same of Shokri 2021's variance threshold."""

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
"""TPR at 0.1 % FPR before hardening, of the explainers that Table II lacks."""


def published(dataset: str) -> tuple[dict, ...]:
    """The rows of a data set, for the arms of configs/deepleak.py."""
    place = DATASETS.index(dataset)
    rates = {f"network({name})": rate[place] for name, (rate, _) in TABLE_II.items()}
    areas = {f"network({name})": area[place] for name, (_, area) in TABLE_II.items()}
    rest = {f"network({name})": rate[place] for name, rate in TABLE_III.items()}
    shokri = {f"variance({name})": rate[place] for name, (rate, _) in TABLE_II_SHOKRI.items()}
    shokri_areas = {f"variance({name})": area[place] for name, (_, area) in TABLE_II_SHOKRI.items()}
    metric = "tpr_at_0.001"
    rows = (
        *base.published("DeepLeak, Table II", metric, rates),
        *base.published("DeepLeak, Table II", "auc", areas),
        *base.published("DeepLeak, Table III, before hardening", metric, rest),
        *base.published("Shokri 2021, in DeepLeak's Table II", metric, shokri),
        *base.published("Shokri 2021, in DeepLeak's Table II", "auc", shokri_areas),
    )
    return tuple(row | dict(band=BAND[dataset]) if row["metric"] == metric else row for row in rows)
