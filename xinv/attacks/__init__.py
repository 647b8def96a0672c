"""Attacks: what an adversary rebuilds or finds out from observations.

Each factory returns an `xinv.types.Attack`. Most rebuild images. These tell members of a training
set from others, by scores above 0 for members:

| attack | reads | learns from |
|---|---|---|
| `gap` | prediction, label | nothing |
| `confidence` | prediction, label | one shadow |
| `relative` | prediction, label | S shadows, of the same examples and of public ones |
| `map_statistic` | one explanation | one shadow |
| `membership_network` | explanations; image, prediction, label | one shadow |
| `likelihood_ratio` | one explanation, or prediction and label | S shadows, of the same examples |

>>> import jax, numpy as np
>>> from xinv.types import Observation
>>> member, maps = np.arange(8) % 2, np.random.default_rng(0).normal(size=(8, 6, 6, 1))
>>> seen = Observation(np.ones((8, 1)), maps * np.where(member, 0.1, 1)[:, None, None, None])
>>> attack = map_statistic("variance")
>>> state = attack.fit(jax.random.key(0), seen, member)
>>> (attack.predict(state, seen) > 0).astype(int).tolist()
[0, 1, 0, 1, 0, 1, 0, 1]
"""

import sys
from collections.abc import Mapping
from typing import Any

from xinv import plugins
from xinv.attacks.activations import activations
from xinv.attacks.classes import class_inference
from xinv.attacks.confidence import confidence, gap
from xinv.attacks.decoder import decoder
from xinv.attacks.fredrikson import fredrikson
from xinv.attacks.joint import fit_jointly
from xinv.attacks.likelihood import likelihood_ratio
from xinv.attacks.network import membership_network
from xinv.attacks.preimage import preimage
from xinv.attacks.reconstruction import gradient_reconstruction
from xinv.attacks.relative import relative
from xinv.attacks.search import log_uniform_search
from xinv.attacks.statistic import map_statistic
from xinv.attacks.surrogate import attention_transfer
from xinv.types import Attack

FACTORIES = (
    activations,
    attention_transfer,
    class_inference,
    confidence,
    decoder,
    fredrikson,
    gap,
    gradient_reconstruction,
    likelihood_ratio,
    map_statistic,
    membership_network,
    preimage,
    relative,
)


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Attack:
    """The attack `name`; `given` is what it may take of the pipeline, as in `plugins.build`.

    Raises:
      InputError: an unknown name or parameter; lists what exists.
    """
    return plugins.build(sys.modules[__name__], "attack", name, hyper, given)


__all__ = [
    "activations",
    "attention_transfer",
    "build",
    "class_inference",
    "confidence",
    "decoder",
    "fit_jointly",
    "fredrikson",
    "gap",
    "gradient_reconstruction",
    "likelihood_ratio",
    "log_uniform_search",
    "map_statistic",
    "membership_network",
    "preimage",
    "relative",
]
