"""The gradient and methods made of it: one forward and one backward pass per point."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine import memory
from xinv.explain.engine.graph import one
from xinv.numbers import described, is_one_of, require_count, require_flag
from xinv.plugins import cached
from xinv.space import Choice, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

SCORES = {
    "logit": lambda logits: logits,
    "probability": lambda logits: (
        jax.nn.softmax(logits) if len(logits) > 1 else jax.nn.sigmoid(logits)
    ),
}
"""Scores of the logits [K] that can be explained; K = 1 is a binary classifier."""


@cached
def gradient(of: str = "logit") -> Explainer:
    """The derivative of one class's score with respect to the image (Simonyan et al. 2014).

    Args:
      of: "logit", the score of other libraries, or "probability", the prediction after
        softmax (Zhao et al. 2021, section 4.2); after a sigmoid for a model with one
        logit, whose label is 0.

    Returns:
      An explainer with a map [H,W,C], in score per unit of intensity.

    Raises:
      InputError: `of` is neither.
    """
    if not is_one_of(of, SCORES):
        raise InputError(
            f"of={described(of)} is no score to explain: choose one of {', '.join(SCORES)}"
        )

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        def score(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = one(apply, variables)(image)
            return SCORES[of](logits)[label], logits

        # The logits come along from the same forward pass, for the check of NaN.
        slope, logits = jax.grad(score, has_aux=True)(image)
        return door.marked(slope, logits)

    return explain


@cached
def saliency(of: str = "logit") -> Explainer:
    """The gradient's absolute value (Simonyan et al. 2014).

    Args:
      of: as for `gradient`.

    Returns:
      An explainer with a map [H,W,C], in score per unit of intensity, not negative.

    Raises:
      InputError: as for `gradient`.
    """
    # The sign is dropped: how much a pixel matters, not in which direction.
    base = gradient(of)

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        return jnp.abs(base(apply, variables, image, label, key))

    return explain


@cached
def input_x_gradient(of: str = "logit") -> Explainer:
    """The gradient times the image, elementwise (Shrikumar et al. 2016).

    Args:
      of: as for `gradient`.

    Returns:
      An explainer with a map [H,W,C], in score.

    Raises:
      InputError: as for `gradient`.
    """
    # The first-order term of the score's change from a black image.
    base = gradient(of)

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        return image * base(apply, variables, image, label, key)

    return explain


Baseline = float | tuple[float, ...] | np.ndarray | str
"""Intensities: one, one per channel or an image [H,W,C]; or a word for their source."""
UNIFORM = "uniform"
"""The word for a baseline drawn uniformly from [0,1]."""
METHODS = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")
"""Quadratures of the integral from the baseline to the image, numbered as in captum."""


@searched(method=Choice(METHODS), multiply_by_inputs=Choice((True, False)))
@cached
def integrated_gradients(
    steps: int = 50,
    method: str = "gausslegendre",
    multiply_by_inputs: bool = True,
    baseline: Baseline = 0.0,
    of: str = "logit",
) -> Explainer:
    """The mean gradient on the line from a baseline to the image (Sundararajan et al. 2017, eq. 1).

    Args:
      steps: points of evaluation of the gradient.
      method: a quadrature, one of `METHODS`.
      multiply_by_inputs: False leaves the mean gradient, in score per unit of intensity.
      baseline: an intensity, one per channel or an image [H,W,C]; or "uniform", an image of random
        intensities in [0,1].
      of: as for `gradient`.

    Returns:
      An explainer with a map [H,W,C], in score; it sums to score(image) - score(baseline), but for
      the quadrature's error.

    Raises:
      InputError: unknown `method`, `of` or `baseline`, or no steps.
    """
    baseline = door.baseline(baseline, (UNIFORM,))
    require_flag(multiply_by_inputs=multiply_by_inputs)
    base = gradient(of)
    positions, weights = quadrature(method, steps)

    @functools.partial(door.checked, draws=isinstance(baseline, str))
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        if isinstance(baseline, str):
            start = jax.random.uniform(key, image.shape, image.dtype)
        else:
            start = door.filled(baseline, image)

        def term(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            position, weight = row
            return weight * base(apply, variables, start + position * (image - start), label, key)

        # The sum over the points, as many at once as fit into memory.
        mean = memory.total(
            term, (jnp.asarray(positions, image.dtype), jnp.asarray(weights, image.dtype))
        )
        if multiply_by_inputs:
            return mean * (image - start)
        return mean

    return explain


def quadrature(method: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions [steps] in [0,1] and weights [steps] of a quadrature of the unit interval.

    Raises:
      InputError: unknown method, or no steps.
    """
    if not is_one_of(method, METHODS):
        raise InputError(
            f"method={described(method)} is no quadrature: choose one of {', '.join(METHODS)}"
        )
    require_count(steps=steps)
    if steps < 1 + (method == "riemann_trapezoid"):
        raise InputError(f"steps={steps} is too few for {method}")
    if method == "gausslegendre":
        # Its nodes and weights are those of [-1,1].
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (1 + nodes) / 2, weights / 2
    # Riemann sums: equal weights, halved at the ends of the trapezoids.
    weights = np.full(steps, 1 / steps)
    if method == "riemann_trapezoid":
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    shift = {"riemann_left": 0, "riemann_middle": 0.5, "riemann_right": 1}[method]
    return (np.arange(steps) + shift) / steps, weights
