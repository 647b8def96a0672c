"""Fixed changes of a release: nothing is learned, so their state is empty.

Each but `noise` is a function of its input, so that any number of queries gives the same release.
Their remaining information is open to every attacker; `noise` is averaged away (see
`xinv.defences.withstands`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xinv import train
from xinv.defences.maps import normal, require_maps, required
from xinv.numbers import (
    is_number,
    require,
    require_count,
    require_flag,
    require_not_negative,
    require_positive,
)
from xinv.space import Choice, Fixed, Number, searched
from xinv.types import Array, Defence, Key, Observation

_TINY = 1e-9
_BREAK_TIE = 1e-6


@functools.cache
def truncate(m: int, logits: bool = False) -> Defence:
    """Keeps the `m` largest of each prediction and sets the others to 0 (Yang et al. 2019).

    The rest is not rescaled. Of equal values the first are kept. Of logits, too, the others become
    0 (Thielen 2024, Section 5.4). Where none is above 0 they are 1 below the smallest kept one, so
    that the label stays.

    Args:
      m: number of kept classes.
      logits: True if predictions are logits.

    Returns:
      A defence of predictions.

    Raises:
      InputError: `m` is below 1; or, at check and call, above the number of classes.
    """
    require_count(m=m)

    def one(prediction: jax.Array) -> jax.Array:
        # top_k takes the first of equal values
        largest, kept = jax.lax.top_k(prediction, m)
        # A 0 above the largest logit would be the label
        hidden = 0.0
        if logits:
            hidden = jnp.where(largest[0] > 0, 0, largest[-1] - 1)
        return jnp.full_like(prediction, hidden).at[kept].set(largest)

    def check(observation: Observation, images: Any) -> None:
        # The factory does not know the number of classes
        classes = observation.prediction.shape[1]
        require(m <= classes, "m", m, f"at most {classes}, the classes")

    def change(observation: Observation, key: Key) -> Observation:
        check(observation, None)
        return observation._replace(prediction=jax.vmap(one)(observation.prediction))

    return _fixed(change, check, logits)


@functools.cache
def round_to(decimals: int) -> Defence:
    """Rounds each prediction, a probability or a logit, to `decimals` decimals.

    Thielen 2024, Table 5, rounds logits.

    Args:
      decimals: at least 0; halves go to the even digit.

    Returns:
      A defence of predictions.
    """
    require_count(0, decimals=decimals)

    def change(observation: Observation, key: Key) -> Observation:
        return observation._replace(prediction=jnp.round(observation.prediction, decimals))

    return _fixed(change)


@functools.cache
def reverse_sigmoid(beta: float = 1.0, gamma: float = 0.1) -> Defence:
    """Perturbs the prediction by a reverse sigmoid (Lee et al. 2018, arXiv 1806.00054).

    Releases ỹ ∝ max(y - r(y), 0) with r(y) = β(σ(γ logit(y)) - 1/2), normalised to sum 1. If this
    would change the predicted class, its value and the largest one change places, so the label is
    always the service's.

    It is made against model extraction. Against inversion it may harm: it adds to small
    probabilities in proportion to their logit, and an inverter rebuilds more from ỹ than from y
    (measured in configs/gnime.md).

    Args:
      beta: the magnitude β, positive.
      gamma: the steepness γ, positive.

    Returns:
      A defence of predictions that are probabilities.
    """
    require_positive(beta=beta, gamma=gamma)

    def one(y: jax.Array) -> jax.Array:
        # y − r(y), with logits kept finite at 0 and 1
        logit = jnp.log(jnp.maximum(y, _TINY)) - jnp.log(jnp.maximum(1 - y, _TINY))
        changed = jnp.maximum(y - beta * (jax.nn.sigmoid(gamma * logit) - 0.5), 0)
        # Swap the predicted class with the largest, a little above it in a tie
        top = jnp.argmax(y)
        largest = jnp.argmax(changed)
        changed = (
            changed.at[largest].set(changed[top]).at[top].set(changed[largest] * (1 + _BREAK_TIE))
        )
        return changed / jnp.sum(changed)

    def change(observation: Observation, key: Key) -> Observation:
        return observation._replace(prediction=jax.vmap(one)(observation.prediction))

    return _fixed(change, reads_logits=False)


@searched(low=Number(-5.0, -0.05, scaled=True), high=Number(0.05, 5.0, scaled=True))
@functools.cache
def clip(low: float, high: float) -> Defence:
    """Clips the explanation to [low, high] (DeepLeak, Algorithm 2, line 4).

    Args:
      low, high: finite numbers in the maps' units.

    Returns:
      A defence of explanations.
    """
    for name, value in (("low", low), ("high", high)):
        require(is_number(value), name, value, "a finite number")
    require(low < high, "low", low, f"below high, which is {high}")
    return _of_maps(lambda maps, key: jnp.clip(maps, low, high))


@searched(threshold=Number(0.01, 2.0, log=True, scaled=True))
@functools.cache
def mask(threshold: float, relative: bool = False) -> Defence:
    """Sets values of a magnitude below the threshold to 0 (DeepLeak, Algorithm 2, line 5).

    Args:
      threshold: in the units of the maps; with `relative`, a fraction of each map's largest
        magnitude.
      relative: see there.

    Returns:
      A defence of explanations.
    """
    require_not_negative(threshold=threshold)
    require_flag(relative=relative)
    # Above 1 a relative threshold would leave nothing
    require(
        not relative or threshold <= 1,
        "threshold",
        threshold,
        "a fraction up to 1",
    )

    def change(maps: jax.Array, key: Key) -> jax.Array:
        # A relative threshold differs from map to map
        magnitude = jnp.abs(maps)
        least = threshold * (jnp.max(magnitude, axis=(1, 2, 3), keepdims=True) if relative else 1.0)
        return jnp.where(magnitude < least, 0, maps)

    return _of_maps(change)


@searched(stdev=Number(0.01, 3.0, log=True, scaled=True))
@functools.cache
def noise(stdev: float) -> Defence:
    """Adds Gaussian noise to the explanation, without clipping (DeepLeak, Algorithm 2, line 6).

    The mean of q releases of one image is distorted by stdev²/q: 1/f queries leave a fraction f.

    Args:
      stdev: its standard deviation, in the units of the maps.

    Returns:
      A defence of explanations.
    """
    require_positive(stdev=stdev)
    return _of_maps(lambda maps, key: maps + stdev * normal(key, maps))


@searched(strength=Choice((0.0, 1.0)), deviation=Fixed(1.0))
@functools.cache
def rescale(deviation: float, strength: float = 1.0) -> Defence:
    """Scales each map to a common standard deviation: M·(deviation / std(M))^strength.

    A model is sure of its training examples, so members have smaller maps of the probability. The
    size of a map is no part of its message, and the order of its values stays. Constant maps stay
    as they are.

    Args:
      deviation: about the map's mean, in the units of the maps.
      strength: 0 leaves the map, 1 makes all deviations equal. In between the order of the maps'
        sizes stays, and with it their information on membership.

    Returns:
      A defence of explanations.
    """
    require_positive(deviation=deviation)
    require(
        is_number(strength) and 0 <= strength <= 1,
        "strength",
        strength,
        "from 0 to 1",
    )

    def change(maps: jax.Array, key: Key) -> jax.Array:
        # Work in units of the largest value, as the squares of tiny values are 0
        largest = jnp.max(jnp.abs(maps), axis=(1, 2, 3), keepdims=True)
        spread = jnp.std(
            maps / jnp.where(largest == 0, 1, largest),
            axis=(1, 2, 3),
            keepdims=True,
        )
        # A constant map has no deviation to scale
        flat = spread < _TINY
        size = jnp.where(flat, deviation, spread * largest)
        return jnp.where(flat, maps, maps * (deviation / size) ** strength)

    return _of_maps(change)


@searched(step=Number(0.01, 1.0, log=True, scaled=True))
@functools.cache
def quantise(step: float) -> Defence:
    """Rounds the explanation to multiples of `step`; DeepLeak's code has a step of 1e-4.

    Args:
      step: in the units of the maps; halves go to the even multiple.

    Returns:
      A defence of explanations.
    """
    require_positive(step=step)
    return _of_maps(lambda maps, key: step * jnp.round(maps / step))


def _of_maps(change: Callable[[Array, Key], jax.Array]) -> Defence:
    """Returns a defence that changes the explanation alone."""
    return _fixed(
        lambda observation, key: observation._replace(
            explanation=change(required(observation), key)
        ),
        require_maps,
    )


def _fixed(
    change: Callable[[Observation, Key], Observation],
    check: Callable[[Observation, Any], None] = lambda observation, images: None,
    reads_logits: bool = True,
) -> Defence:
    """Returns a defence that learns nothing."""

    def init(
        key: Key,
        observation: Observation,
        images: Any,
        session: train.Session = train.Session(),
    ) -> Any:
        # The state is empty, but bad data should fail here, not at the first release
        check(observation, images)
        return {}

    return Defence(
        init,
        lambda state, observation, key: change(observation, key),
        check,
        learns=False,
        logits=reads_logits,
    )
