"""RND: Gaussian noise of a stated size, the baseline of Jeong et al. 2022."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from xinv import train
from xinv.defences.maps import calibrate, normal, require_maps, require_shape, require_state
from xinv.numbers import require_flag, require_positive
from xinv.types import Array, Defence, InputError, Key, Observation

_BINS = 4096
_CHUNK = 1024  # examples read at once
_LARGEST = 1e3  # standard deviation of the noise, in widths of the maps' range


@functools.cache
def gaussian(mse: float, clipped: bool = True) -> Defence:
    """Adds Gaussian noise so that the released maps are distorted by `mse` on the average of the
    defender's data.

    The mean of q releases of one image is distorted by mse/q, or, where noise is clipped, by
    somewhat more: see `xinv.defences.withstands`.

    Args:
      mse: mean squared change of a map's values, in their squared units; another defence's measured
          distortion.
      clipped: whether maps in [0,1] are released in [0,1], and others within the smallest and
        largest value of the calibration. That clips some of the noise off, about half of its
        variance where most values lie on a limit, as after min–max scaling; so `init` solves for
        the variance that leaves a mean squared change of `mse`. Without it the noise has the
        variance `mse`, which is then what it changes, and leaves the range, as in GNIME's code.

    Raises:
      InputError: `mse` is not positive; or, in `init`, no noise clipped to the maps' range is that
          large.
    """
    require_positive(mse=mse)
    require_flag(clipped=clipped)

    def init(
        key: Key,
        observation: Observation,
        images: Any,
        session: train.Session = train.Session(),
    ) -> Any:
        calibration = calibrate(observation)
        if clipped:
            stdev = _calibrated(
                observation.explanation,
                *calibration["limits"],
                mse,
            )
        else:
            stdev = mse**0.5
        return {"calibration": calibration, "stdev": np.float32(stdev)}

    def apply(state: Any, observation: Observation, key: Key) -> Observation:
        require_state(state, "stdev", "calibration")
        require_shape(state["calibration"], observation)
        maps = observation.explanation
        limits = state["calibration"]["limits"]
        noisy = maps + state["stdev"] * normal(key, maps)
        return observation._replace(explanation=jnp.clip(noisy, *limits) if clipped else noisy)

    return Defence(init, apply, require_maps)


def _calibrated(maps: Array, low: float, high: float, mse: float) -> float:
    """The noise's standard deviation for which the mean squared change of `maps` after clipping is
    `mse`.
    """
    low, high = float(low), float(high)
    counts = np.zeros(_BINS)
    edges = np.linspace(low, high, _BINS + 1)
    for start in range(0, len(maps), _CHUNK):
        counts += np.histogram(np.asarray(maps[start : start + _CHUNK]), edges)[0]
    values, weights = (
        np.linspace(low, high, _BINS),
        counts / counts.sum(),
    )  # the limits, where most are, are exact

    def excess(stdev: float) -> float:
        return weights @ clipped_variance(values, stdev, low, high) - mse

    largest = _LARGEST * max(high - low, np.finfo(np.float32).tiny)
    if high <= low or excess(largest) < 0:
        most = excess(largest) + mse if high > low else 0.0
        raise InputError(
            f"mse is {mse} but noise within [{low}, {high}] distorts these maps by at most"
            f" {most:.3g}"
        )
    return optimize.brentq(excess, 0.0, largest, xtol=1e-7 * np.sqrt(mse))


def clipped_variance(
    values: np.ndarray,
    stdev: float,
    low: float,
    high: float,
) -> np.ndarray:
    """E[(clip(v + stdev·n, low, high) - v)²] for standard normal n and each v within the limits."""
    if stdev == 0:
        return np.zeros_like(values)
    down = (values - low) / stdev
    up = (high - values) / stdev
    inside = (
        stats.norm.cdf(up)
        - stats.norm.cdf(-down)
        - up * stats.norm.pdf(up)
        - down * stats.norm.pdf(down)
    )
    return stdev**2 * (down**2 * stats.norm.cdf(-down) + up**2 * stats.norm.cdf(-up) + inside)
