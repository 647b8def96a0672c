"""The evidence of a membership attack's network: maps, and a vector of the rest."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from xinv.attacks import checks
from xinv.attacks.inverter import select
from xinv.images import as_float
from xinv.types import Array, Batch, InputError, Observation

KINDS = ("explanation", "prediction", "image", "label")
HELD = ("label", "image")
_PART_VALUES = 2**22  # of maps that are in memory at a time while their deviation is taken


def evidence(
    inputs: tuple[str, ...],
    observation: Observation,
    label: Array | None,
    image: Array | None,
) -> dict[str, Array]:
    """Returns the arrays of `inputs` by kind; raises InputError if one of them is missing."""
    data = select(inputs, observation)
    # What is held comes from outside the release: the candidates themselves
    for kind, held in zip(HELD, (label, image), strict=True):
        if kind not in inputs:
            continue
        if held is None:
            raise InputError(f"this attack reads the {kind} of each candidate, and got none")
        data[kind] = held
    return data


def count_classes(observation: Observation, data: Batch) -> int:
    """Returns the number of classes; raises InputError for a label outside them."""
    classes = observation.prediction.shape[-1]
    checks.finite(data["prediction"])
    if "label" in data:
        label = np.asarray(data["label"])
        strange = label[(label < 0) | (label >= classes)]
        if len(strange):
            raise InputError(f"label {strange[0]} is no class: predictions have {classes} classes")
    return classes


def scaled(batch: Batch, deviation: jax.Array) -> Batch:
    """Returns the batch with its maps in units of their deviation."""
    if "explanation" not in batch:
        return batch
    return {**batch, "explanation": batch["explanation"].astype(jnp.float32) / deviation}


def read(
    observed: Observation,
    batch: Batch,
    classes: int,
) -> tuple[jax.Array | None, jax.Array]:
    """Returns the input of a network: maps [B,h,w,c] or None, and a vector [B,D] of the rest."""
    # Images become further channels of the maps, in the maps' size
    maps = observed.explanation
    if "image" in batch:
        image = as_float(batch["image"])
        if maps is None:
            maps = image
        else:
            shape = (*maps.shape[:3], image.shape[-1])
            image = jax.image.resize(image, shape, "linear")
            maps = jnp.concatenate([maps, image], axis=-1)

    vector = [observed.prediction.astype(jnp.float32)]
    # The true class, and its prediction, as released, as a number of its own
    if "label" in batch:
        label = jax.nn.one_hot(batch["label"], classes)
        vector.append(label)
        if observed.prediction.shape[-1]:
            vector.append((label * observed.prediction).sum(-1, keepdims=True))
    return maps, jnp.concatenate(vector, axis=-1)


def deviation(maps: Array | None) -> np.float32:
    """Returns the standard deviation of all values of maps [N,...]; 1 if all are equal."""
    count, mean, squares = 0, 0.0, 0.0
    for values in _parts(maps):
        added = values.size
        shift = values.mean() - mean
        # The moments of a union from those of its parts (Chan, Golub and LeVeque 1983)
        squares += values.var() * added + shift**2 * count * added / (count + added)
        mean += shift * added / (count + added)
        count += added
    if squares:
        return np.float32(np.sqrt(squares / count))
    return np.float32(1)


def _parts(maps: Array | None) -> Iterator[np.ndarray]:
    """Reads maps [N,...] a part at a time, as float64; raises InputError unless all are finite."""
    if maps is None:
        return
    # At least one map at a time, however large
    rows = max(1, _PART_VALUES // max(1, int(np.prod(maps.shape[1:]))))
    for begin in range(0, maps.shape[0], rows):
        positions = np.arange(begin, min(begin + rows, maps.shape[0]))
        values = np.asarray(maps[positions], np.float64)
        broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
        if len(broken):
            raise InputError(f"explanation {begin + broken[0]} holds NaN or infinite values")
        yield values
