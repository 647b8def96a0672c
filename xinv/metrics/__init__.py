"""How much of a private image a reconstruction gives back, per example.

Every metric is a factory that returns a pure `fn(truth[N,...], guess[N,...]) -> float32 [N]`, clean under jit and vmap.
Image metrics compare pictures; recognition metrics ask an independent evaluation network, bound in the factory, what it
sees in them. `xinv.metrics.stats` turns the per-seed means into intervals, on the host.
"""

import sys
from typing import Any

from xinv import plugins
from xinv.metrics import stats
from xinv.metrics.image import mse, one_minus_mse, psnr, ssim
from xinv.metrics.recognition import attack_accuracy, deepsim, embedding_similarity
from xinv.types import Metric

FACTORIES = (mse, one_minus_mse, psnr, ssim, attack_accuracy, embedding_similarity, deepsim)

__all__ = [
    "FACTORIES",
    "attack_accuracy",
    "build",
    "deepsim",
    "embedding_similarity",
    "mse",
    "one_minus_mse",
    "psnr",
    "ssim",
    "stats",
]


def build(name: str, **hyper: Any) -> Metric:
    """The metric `name` with its hyper-parameters bound, for example `build("ssim", sigma=2.5)`."""
    return plugins.build(sys.modules[__name__], "metric", name, hyper)
