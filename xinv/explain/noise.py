"""Any explainer under noise: its maps of noisy copies of the image, averaged or their variance.

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
    """The mean map of noisy copies of the image (Smilkov et al. 2017, section 3).

    Args:
      stdev: standard deviation of the Gaussian noise, in units of intensity.
      samples: noisy copies.
      base: the explainer whose maps are averaged (in `build`, its name); None is `gradient()`.
      draw_baseline_from_distrib: whether a base that draws, such as
        `integrated_gradients(baseline="uniform")` its baseline, draws anew for each copy, or once
        for all (captum's default). Other bases ignore it.

    Raises:
      InputError: no samples, a negative deviation, or a base that is no function.
    """

    def mean(noisy: Callable, keys: Key) -> jax.Array:
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
    """The variance over noisy copies of the image, not negative (Adebayo et al. 2018, section 3).

    See `smoothgrad`.
    """
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
    """`reduce(noisy, keys)` of the map `noisy(key)` of a noisy copy."""
    require_flag(draw_baseline_from_distrib=anew)
    if not is_count(samples, 1) or not is_number(stdev) or stdev < 0:
        raise InputError(
            f"samples={samples!r} and stdev={stdev!r} are no noise: need at least 1 sample and no"
            " negative stdev"
        )
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
            noise, inner = jax.random.split(copy_key)
            copy = image + stdev * jax.random.normal(noise, image.shape, image.dtype)
            return base(apply, variables, copy, label, inner if anew else key)

        return reduce(noisy, jax.random.split(key, samples))

    return explain
