"""The ε of a training by DP-SGD on shuffled batches, in closed form.

An epoch reads an example at most once, in a batch whose sum of clipped gradients has noise of σ
times the bound. So a training is a composition of `epochs` Gaussian mechanisms. This is exactly
μ-Gaussian differential privacy with μ = √epochs/σ (Dong, Roth & Su 2022, Corollary 3.3), whatever
the batches. Figures for Poisson-sampled batches are smaller and do not hold here.

Neighbouring training sets differ in one example; its gradient is 0 in one of them (zero-out). If an
example is replaced by another one, μ is twice as large: `count=2`. The same holds for groups: those
of up to `count` examples have `count` times the μ.

>>> round(epsilon(noise=1.0, epochs=20, delta=1e-5), 1)
28.4
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr
from scipy.stats import norm

from xinv.numbers import is_number, require, require_count, require_not_negative, require_positive


def delta(epsilon: float, noise: float, epochs: int, count: int = 1) -> float:
    """Returns the smallest δ of (ε, δ), Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) (Dong, Roth & Su 2022).

    Args:
      epsilon: ε, at least 0.
      noise: multiplier σ.
      epochs: number of passes over each example.
      count: number of examples by which training sets differ.

    Raises:
      InputError: an argument is not allowed.
    """
    require_not_negative(epsilon=epsilon)
    return _delta(epsilon, _mu(noise, epochs, count))


def epsilon(noise: float, epochs: int, delta: float, count: int = 1) -> float:
    """Returns the smallest ε of (ε, δ).

    Args:
      noise, epochs, count: as in `delta`.
      delta: δ, in (0, 1).

    Raises:
      InputError: an argument is not allowed.
    """
    _require_delta(delta)
    mu = _mu(noise, epochs, count)
    # Enough noise reaches δ with ε = 0
    if _delta(0.0, mu) <= delta:
        return 0.0
    # δ is at most Φ(μ/2 − ε/μ), which is below exp(−(ε/μ − μ/2)²/2)
    most = mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta))
    # δ falls with ε: bisect between 0 and the bound
    return float(
        brentq(
            lambda value: _delta(value, mu) - delta,
            0.0,
            most,
            xtol=1e-12,
        )
    )


def noise(epsilon: float, epochs: int, delta: float, count: int = 1) -> float:
    """Returns the smallest multiplier σ with (ε, δ).

    Args:
      epsilon, epochs, count: as in `delta`.
      delta: δ, in (0, 1).

    Raises:
      InputError: an argument is not allowed.
    """
    require_not_negative(epsilon=epsilon)
    require_count(epochs=epochs, count=count)
    _require_delta(delta)
    # δ grows with μ: double the upper end until it is too large
    most = 1.0
    while _delta(epsilon, most) <= delta:
        most *= 2
    mu = brentq(lambda value: _delta(epsilon, value) - delta, 0.0, most, xtol=1e-12)
    return count * math.sqrt(epochs) / float(mu)


def _require_delta(delta: float) -> None:
    allowed = "above 0 and below 1"
    require(is_number(delta) and 0 < delta < 1, "delta", delta, allowed)


def _mu(noise: float, epochs: int, count: int) -> float:
    # Corollary 3.3: μ of a composition is √epochs times that of one mechanism
    require_positive(noise=noise)
    require_count(epochs=epochs, count=count)
    return count * math.sqrt(epochs) / noise


def _delta(epsilon: float, mu: float) -> float:
    if mu == 0:
        return 0.0
    # e^ε φ(b) = φ(a): the second term is φ(a) Φ(b)/φ(b), and nothing overflows
    a = mu / 2 - epsilon / mu
    b = -mu / 2 - epsilon / mu
    ratio = math.sqrt(math.pi / 2) * erfcx(-b / math.sqrt(2))
    return float(np.clip(ndtr(a) - norm.pdf(a) * ratio, 0.0, 1.0))
