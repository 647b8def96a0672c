"""The protocols of all plug-ins, and the tuples they pass. No logic lives here.

Layout is NHWC throughout. Images are uint8 in `xinv.data`, and float32 in [0, 1] for every model.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

# Arrays and the functions of models
Array = jax.Array | np.ndarray
Key = jax.Array
Variables = Any
"""The pytree of a model's parameters and statistics, in whatever form its `apply` expects."""

Apply = Callable[[Variables, Array], jax.Array]
"""`apply(variables, images[N,H,W,C] float32 in [0,1]) -> logits[N,K]`: any JAX function."""

Batch = Mapping[str, Array]


class InputError(ValueError):
    """Bad input from a person: one sentence with the bad value and the allowed ones."""


class Observation(NamedTuple):
    """The release of N private images, as an attacker receives it.

    Attributes:
      prediction: float32 [N, K], probabilities, or logits if the service releases these.
      explanation: float32 [N, h, w, c], or None if the service releases no explanation.
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
    """Infers the secret behind observations: images, or membership of a training set.

    Attributes:
      fit: `(key, Observation, truth[N,...], session=train.Session(), **holdings) -> state`, from
        the attacker's own examples. The state is a dict of trees of arrays; a trained network adds
        its losses per epoch as "history".
      predict: `(state, Observation, **holdings) -> guess[N,...]`.
      check: `(Observation, truth, **holdings)` of `jax.ShapeDtypeStruct`s, before anything is
        computed; raises InputError for shapes outside the attack's domain. Returns the shape of
        one guess.
      goal: its aim, a file of `xinv/audit/goals`: "reconstruction" of images, "membership" of
        examples.
      needs: the holdings taken by `fit`, `predict` and `check` as keywords: "known", a `WhiteBox`;
        of a membership attack also "label", the candidates' true classes int32 [N], "image", the
        candidates uint8 or float [N,H,W,C], and "population", a `Population`.
      inputs: the parts of an observation it needs, of "prediction" and "explanation"; () if the
        arm's own inputs decide.
      paired: True if `fit` takes observations of the very examples of `predict`, by S shadow
        models: prediction [N,S,K], explanation [N,S,h,w,c], truth [N,S]. It may keep state per
        example.
      parts: `(state, Observation, **holdings) -> guess[R,N,...]` of R models, the mean of which is
        returned by `predict`; None for a single one.
      summary: names of `attacks.signals.SIGNALS`, if the attack needs no more of a map. Its
        observations then hold these statistics, as explanation [...,1,1,T], so that the maps of
        many shadow models need not be kept.
      logits: True if it treats predictions that are logits, or reads none. A factory that treats
        them in another way than probabilities has a parameter `logits`, given by the pipeline.
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
    logits: bool = False


class Population(NamedTuple):
    """Public examples outside every training set of a membership attack, as the attacker sees them.

    Attributes:
      prediction: float32 [P,K], of S shadow models [P,S,K], in the form of the observations'.
      label: int32 [P], the true classes.
    """

    prediction: Array
    label: Array


class Defence(NamedTuple):
    """Turns an `Observation` into the released one.

    Attributes:
      init: `(key, Observation, images[N,H,W,C], session=train.Session()) -> state`, a dict of trees
        of arrays; a trained network adds its losses per epoch as "history".
      apply: `(state, Observation, key) -> Observation`, clean under jit and vmap; each example is
        independent of its neighbours.
      check: `(Observation, images)` of `jax.ShapeDtypeStruct`s, before anything is computed; raises
        InputError for shapes outside the defence's domain.
      learns: True if `init` reads its arguments; otherwise the state is {}, and nothing need be
        prepared.
      releasing: the factory's parameters that act in `apply` alone; one state of `init` serves all
        their values.
      logits: as in `Attack`, of the predictions to release.
      sees_images: True if `apply` takes the images [N,H,W,C] float32 in [0,1], too, as a fourth
        argument: a service has them at the release.
    """

    init: Callable[..., Any]
    apply: Callable[..., Observation]
    check: Callable[[Observation, Any], None] = lambda observation, images: None
    learns: bool = True
    releasing: tuple[str, ...] = ()
    logits: bool = False
    sees_images: bool = False


class Estimate(NamedTuple):
    """A statistic of a set of examples, with its confidence interval.

    Attributes:
      value: the statistic.
      low: lower end of the interval.
      high: upper end of the interval.
      p: p-value of a test against chance; None if the statistic has no test.
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
      apply: `(variables, *inputs) -> outputs`, for inference; a classifier's is an `Apply`.
      train: `(variables, *inputs, key=key) -> (outputs, updates)`, with dropout and batch
        statistics on; `updates` is a dict of the changed collections (empty without BatchNorm), to
        be merged into `variables`.
      embed: `(variables, images) -> features[N, D]`, the penultimate layer of a classifier; None
        for other networks.
      head: `(variables, features[N, D]) -> logits[N, K]`, the rest of a classifier after `embed`.
    """

    init: Callable[..., Variables]
    apply: Callable[..., jax.Array]
    train: Callable[..., tuple[jax.Array, Mapping[str, Any]]]
    embed: Callable[[Variables, Array], jax.Array] | None = None
    head: Callable[[Variables, Array], jax.Array] | None = None


class WhiteBox(NamedTuple):
    """A model open to gradients: a shadow of the attacker, or the target in a white-box attack."""

    model: Model
    variables: Variables


# The earlier name of `WhiteBox`, which public scripts import (shared/cases/case45.py)
Known = WhiteBox
