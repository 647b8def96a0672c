"""Release of observations by the service: every defence is applied here, example by example."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel
from xinv.defences.maps import require_scale, require_shape
from xinv.numbers import is_count, is_number, require_count
from xinv.types import Defence, InputError, Key, Observation

_ROUNDING = 1e-3  # of probabilities that were computed in half precision


def release(
    defence: Defence,
    state: Any,
    observation: Observation,
    key: Key,
    batch_size: int = 64,
    queries: int = 1,
    out: Observation | None = None,
) -> Observation:
    """Releases N examples: applies `defence` to each by itself, streamed over all devices.

    Example i is released with `fold_in(key, i)`, so the result depends on neither the batch size
    nor the devices.

    Args:
      defence, state: the defence and what its `init` returned, perhaps saved and loaded since.
      observation: of N examples; array-likes that are read batch by batch.
      key: for defences that draw; query q of an example uses `fold_in` of its key and q.
      batch_size: examples per dispatch.
      queries: independent releases of each example, of which the mean is returned: what an attacker
        who asks that often knows. 1 returns the release itself.
      out: arrays of the observation's shapes to write into, such as memory maps.

    Returns:
      NumPy arrays in the shapes of `observation`.

    Raises:
      InputError: predictions are no probabilities, explanations are not finite, or they have
        another shape or scale than the observations that the defence was fitted to.
    """
    require_count(batch_size=batch_size, queries=queries)
    require_releasable(state, observation)
    arrays = {name: part for name, part in state.items() if name != "history"}
    return parallel.map_batches(
        _releases(defence, queries),
        arrays,
        observation,
        batch_size,
        key,
        out,
    )


def each(
    defence: Defence,
    state: Any,
    observation: Observation,
    keys: Key,
) -> Observation:
    """Releases every example by itself, with its own of `keys` [N]; the part of `release` that runs
    under jit.
    """

    def one(example: Observation, key: Key) -> Observation:
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        return jax.tree.map(lambda leaf: leaf[0], defence.apply(state, alone, key))

    return jax.vmap(one)(observation, keys)


@functools.lru_cache(64)
def _releases(defence: Defence, queries: int) -> Callable[..., Observation]:
    def single(state: Any, observation: Observation, keys: Key) -> Observation:
        return each(defence, state, observation, keys)

    def averaged(state: Any, observation: Observation, keys: Key) -> Observation:
        def add(query: jax.Array, total: Observation) -> Observation:
            once = single(
                state,
                observation,
                jax.vmap(jax.random.fold_in, (0, None))(keys, query),
            )
            return jax.tree.map(jnp.add, total, once)

        total = jax.lax.fori_loop(
            0,
            queries,
            add,
            jax.tree.map(jnp.zeros_like, observation),
        )
        return jax.tree.map(lambda leaf: leaf / queries, total)

    if queries == 1:
        return single
    return averaged


def require_releasable(state: Mapping[str, Any], observation: Observation) -> None:
    """InputError for an observation that cannot be released by a defence of this state; see
    `release`.
    """
    for name, array in zip(observation._fields, observation, strict=True):
        if array is not None and not np.isfinite(np.sum(array, dtype=np.float64)):
            raise InputError(f"the {name}s to release hold NaN or infinite values")
    low = np.min(observation.prediction, initial=0)
    high = np.max(observation.prediction, initial=1)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"predictions reach from {low} to {high}, but a service releases probabilities in [0,1]"
        )
    if "calibration" in state:
        require_shape(state["calibration"], observation)
        require_scale(state["calibration"], observation.explanation)


def withstands(
    defence: Defence,
    state: Any,
    observation: Observation,
    key: Key,
    fraction: float = 0.5,
    releases: int = 16,
) -> float:
    """Estimates the number of queries for one image that a defence withstands: averaging more
    undoes it.

    A release is the original plus a constant change b and a random one of variance v, over all
    values. The mean of q releases is distorted by b² + v/q, which is at most a fraction f of a
    single one's distortion b² + v from q = v / (f(b² + v) - b²) on; that number is returned. For
    noise alone it is 1/f. It is infinite for defences that do not draw, and for those whose
    constant part alone is that large.

    Args:
      defence, state: as in `release`.
      observation: a sample of what is released; a hundred examples are plenty.
      key: for the releases.
      fraction: f, from 0 to 1, of the distortion that must remain.
      releases: how many releases of each example b² and v are estimated from (without bias), at
          least 2.

    Returns:
      The number of queries, at least 1, or infinity. Judged on the explanation, or on the
      prediction without one.
    """
    if not (is_number(fraction) and 0 < fraction < 1 and is_count(releases, 2)):
        raise InputError(
            f"fraction is {fraction!r} and releases {releases!r}, but must be within (0,1) and at"
            " least 2"
        )
    original = _judged(observation)
    total = 0.0
    squares = 0.0
    for number in range(releases):
        change = (
            _judged(
                release(
                    defence,
                    state,
                    observation,
                    jax.random.fold_in(key, number),
                )
            )
            - original
        )
        total, squares = total + change, squares + np.mean(change**2) / releases
    random = (squares - np.mean((total / releases) ** 2)) * releases / (releases - 1)
    margin = fraction * squares - (squares - random)
    if random > 1e-9 * squares and margin > 0:
        return float(random / margin)
    return float("inf")


def _judged(observation: Observation) -> np.ndarray:
    if observation.explanation is None:
        judged = observation.prediction
    else:
        judged = observation.explanation
    return np.asarray(judged, np.float64)
