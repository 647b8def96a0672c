"""RND: Gaussian noise of a given size, the baseline of Jeong et al. 2022."""

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
    """Adds Gaussian noise with a mean distortion of `mse` on the defender's data.

    The mean of q releases of one image is distorted by mse/q, or, for clipped noise, by somewhat
    more: see `xinv.defences.withstands`.

    Args:
      mse: mean squared change of a map's values, in their squared units; another defence's measured
        distortion.
      clipped: True releases maps of [0,1] in [0,1], and others within the smallest and largest
        value of the calibration. This clips some of the noise off: about half of its variance if
        most values lie on a limit, as after min–max scaling. `init` therefore solves for the
        variance with a mean squared change of `mse` after clipping. False gives the noise the
        variance `mse` and lets it leave the range, as in GNIME's code.

    Returns:
      A defence whose state has the "calibration" (see `maps.calibrate`) and the noise's "stdev".

    Raises:
      InputError: `mse` is not positive; or, in `init`, no noise clipped to the maps' range is as
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
        # Clipping takes off some of the noise: solve for its deviation
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
        # Noise is drawn anew for every release
        maps = observation.explanation
        limits = state["calibration"]["limits"]
        noisy = maps + state["stdev"] * normal(key, maps)
        return observation._replace(explanation=jnp.clip(noisy, *limits) if clipped else noisy)

    return Defence(init, apply, require_maps, logits=True)


def _calibrated(maps: Array, low: float, high: float, mse: float) -> float:
    """Returns the noise's standard deviation for a mean squared change `mse` after clipping."""
    # A histogram of the values stands for all maps
    low, high = float(low), float(high)
    counts = np.zeros(_BINS)
    edges = np.linspace(low, high, _BINS + 1)
    for start in range(0, len(maps), _CHUNK):
        counts += np.histogram(np.asarray(maps[start : start + _CHUNK]), edges)[0]
    # The limits, where most values are, are exact
    values, weights = (
        np.linspace(low, high, _BINS),
        counts / counts.sum(),
    )

    def excess(stdev: float) -> float:
        return weights @ clipped_variance(values, stdev, low, high) - mse

    # The change grows with the noise up to a bound: beyond it there is no solution
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
    """Returns E[(clip(v + stdev·n, low, high) - v)²], n standard normal, each v within limits."""
    if stdev == 0:
        return np.zeros_like(values)
    # The integral in three parts: clipped at low, clipped at high, in between
    down = (values - low) / stdev
    up = (high - values) / stdev
    inside = (
        stats.norm.cdf(up)
        - stats.norm.cdf(-down)
        - up * stats.norm.pdf(up)
        - down * stats.norm.pdf(down)
    )
    return stdev**2 * (down**2 * stats.norm.cdf(-down) + up**2 * stats.norm.cdf(-up) + inside)
