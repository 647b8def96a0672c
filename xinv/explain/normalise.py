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

    A map whose values differ by less than `epsilon` becomes 0 everywhere: what is left of it is
    rounding.
    """
    low = explanation.min()
    high = explanation.max()
    spread = high - low
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
    """An explainer whose maps are put on a scale, one example at a time.

    Args:
      explainer: any explainer.
      how: "absolute_minmax", which takes absolute values and then scales each map to [0,1] (Jeong
        et al. 2022); "minmax", "absolute" or "none". A constant map becomes 0, never NaN.

    Raises:
      InputError: `how` is none of these, or `explainer` no function.
    """
    door.explainer(explainer)
    if not is_one_of(how, SCALES):
        raise InputError(f"how={described(how)} is no scale: choose one of {', '.join(SCALES)}")
    if isinstance(explainer, Partial):
        return Partial(_scaled(how), explainer)
    return _on_scale(explainer, how)


@functools.cache
def _on_scale(explainer: Explainer, how: str) -> Explainer:
    """The same object for the same explainer, so that what was compiled for it is found again."""
    return functools.partial(_scaled(how), explainer)


@functools.cache
def _scaled(how: str) -> Callable[..., jax.Array]:
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
