"""The protocols that every plug-in follows, and the tuples they pass. No logic lives here.

Layout is NHWC throughout. Images are uint8 in `xinv.data` and float32 in [0, 1] wherever a model
sees them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
Key = jax.Array
Variables = Any
"""The pytree of a model's parameters and statistics, in whatever form its `apply` expects."""

Apply = Callable[[Variables, Array], jax.Array]
"""`apply(variables, images[N,H,W,C] float32 in [0,1]) -> logits[N,K]`: any JAX function."""

Batch = Mapping[str, Array]


class InputError(ValueError):
    """Bad input from a person: one sentence that names the bad value and what is allowed."""


class Observation(NamedTuple):
    """All that an attacker ever gets of N private images.

    Attributes:
      prediction: float32 [N, K], probabilities.
      explanation: float32 [N, h, w, c], or None where the service releases no explanation.
    """

    prediction: Array
    explanation: Array | None = None


class Explainer(Protocol):
    """Explains one example; callers vmap."""

    def __call__(
        self,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        """Returns the map [h,w,c] of `image` [H,W,C] for class `label` []."""


class Attack(NamedTuple):
    """Infers what the observations hide: images, or who was in a training set.

    Attributes:
      fit: `(key, Observation, truth[N,...], session=train.Session(), **holdings) -> state`, from
        what an attacker may hold. The state is a dict of trees of arrays, with the losses per epoch
        as "history" where a network is trained.
      predict: `(state, Observation, **holdings) -> guess[N,...]`, from observations and what an
          attacker may hold.
      check: `(Observation, truth, **holdings)` of `jax.ShapeDtypeStruct`s; raises InputError where
        the attack cannot treat these shapes, before anything is computed. Returns the shape of one
        guess.
      goal: what it is after, a file of `xinv/audit/goals`: "reconstruction" of images, "membership"
          of examples.
      needs: the holdings that `fit`, `predict` and `check` take as keywords: "known", a `WhiteBox`; of
        a membership attack also "label", the candidates' true classes int32 [N], "image", the
        candidates uint8 or float [N,H,W,C], and "population", a `Population`.
      inputs: of "prediction" and "explanation", what it needs of an observation; () if the
        arm's own inputs say it.
      paired: whether `fit` takes observations of the very examples that `predict` is given, by S
        shadow models: prediction [N,S,K], explanation [N,S,h,w,c], truth [N,S]. It may keep state
        per example.
      parts: `(state, Observation, **holdings) -> guess[R,N,...]` of the R models whose mean is what
        `predict` returns; None for a single one.
      summary: names of `attacks.signals.SIGNALS`, where the attack needs no more of a map. Its
        observations then hold these statistics, as explanation [...,1,1,T], so that the maps of
        many shadow models need not be kept.
    """

    fit: Callable[..., Any]
    predict: Callable[..., Array]
    check: Callable[..., tuple[int, ...]] = lambda observation, truth: truth.shape[1:]
    needs: tuple[str, ...] = ()
    goal: str = "reconstruction"
    paired: bool = False
    summary: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    parts: Callable[..., Array] | None = None


class Population(NamedTuple):
    """Public examples that no model of a membership attack was trained on, as the attacker sees
    them.

    Attributes:
      prediction: float32 [P,K], probabilities; of S shadow models [P,S,K].
      label: int32 [P], the true classes.
    """

    prediction: Array
    label: Array


class Defence(NamedTuple):
    """Turns an Observation into what is released.

    Attributes:
      init: `(key, Observation, images[N,H,W,C], session=train.Session()) -> state`, a dict of trees
        of arrays, with the losses per epoch as "history" where a network is trained.
      apply: `(state, Observation, key) -> Observation`, clean under jit and vmap; no example sees
          its neighbours.
      check: `(Observation, images)` of `jax.ShapeDtypeStruct`s; raises InputError where the defence
        cannot treat these shapes, before anything is computed.
      learns: whether `init` reads what it is given; where it does not, the state is {}, and nothing
          need be prepared.
      releasing: the factory's parameters that act in `apply` alone, so that what `init` learned
          serves any of them.
    """

    init: Callable[..., Any]
    apply: Callable[[Any, Observation, Key], Observation]
    check: Callable[[Observation, Any], None] = lambda observation, images: None
    learns: bool = True
    releasing: tuple[str, ...] = ()


class Estimate(NamedTuple):
    """A statistic of a set of examples, with its confidence interval.

    Attributes:
      value: the statistic.
      low: lower end of the interval.
      high: upper end of the interval.
      p: p-value of a test against chance; None where no test belongs to the statistic.
    """

    value: float
    low: float
    high: float
    p: float | None = None


Metric = Callable[..., Any]
"""`fn(truth[N,...], guess[N,...]) -> [N]`, or `fn(member[N], score[N]) -> {name: Estimate}`."""


class Model(NamedTuple):
    """A network as pure functions, whatever library wrote it.

    Attributes:
      init: `(key, *inputs) -> variables`; the inputs give shapes only.
      apply: `(variables, *inputs) -> outputs`, for inference; for a classifier this is the `Apply`
          protocol.
      train: `(variables, *inputs, key=key) -> (outputs, updates)`, with dropout and batch
        statistics on; `updates` is a dict of the collections that changed (empty without
        BatchNorm), to be merged into `variables`.
      embed: `(variables, images) -> features[N, D]`, the penultimate layer of a classifier; None
          for other networks.
      head: `(variables, features[N, D]) -> logits[N, K]`, what a classifier does after `embed`.
    """

    init: Callable[..., Variables]
    apply: Callable[..., jax.Array]
    train: Callable[..., tuple[jax.Array, Mapping[str, Any]]]
    embed: Callable[[Variables, Array], jax.Array] | None = None
    head: Callable[[Variables, Array], jax.Array] | None = None


class WhiteBox(NamedTuple):
    """A model that an attacker can differentiate: a shadow of its own, or the target in a white-box
    attack.
    """

    model: Model
    variables: Variables


# The earlier name of `WhiteBox`, which public scripts import (shared/cases/case45.py)
Known = WhiteBox
