"""Maps on a common scale, each by itself."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from xinv.explain import door
from xinv.numbers import described, is_one_of
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables


def minmax(explanation: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Scales one map to [0,1] by its smallest and largest value.

    A map whose values differ by less than `epsilon` becomes 0 everywhere: the rest is rounding.
    """
    low = explanation.min()
    high = explanation.max()
    spread = high - low
    # The inner `where` keeps 0/0 out of the derivative.
    return jnp.where(
        spread < epsilon,
        0,
        (explanation - low) / jnp.where(spread < epsilon, 1, spread),
    )


SCALES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda explanation: explanation,
    "absolute": jnp.abs,
    "minmax": minmax,
    "absolute_minmax": lambda explanation: minmax(jnp.abs(explanation)),
}


def normalise(explainer: Explainer, how: str = "absolute_minmax") -> Explainer:
    """Puts an explainer's maps on a scale, one example at a time.

    Args:
      explainer: any explainer.
      how: "absolute_minmax" takes absolute values and then scales each map to [0,1] (Jeong et al.
        2022); "minmax", "absolute" or "none". A constant map becomes 0, never NaN.

    Returns:
      An explainer with maps of the same shape, on that scale.

    Raises:
      InputError: `how` is none of these, or `explainer` no function.
    """
    door.explainer(explainer)
    if not is_one_of(how, SCALES):
        raise InputError(f"how={described(how)} is no scale: choose one of {', '.join(SCALES)}")
    # A Partial's arrays stay arguments, so other arrays need no new program.
    if isinstance(explainer, Partial):
        return Partial(_scaled(how), explainer)
    return _on_scale(explainer, how)


@functools.cache
def _on_scale(explainer: Explainer, how: str) -> Explainer:
    """Returns one object per explainer and scale, so that its compiled program is found again."""
    return functools.partial(_scaled(how), explainer)


@functools.cache
def _scaled(how: str) -> Callable[..., jax.Array]:
    # The explainer is an argument, so a Partial's arrays stay arguments too.
    def explain(
        explainer: Explainer,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        return SCALES[how](explainer(apply, variables, image, label, key))

    return explain
