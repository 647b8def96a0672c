"""Metrics of reconstructions of private images, and of released explanations.

Every metric is a factory that returns a pure `fn(truth[N,...], guess[N,...]) -> float32 [N]`, clean
under jit and vmap. Image metrics compare pictures; recognition metrics ask an independent
evaluation network, bound in the factory, what it sees in them; explanation metrics compare released
maps with the original ones and ask the target what they explain.

`membership` has statistics of whole sets with intervals, made of the plain functions of `roc`,
`area` and `chance`; `paired` compares two attacks. Host statistics stand beside them:
`classification` judges labels of a whole data set, `privacy` gives the ε of a private training,
`factors` and `trend` relate a reconstruction's quality to what its explanation is like, and `stats`
turns the per-seed means into intervals and adjusts p-values of many tests.
"""

import sys
from typing import Any

from xinv import plugins
from xinv.metrics import (
    area,
    chance,
    classification,
    factors,
    membership,
    paired,
    privacy,
    roc,
    stats,
    trend,
)
from xinv.metrics.explanation import (
    deletion,
    distortion,
    insertion,
    masked_deepsim,
    max_sensitivity,
    spearman,
    top_overlap,
)
from xinv.metrics.image import mse, one_minus_mse, psnr, ssim
from xinv.metrics.recognition import attack_accuracy, deepsim, embedding_similarity
from xinv.types import Metric

FACTORIES = (
    mse,
    one_minus_mse,
    psnr,
    ssim,
    attack_accuracy,
    embedding_similarity,
    deepsim,
    distortion,
    masked_deepsim,
    spearman,
    top_overlap,
    deletion,
    insertion,
    max_sensitivity,
)

__all__ = [
    "FACTORIES",
    "area",
    "attack_accuracy",
    "build",
    "chance",
    "classification",
    "deepsim",
    "deletion",
    "distortion",
    "embedding_similarity",
    "factors",
    "insertion",
    "masked_deepsim",
    "max_sensitivity",
    "membership",
    "mse",
    "one_minus_mse",
    "paired",
    "privacy",
    "psnr",
    "roc",
    "spearman",
    "ssim",
    "stats",
    "top_overlap",
    "trend",
]


def build(name: str, **hyper: Any) -> Metric:
    """The metric `name` with its hyper-parameters bound, for example `build("ssim", sigma=2.5)`."""
    return plugins.build(sys.modules[__name__], "metric", name, hyper)
