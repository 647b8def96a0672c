"""Statistics of explanations as signals of membership: functions of one map, for `jax.vmap`.

A model is surer of its training examples, so maps there are smaller (Shokri, Strobel and Zick 2021)
or sparser. All work in float32 and are finite on constant and zero maps.

>>> import numpy as np
>>> measured(("l1", "max"), np.float32([[[[3], [-4]]], [[[0], [0]]]])).tolist()
[[7.0, 4.0], [0.0, 0.0]]
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel
from xinv.attacks import checks
from xinv.numbers import described
from xinv.types import Array, InputError

FLOOR = float(np.finfo(np.float32).tiny)
"""Lower bound of numbers before a logarithm: the smallest normal float32, 1.2e-38."""
_BATCH = 256  # maps per dispatch

Signal = Callable[[jax.Array], jax.Array]
"""`map [h,w,c] -> float32 []`."""


def variance(explanation: jax.Array) -> jax.Array:
    """Returns the unbiased spatial variance, summed over channels; 0 of a map of one pixel."""
    pixels = explanation.astype(jnp.float32).reshape(-1, explanation.shape[-1])
    # Subtract one of the pixels first, so that a constant map has exactly 0
    pixels -= pixels[:1]
    pixels -= pixels.mean(axis=0, keepdims=True)
    return jnp.square(pixels).sum() / max(1, len(pixels) - 1)


def l1(explanation: jax.Array) -> jax.Array:
    """Returns the sum of magnitudes."""
    return _magnitudes(explanation).sum()


def l2(explanation: jax.Array) -> jax.Array:
    """Returns the Euclidean norm; squares neither overflow nor vanish."""
    relative, highest = _relative(explanation)
    return highest * jnp.sqrt(jnp.square(relative).sum())


def maximum(explanation: jax.Array) -> jax.Array:
    """Returns the largest magnitude."""
    return _magnitudes(explanation).max()


def entropy(explanation: jax.Array) -> jax.Array:
    """Returns the entropy in nats of the magnitudes as a distribution; uniform for a zero map."""
    relative, highest = _relative(explanation)
    # A map of zeros has no distribution: take the uniform one
    shares = jnp.where(
        highest > 0,
        relative / jnp.maximum(relative.sum(), 1),
        1 / relative.size,
    )
    return jax.scipy.special.entr(shares).sum()


def total_variation(explanation: jax.Array) -> jax.Array:
    """Returns the mean absolute difference of neighbours, down and across, summed over channels."""
    pixels = explanation.astype(jnp.float32)
    down = jnp.diff(pixels, axis=0)
    across = jnp.diff(pixels, axis=1)
    # Pairs of one channel, for a mean per channel
    pairs = (down.size + across.size) // pixels.shape[-1]
    return (jnp.abs(down).sum() + jnp.abs(across).sum()) / max(1, pairs)


def gini(explanation: jax.Array) -> jax.Array:
    """Returns the Gini index of the magnitudes, from 0 (constant or zero) to 1 (sparse)."""
    ascending = jnp.sort(_magnitudes(explanation).ravel())
    count = ascending.size
    highest = ascending[-1]
    ranks = jnp.arange(1, count + 1, dtype=jnp.float32)
    weights = (2 * ranks - count - 1) / count
    # The weights add to 0; without the smallest magnitude, small differences survive float32
    scale = jnp.where(highest > 0, highest, 1)
    excess = (weights * ((ascending - ascending[0]) / scale)).sum()
    return excess / jnp.maximum((ascending / scale).sum(), 1)


SIGNALS: Mapping[str, Signal] = MappingProxyType(
    {
        "variance": variance,
        "l1": l1,
        "l2": l2,
        "max": maximum,
        "entropy": entropy,
        "total_variation": total_variation,
        "gini": gini,
    }
)
"""The statistics by name; none is negative."""
SCALE_FREE = ("entropy", "gini")
"""The statistics unchanged by a factor on the map."""


def signals(names: Sequence[str]) -> Callable[[jax.Array], jax.Array]:
    """Returns the function `map [h,w,c] -> float32 [T]` of these statistics.

    The same names give the same function object, so that it compiles once.

    Args:
      names: T of `SIGNALS`, each once.

    Raises:
      InputError: there are no names, or one is unknown or given twice.
    """
    # Text is a sequence too, of letters
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise InputError(f"statistics is {described(names)} but must be a sequence of names")
    for name in names:
        checks.choice("statistic", name, SIGNALS)
    if len(set(names)) < len(names):
        raise InputError(f"statistics are {', '.join(names)}: give each of them once")
    return _signals(tuple(names))


def measured(names: Sequence[str], maps: Array) -> np.ndarray:
    """Returns the statistics float32 [N,T] of maps [N,h,w,c], read batch by batch.

    Raises:
      InputError: a name is not allowed, there is no map, or a statistic is not finite.
    """
    # Name the first bad map and statistic: a NaN would spread into every threshold
    found = parallel.map_batches(_batched(signals(names)), None, maps, _BATCH)
    broken = np.argwhere(~np.isfinite(found))
    if len(broken):
        row, column = broken[0]
        name = names[column]
        value = found[row, column]
        raise InputError(f"explanation {row} has the {name} {value}: explanations must be finite")
    return found


def logarithms(names: Sequence[str], values: Array) -> np.ndarray:
    """Returns statistics [...,T] in float64, on a scale where they are closer to normal.

    It is the logarithm, of at least `FLOOR`, except for those of `SCALE_FREE`.
    """
    values = np.asarray(values, np.float64)
    # Sizes of maps scatter by factors, so their logarithms are closer to normal
    logarithmic = np.log(np.maximum(values, FLOOR))
    return np.where(np.isin(names, SCALE_FREE), values, logarithmic)


@functools.cache
def _signals(names: tuple[str, ...]) -> Callable[[jax.Array], jax.Array]:
    def statistics(explanation: jax.Array) -> jax.Array:
        return jnp.stack([SIGNALS[name](explanation) for name in names])

    return statistics


@functools.cache
def _batched(statistics: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def program(shared: None, maps: jax.Array, keys: Any) -> jax.Array:
        del shared, keys
        return jax.vmap(statistics)(maps)

    return program


def _magnitudes(explanation: jax.Array) -> jax.Array:
    return jnp.abs(explanation.astype(jnp.float32))


def _relative(explanation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns magnitudes [h*w*c] as shares of the largest, and the largest; 0 for a zero map."""
    magnitudes = _magnitudes(explanation).ravel()
    highest = magnitudes.max()
    return magnitudes / jnp.where(highest > 0, highest, 1), highest
