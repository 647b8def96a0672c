"""Calibration of a defence to the observations of its `init`, and checks of others against it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.types import Array, InputError, Key, Observation

_CHUNK = 1024  # examples read at once
# How far the largest value of a map may leave the range in the calibration
_FACTOR = 10.0
# The same, if all maps of the calibration have one largest value, as after min–max scaling
_ALIKE = 1.01
_ROUNDING = 1e-5
_SHARE = 0.1  # least part of [0,1] reached by maps with this range

Calibration = Mapping[str, Array]
"""Statistics of a defence's observations at `init`, see `calibrate`."""


def calibrate(observation: Observation) -> dict[str, np.ndarray]:
    """Measures the defender's observations in float32, chunk by chunk.

    Returns:
      "prediction" [K] and "explanation" [h,w,c]: their means; "moments" [2]: mean and standard
      deviation of all values of the maps (1 if they are constant); "limits" [2]: [0,1] if the maps
      lie within and reach a tenth of it, otherwise their smallest and largest value; "peaks" [2]:
      the smallest and largest of the maps' largest magnitudes, without maps of zeros.

    Raises:
      InputError: there are no explanations, or they hold NaN or infinite values.
    """
    maps = required(observation)
    if not len(maps):
        raise InputError("the defender has no explanations: a defence is fitted to at least one")
    totals = np.zeros(maps.shape[1:])
    squares = 0.0
    low = np.inf
    high = -np.inf
    peaks = []
    # Sums, range and peaks in one pass over the maps
    for start in range(0, len(maps), _CHUNK):
        part = np.asarray(maps[start : start + _CHUNK], np.float64)
        totals, squares = totals + part.sum(axis=0), squares + np.square(part).sum()
        low, high = min(low, part.min()), max(high, part.max())
        peaks.append(np.abs(part).max(axis=(1, 2, 3)))
    if not np.isfinite(squares):
        raise InputError(
            "the defender's explanations hold NaN or infinite values: a defence needs finite"
            " numbers"
        )
    # Mean and deviation from the sums; maps constant but for rounding keep their scale
    mean = totals.sum() / (len(maps) * totals.size)
    deviation = np.sqrt(max(squares / (len(maps) * totals.size) - mean**2, 0.0))
    # Maps of zeros have no peak
    lit = np.concatenate(peaks)[np.concatenate(peaks) > 0]
    values = {
        "prediction": np.mean(observation.prediction, axis=0, dtype=np.float64),
        "explanation": totals / len(maps),
        "moments": [mean, deviation if deviation > _ROUNDING * abs(mean) else 1.0],
        "limits": [0.0, 1.0] if low >= 0 and _SHARE <= high <= 1 else [low, high],
        "peaks": [lit.min(), lit.max()] if lit.size else [0.0, 0.0],
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def required(observation: Observation) -> Array:
    """Returns the explanations.

    Raises:
      InputError: there are none, or they are not floating-point numbers [N,h,w,c].
    """
    maps = observation.explanation
    if maps is None:
        raise InputError("this defence changes explanations, and the observation has none")
    if len(maps.shape) != 4:
        raise InputError(f"explanations of shape {tuple(maps.shape)} are no maps: give [N,h,w,c]")
    if not jnp.issubdtype(maps.dtype, jnp.floating):
        raise InputError(
            f"explanations of type {maps.dtype} are no maps: give floating-point numbers"
        )
    return maps


def require_maps(observation: Observation, images: Any) -> None:
    """Checks the observation of a defence of any maps; see `required`."""
    del images
    required(observation)


def require_images(images: Array) -> None:
    """Raises InputError for images other than uint8 or fractions in [0,1]; reads them in chunks."""
    if images.dtype == np.uint8:
        return
    for start in range(0, len(images), _CHUNK):
        part = np.asarray(images[start : start + _CHUNK])
        # Fractions may leave [0,1] by rounding
        floating = jnp.issubdtype(part.dtype, jnp.floating)
        if not (floating and -_ROUNDING <= part.min() <= part.max() <= 1 + _ROUNDING):
            raise InputError(
                f"images of type {part.dtype} reach from {part.min()} to {part.max()}: give uint8,"
                " or floating-point numbers in [0,1]"
            )


def require_state(state: Any, *names: str) -> None:
    """Raises InputError if a state lacks one of these names, so is not from this defence's init."""
    # Name one missing part, and the ones held: they show whose state it is
    missing = [name for name in names if name not in state]
    if missing:
        held = ", ".join(sorted(state)) or "nothing"
        raise InputError(
            f"this defence needs the state that its init returned, with {missing[0]}: this one has"
            f" {held}"
        )


def require_shape(calibration: Calibration, observation: Observation) -> None:
    """Raises InputError for examples of another shape than the calibration's.

    Shapes are static, so this holds under jit.
    """
    for name in ("prediction", "explanation"):
        array = getattr(observation, name)
        fitted = tuple(calibration[name].shape)
        got = None if array is None else tuple(array.shape[1:])
        if got != fitted:
            raise InputError(
                f"this defence was fitted to {name}s of shape {fitted}, and is applied to {got}"
            )


def require_scale(calibration: Calibration, maps: Array) -> None:
    """Raises InputError for concrete maps of another scale than the calibration's.

    If all calibrated maps had one largest value, each map must have it too. Otherwise none may peak
    far above them, and of several maps the highest not far below: a single one may well be dim.
    """
    (low, high), (least, most) = np.asarray(calibration["limits"]), np.asarray(calibration["peaks"])
    peaks = [np.zeros(0)]
    # A range of [0,1] is exact: check it on every map
    for start in range(0, len(maps), _CHUNK):
        part = np.asarray(maps[start : start + _CHUNK])
        if (low, high) == (0, 1) and not -_ROUNDING <= part.min() <= part.max() <= 1 + _ROUNDING:
            raise InputError(
                f"this defence was fitted to maps in [0,1]: these reach from {part.min()} to"
                f" {part.max()}"
            )
        peaks.append(np.abs(part).max(axis=(1, 2, 3)))
    # One common peak: judge each map. Different peaks: judge the highest alone
    judged = np.concatenate(peaks)
    factor = _ALIKE
    several = True
    if most > _ALIKE * least:
        judged = judged.max(keepdims=True, initial=0)
        factor = _FACTOR
        several = len(maps) > 1
    outside = judged[
        (judged > most * factor) | ((judged > 0) & (judged < least / factor) & several)
    ]
    if outside.size:
        raise InputError(
            f"this defence was fitted to maps with peaks from {least} to {most}: one has"
            f" {outside[0]:.6g}"
        )


def normal(key: Key, maps: jax.Array) -> jax.Array:
    """Draws normal values in the shape of `maps` [N,h,w,c]; those of map i by `fold_in(key, i)`."""
    # A key for each map: its noise does not depend on the number of maps
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(maps)))
    return jax.vmap(lambda key: jax.random.normal(key, maps.shape[1:], maps.dtype))(keys)
