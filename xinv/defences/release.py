"""Release of observations by the service: applies every defence, example by example."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel
from xinv.defences.maps import require_scale, require_shape
from xinv.images import as_float
from xinv.numbers import HALF_ROUNDING, is_count, is_number, require_count
from xinv.types import Array, Defence, InputError, Key, Observation

Batch = tuple[Observation, Array | None]
"""Examples, and their images for a defence that sees them."""


def release(
    defence: Defence,
    state: Any,
    observation: Observation,
    key: Key,
    batch_size: int = 64,
    queries: int = 1,
    out: Observation | None = None,
    logits: bool = False,
    images: Array | None = None,
) -> Observation:
    """Applies `defence` to each of N examples by itself, streamed over all devices.

    Example i is released with `fold_in(key, i)`, so the result depends on neither the batch size
    nor the devices.

    Args:
      defence, state: the defence and the state of its `init`, perhaps saved and loaded since.
      observation: of N examples; array-likes, read batch by batch.
      key: for random defences; query q of an example uses `fold_in` of its key and q.
      batch_size: examples per dispatch.
      queries: independent releases of each example; their mean is returned, the knowledge of an
        attacker after as many queries. 1 returns the release itself.
      out: arrays of the observation's shapes to write into, such as memory maps.
      logits: True if predictions are logits.
      images: uint8, or float in [0,1], [N,H,W,C], for a defence that sees them.

    Returns:
      NumPy arrays in the shapes of `observation`.

    Raises:
      InputError: predictions are neither probabilities nor stated to be logits, or are logits that
        the defence does not treat; explanations are not finite, or their shape or scale differs
        from the observations of the defence's `init`; images are missing.
    """
    require_count(batch_size=batch_size, queries=queries)
    require_releasable(state, observation, logits)
    if logits and not defence.logits:
        raise InputError("this defence changes probabilities, and the predictions are logits")
    if not defence.sees_images:
        images = None
    elif images is None:
        raise InputError("this defence sees the images at the release: give images as well")
    # The history is for people: it never goes to a device
    arrays = {name: part for name, part in state.items() if name != "history"}
    return parallel.map_batches(
        _releases(defence, queries),
        arrays,
        (observation, images),
        batch_size,
        key,
        out,
    )


def each(
    defence: Defence,
    state: Any,
    observation: Observation,
    keys: Key,
    images: Array | None = None,
) -> Observation:
    """Releases each example by itself, with its own of `keys` [N]; the jitted part of `release`."""

    def one(example: Observation, image: Array | None, key: Key) -> Observation:
        # A batch of one: a defence cannot see an example's neighbours
        alone, own = jax.tree.map(lambda leaf: leaf[None], (example, image))
        return jax.tree.map(lambda leaf: leaf[0], applied(defence, state, alone, key, own))

    return jax.vmap(one)(observation, images, keys)


def applied(
    defence: Defence,
    state: Any,
    observation: Observation,
    key: Key,
    images: Array | None,
) -> Observation:
    """Applies a defence to a batch, with its images if it sees them."""
    if not defence.sees_images:
        return defence.apply(state, observation, key)
    return defence.apply(state, observation, key, as_float(images))


@functools.lru_cache(64)
def _releases(defence: Defence, queries: int) -> Callable[..., Observation]:
    def single(state: Any, batch: Batch, keys: Key) -> Observation:
        observation, images = batch
        return each(defence, state, observation, keys, images)

    def averaged(state: Any, batch: Batch, keys: Key) -> Observation:
        # Sum query by query, so that memory does not grow with their number
        def add(query: jax.Array, total: Observation) -> Observation:
            once = single(
                state,
                batch,
                jax.vmap(jax.random.fold_in, (0, None))(keys, query),
            )
            return jax.tree.map(jnp.add, total, once)

        total = jax.lax.fori_loop(
            0,
            queries,
            add,
            jax.tree.map(jnp.zeros_like, batch[0]),
        )
        return jax.tree.map(lambda leaf: leaf / queries, total)

    if queries == 1:
        return single
    return averaged


def require_releasable(
    state: Mapping[str, Any],
    observation: Observation,
    logits: bool,
) -> None:
    """Raises InputError if a defence of this state cannot release the data; see `release`."""
    # One NaN or infinity shows in the sum
    for name, array in zip(observation._fields, observation, strict=True):
        if array is not None and not np.isfinite(np.sum(array, dtype=np.float64)):
            raise InputError(f"the {name}s to release hold NaN or infinite values")
    # Logits may be any numbers
    low = np.min(observation.prediction, initial=0)
    high = np.max(observation.prediction, initial=1)
    if not logits and (low < -HALF_ROUNDING or high > 1 + HALF_ROUNDING):
        raise InputError(
            f"predictions reach from {low} to {high}, but probabilities are within [0,1]: "
            "give these, or logits=True for logits"
        )
    # A defence without calibration takes maps of any scale
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
    logits: bool = False,
    images: Array | None = None,
) -> float:
    """Estimates the number of queries for one image after which averaging undoes a defence.

    A release is the original plus a constant change b and a random one of variance v, over all
    values. The mean of q releases is distorted by b² + v/q. From q = v / (f(b² + v) - b²) on, this
    is at most a fraction f of a single release's distortion b² + v; the function returns this
    number. For noise alone it is 1/f. It is infinite for deterministic defences, and for a constant
    part beyond this fraction.

    Args:
      defence, state: as in `release`.
      observation: a sample of the released data; a hundred examples are plenty.
      key: for the releases.
      fraction: f, from 0 to 1, of the distortion that must remain.
      releases: number of releases of each example for the estimates of b² and v (without bias), at
        least 2.
      logits: True if predictions are logits.
      images: as for `release`.

    Returns:
      The number of queries, at least 1, or infinity. It is measured on the explanation, or on the
      prediction without one.

    Raises:
      InputError: `fraction` or `releases` is out of its range.
    """
    if not (is_number(fraction) and 0 < fraction < 1 and is_count(releases, 2)):
        raise InputError(
            f"fraction is {fraction!r} and releases {releases!r}, but must be within (0,1) and at"
            " least 2"
        )
    # Sum the changes and their squares over independent releases
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
                    logits=logits,
                    images=images,
                )
            )
            - original
        )
        total, squares = total + change, squares + np.mean(change**2) / releases
    # v without bias, from R releases; what remains of the mean square is b²
    random = (squares - np.mean((total / releases) ** 2)) * releases / (releases - 1)
    margin = fraction * squares - (squares - random)
    # Rounding alone is no randomness
    if random > 1e-9 * squares and margin > 0:
        return float(random / margin)
    return float("inf")


def _judged(observation: Observation) -> np.ndarray:
    if observation.explanation is None:
        judged = observation.prediction
    else:
        judged = observation.explanation
    return np.asarray(judged, np.float64)
