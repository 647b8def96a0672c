"""Metrics of reconstructions, of released explanations, and of membership attacks.

>>> import numpy as np
>>> from xinv import metrics
>>> truth = np.zeros((2, 8, 8, 1), np.float32)
>>> guess = truth + np.float32([0.1, 0.01]).reshape(2, 1, 1, 1)
>>> metrics.build("psnr")(truth, guess).round().tolist()  # decibels, one number per image
[20.0, 40.0]

Every metric is a factory that returns a pure `fn(truth[N,...], guess[N,...]) -> float32 [N]`, clean
under jit and vmap. Image metrics compare pictures. Recognition metrics ask an independent
evaluation network, bound in the factory, to recognise them. Explanation metrics compare released
maps with the original ones, and with the target's answers.

| module | contents |
|---|---|
| `membership` | statistics of whole sets with intervals, made of `roc`, `area` and `chance` |
| `paired` | the comparison of two attacks on the same examples |
| `classification` | labels of a whole data set |
| `privacy` | the ε of a private training |
| `factors`, `trend` | properties of an explanation against the quality of reconstructions |
| `stats` | intervals of per-seed means; p-values adjusted for many tests |

How to extend. Write `xinv/metrics/absolute.py`:

    '''Mean absolute error of pictures.'''

    import functools

    import jax
    import jax.numpy as jnp

    from xinv.images import as_float
    from xinv.types import Array, Metric


    @functools.cache  # the same arguments give the same function, which compiles once
    def mae() -> Metric:
        '''Mean absolute error over pixels and channels, in [0,1]; 0 for equal images.'''

        def metric(truth: Array, guess: Array) -> jax.Array:
            difference = jnp.abs(as_float(truth) - as_float(guess))
            return difference.reshape(len(difference), -1).mean(axis=1)

        return metric

Import it below and name it in `FACTORIES`. From outside of xinv one line registers it:

    metrics.FACTORIES += (mae,)

Configs then have it as `config.metrics.image["mae"] = {}`. An entry in `xinv/report/measures.py`
gives it a label and the direction of a leak. The contract tests of `tests/test_metrics_contract.py`
run it unasked.
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
    "build",
    "chance",
    "classification",
    "factors",
    "membership",
    "paired",
    "privacy",
    "roc",
    "stats",
    "trend",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, **hyper: Any) -> Metric:
    """Builds a metric by its name, for example `build("ssim", sigma=2.5)`.

    Args:
      name: of the factory.
      hyper: the factory's parameters.

    Returns:
      `fn(truth[N,...], guess[N,...]) -> float32 [N]`.

    Raises:
      InputError: an unknown name or parameter; lists those that exist.
    """
    return plugins.build(sys.modules[__name__], "metric", name, hyper)
