"""Any explainer under noise: the mean or the variance of its maps of noisy copies of the image.

One map of the base explainer per sample.
"""

import functools
from collections.abc import Callable

import jax

from xinv.explain import door
from xinv.explain.engine import memory
from xinv.explain.gradient import gradient
from xinv.numbers import is_count, is_number, require_flag
from xinv.plugins import cached
from xinv.space import Number, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables


@searched(stdev=Number(0.01, 1.0, log=True))
@cached
def smoothgrad(
    stdev: float = 0.15,
    samples: int = 50,
    base: Explainer | None = None,
    draw_baseline_from_distrib: bool = True,
) -> Explainer:
    """SmoothGrad: the mean map of noisy copies of the image (Smilkov et al. 2017, section 3).

    Args:
      stdev: standard deviation of the Gaussian noise, in units of intensity.
      samples: noisy copies.
      base: the explainer to average (in `build`, its name); None is `gradient()`.
      draw_baseline_from_distrib: whether a base with random draws, such as the baseline of
        `integrated_gradients(baseline="uniform")`, draws anew for each copy, or once for all
        (captum's default). Other bases ignore it.

    Returns:
      An explainer with a map of the base's shape and unit.

    Raises:
      InputError: no samples, a negative deviation, or a base that is no function.
    """

    def mean(noisy: Callable, keys: Key) -> jax.Array:
        # As many copies at once as fit into memory.
        return memory.total(noisy, keys) / samples

    return _tunnel(mean, stdev, samples, base, draw_baseline_from_distrib)


@searched(stdev=Number(0.01, 1.0, log=True))
@cached
def vargrad(
    stdev: float = 0.15,
    samples: int = 50,
    base: Explainer | None = None,
    draw_baseline_from_distrib: bool = True,
) -> Explainer:
    """VarGrad: the variance over noisy copies of the image (Adebayo et al. 2018, section 3).

    Args:
      stdev, samples, base, draw_baseline_from_distrib: as for `smoothgrad`.

    Returns:
      An explainer with a map of the base's shape, not negative, in the square of its unit.

    Raises:
      InputError: as for `smoothgrad`.
    """
    # The variance over all copies, divided by their number, not by one less.
    return _tunnel(
        memory.variance,
        stdev,
        samples,
        base,
        draw_baseline_from_distrib,
    )


def _tunnel(
    reduce: Callable[[Callable, Key], jax.Array],
    stdev: float,
    samples: int,
    base: Explainer | None,
    anew: bool,
) -> Explainer:
    """Makes the explainer `reduce(noisy, keys)`; `noisy(key)` is the map of one noisy copy."""
    require_flag(draw_baseline_from_distrib=anew)
    if not is_count(samples, 1) or not is_number(stdev) or stdev < 0:
        raise InputError(
            f"samples={samples!r} and stdev={stdev!r} are no noise: need at least 1 sample and no"
            " negative stdev"
        )
    # A name is refused: only `build` looks names up.
    base = gradient() if base is None else door.explainer(base)

    @functools.partial(door.checked, draws=True)
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        def noisy(copy_key: Key) -> jax.Array:
            # One key for the noise, one for the base's own draws.
            noise, inner = jax.random.split(copy_key)
            copy = image + stdev * jax.random.normal(noise, image.shape, image.dtype)
            return base(apply, variables, copy, label, inner if anew else key)

        return reduce(noisy, jax.random.split(key, samples))

    return explain
