"""The gradient and what is made of it: one forward and one backward pass per point at which it is taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import memory
from xinv.explain.graph import one
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

SCORES = {"logit": lambda logits: logits, "probability": jax.nn.softmax}
"""What of the logits [K] is explained."""


@functools.cache
def gradient(of: str = "logit") -> Explainer:
    """The derivative of one class's score with respect to the image.

    The map is [H,W,C], in score per unit of intensity (Simonyan et al. 2014; Zhao et al. 2021, section 4.2).

    Args:
      of: "logit", which other libraries explain, or "probability", the prediction after softmax.

    Raises:
      InputError: `of` is neither.
    """
    if of not in SCORES:
        raise InputError(f"of={of!r} is no score to explain: choose one of {', '.join(SCORES)}")

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        return jax.grad(lambda image: SCORES[of](one(apply, variables)(image))[label])(image)

    return explain


@functools.cache
def saliency(of: str = "logit") -> Explainer:
    """The gradient's absolute value, [H,W,C] (Simonyan et al. 2014). See `gradient`."""
    base = gradient(of)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        return jnp.abs(base(apply, variables, image, label, key))

    return explain


@functools.cache
def input_x_gradient(of: str = "logit") -> Explainer:
    """The gradient times the image, elementwise; [H,W,C], in score (Shrikumar et al. 2016). See `gradient`."""
    base = gradient(of)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        return image * base(apply, variables, image, label, key)

    return explain


UNIFORM = "uniform"
"""The distribution that a baseline may be drawn from."""
METHODS = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")
"""Quadratures of the integral from the baseline to the image, numbered as in captum."""


@functools.cache
def integrated_gradients(
    steps: int = 50,
    method: str = "gausslegendre",
    multiply_by_inputs: bool = True,
    baseline: float | str = 0.0,
    of: str = "logit",
) -> Explainer:
    """The gradient's mean on the straight line from a baseline to the image (Sundararajan et al. 2017, eq. 1).

    Times image minus baseline, the map [H,W,C] is in score and sums to score(image) - score(baseline), but for the
    quadrature's error.

    Args:
      steps: points at which the gradient is taken.
      method: a quadrature, one of `METHODS`.
      multiply_by_inputs: False leaves the mean gradient, in score per unit of intensity.
      baseline: the intensity of every pixel of the baseline; or "uniform", an image of random intensities in [0,1].
      of: as for `gradient`.

    Raises:
      InputError: unknown `method`, `of` or `baseline`, or no steps.
    """
    if isinstance(baseline, str) and baseline != UNIFORM:
        raise InputError(f"baseline={baseline!r} is neither an intensity nor {UNIFORM!r}")
    base = gradient(of)
    positions, weights = quadrature(method, steps)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        if baseline == UNIFORM:
            start = jax.random.uniform(key, image.shape, image.dtype)
        else:
            start = jnp.full_like(image, baseline)

        def term(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            position, weight = row
            return weight * base(apply, variables, start + position * (image - start), label, key)

        mean = memory.total(term, (jnp.asarray(positions, image.dtype), jnp.asarray(weights, image.dtype)))
        return mean * (image - start) if multiply_by_inputs else mean

    return explain


def quadrature(method: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [steps] in [0,1] and weights [steps] of a quadrature over the unit interval.

    Raises:
      InputError: unknown method, or no steps.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is no quadrature: choose one of {', '.join(METHODS)}")
    if steps < 1 + (method == "riemann_trapezoid"):
        raise InputError(f"steps={steps} is too few for {method}")
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (1 + nodes) / 2, weights / 2
    weights = np.full(steps, 1 / steps)
    if method == "riemann_trapezoid":
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    shift = {"riemann_left": 0, "riemann_middle": 0.5, "riemann_right": 1}[method]
    return (np.arange(steps) + shift) / steps, weights
