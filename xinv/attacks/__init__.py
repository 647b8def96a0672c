"""Attacks: an adversary rebuilds images, or tells training images from others, by observations.

>>> import jax, numpy as np
>>> from xinv import attacks
>>> from xinv.types import Observation
>>> member, maps = np.arange(8) % 2, np.random.default_rng(0).normal(size=(8, 6, 6, 1))
>>> seen = Observation(np.ones((8, 1)), maps * np.where(member, 0.1, 1)[:, None, None, None])
>>> attack = attacks.build("map_statistic", statistic="variance")
>>> state = attack.fit(jax.random.key(0), seen, member)  # on a shadow model
>>> (attack.predict(state, seen) > 0).astype(int).tolist()  # on the target; here the same
[0, 1, 0, 1, 0, 1, 0, 1]

Each factory returns an `xinv.types.Attack`. Inversion attacks guess images [N,H,W,C] in [0,1]; a
known model is a shadow of the attacker's own, or the target in a white-box attack:

| attack | reads | method |
|---|---|---|
| `decoder` | prediction, explanations | an inversion network (Yang 2019, Zhao 2021) |
| `attention_transfer` | prediction | the same, by a surrogate's explanations (Zhao 2021) |
| `gradient_reconstruction` | prediction, a known model | descent to its answer (Thielen 2024) |
| `activations` | prediction, a known model | its last activations (Thielen 2024) |
| `preimage` | prediction, a known model | descent with priors (Yang 2019, Section II-B) |
| `fredrikson` | prediction, a known model | one image per class, MI-Face (Fredrikson 2015) |
| `class_inference` | prediction | one image per class, by a network (Yang 2019) |

Membership attacks guess scores [N], above 0 for members:

| attack | reads | learns from |
|---|---|---|
| `gap` | prediction, label | nothing |
| `confidence` | prediction, label | one shadow |
| `relative` | prediction, label | S shadows, of the same examples and of public ones |
| `map_statistic` | one explanation | one shadow |
| `membership_network` | explanations; image, prediction, label | one shadow |
| `likelihood_ratio` | one explanation, or prediction and label | S shadows, of the same examples |

Predictions are probabilities, or logits if the attack is built with `logits=True`; attacks without
this parameter treat both alike, or read none.

How to extend. Write `xinv/attacks/entropy.py`:

    '''Membership by the entropy of predictions.'''

    import functools
    from typing import Any

    import numpy as np

    from xinv import train
    from xinv.attacks import calibration, checks
    from xinv.types import Array, Attack, Key, Observation


    @functools.cache
    def entropy() -> Attack:
        '''Tells members by a low entropy, with one threshold from a shadow (Salem 2019).'''

        def fit(
            key: Key,
            observation: Observation,
            truth: Array,
            session: train.Session = train.Session(),
        ) -> dict[str, Any]:
            score = negative_entropy(observation)
            member = checks.members(truth, score.shape)
            return {"threshold": np.float64(calibration.threshold(member, score))}

        def predict(state: Any, observation: Observation) -> np.ndarray:
            return negative_entropy(observation) - state["threshold"]

        def check(observation: Observation, truth: Any) -> tuple[int, ...]:
            return ()  # the shape of one guess: a number

        return Attack(fit, predict, check, goal="membership", inputs=("prediction",))


    def negative_entropy(observation: Observation) -> np.ndarray:
        checks.finite(observation.prediction)
        p = np.maximum(np.asarray(observation.prediction, np.float64), 1e-38)
        return (p * np.log(p)).sum(axis=1)

Import it below and name it in `FACTORIES`. From outside of xinv one line registers it:

    attacks.FACTORIES += (entropy,)

An attack on maps calls `checks.explanations(name, observation)` in `check`, `fit` and `predict`.
`signals.measured(("max",), maps)` gives statistics of maps, and refuses maps that are not finite.
`logits=True` in the `Attack` says that it treats a service of logits, or reads no prediction.

A config with controls has it by
`config.arms.update(base.controlled("entropy", "prediction", name="entropy"))`. The contract tests
of `tests/test_attacks_membership.py` run it unasked.
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
__all__ = [
    "FACTORIES",
    "build",
    "fit_jointly",
    "log_uniform_search",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Attack:
    """Builds an attack by its name, for example `build("map_statistic", statistic="variance")`.

    Args:
      name: of the factory.
      given: the pipeline's offers, see `plugins.build`: a training's "recipe".
      hyper: the factory's parameters.

    Returns:
      The attack.

    Raises:
      InputError: an unknown name or parameter; lists those that exist.
    """
    return plugins.build(sys.modules[__name__], "attack", name, hyper, given)
