"""Confidence in a class as pixels are removed in the order of a map, after Liu et al. 2024.

"Please tell me more" (IEEE S&P 2024) attacks membership by such curves. Its schedule of removals is
not published: equal steps and a blurred image are choices made here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.gradient import SCORES, gradient
from xinv.explain.perturbation.predict import predict
from xinv.explain.perturbation.segment import smooth
from xinv.numbers import require_count
from xinv.plugins import cached
from xinv.types import Apply, Array, Explainer, Key, Variables

Baseline = float | tuple[float, ...] | np.ndarray | str
"""Value of a removed pixel: a number, one per channel, that of an image [H,W,C], or a word."""
BLUR, SIGMA = "blur", 5.0
"""The word for the blurred image, and the blur's standard deviation in pixels."""


@cached
def removal_trajectory(
    base: Explainer | None = None,
    steps: int = 16,
    baseline: Baseline = BLUR,
) -> Explainer:
    """The class's probability as the most important pixels are removed (after Liu et al. 2024).

    A pixel's importance is the sum of the absolute values of its map's channels; a map of another
    size is resized bilinearly. Of equally important pixels the upper left ones go first. With P
    pixels, round(P · i / steps) of them are removed at step i = 0, …, steps.

    Args:
      base: the explainer of the order (in `build`, its name or its section); None is `gradient()`.
      steps: removals of equally many pixels.
      baseline: value of a removed pixel: "blur" for the blurred image, a number, one per channel,
        or that of an image [H,W,C].

    Returns:
      An explainer with a map [1,1,steps+1]: the probability in [0,1] at steps 0, …, steps, after
      softmax, or after a sigmoid for a model with one logit.

    Raises:
      InputError: no steps, a baseline other than these, or a base that is no function.

    Cost: a map of the base, and steps + 1 forward passes.
    """
    require_count(steps=steps)
    baseline = door.baseline(baseline, (BLUR,))
    base = gradient() if base is None else door.explainer(base)

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # The map ranks the pixels once, for all steps.
        explanation = base(apply, variables, image, label, key)
        places = _places(explanation, image.shape[:2])
        pixels = image.shape[0] * image.shape[1]
        counts = np.linspace(0, pixels, steps + 1).round().astype(np.int32)

        # Each step removes the pixels whose place is below its count.
        def remove(shared: tuple[jax.Array, ...], count: jax.Array) -> jax.Array:
            image, removed, places = shared
            return jnp.where((places < count)[..., None], removed, image)

        shared = jnp.asarray(image), _removed(image, baseline), places
        logits = predict(apply, variables, remove, shared, jnp.asarray(counts))
        confidence = jax.vmap(SCORES["probability"])(logits)[:, label]

        # A map with NaN orders nothing.
        confidence = jnp.where(jnp.isfinite(explanation).all(), confidence, jnp.nan)
        return door.marked(confidence, logits)[None, None]

    return explain


def _places(explanation: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns each pixel's place, int [H,W]: 0 for the most important one of a map [h,w,c]."""
    importance = jnp.abs(explanation).sum(-1)
    importance = jax.image.resize(importance, size, "linear").reshape(-1)
    # A stable sort: ties keep reading order. Its inverse permutation is each pixel's place.
    order = jnp.argsort(-importance, stable=True)
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order))).reshape(size)


def _removed(image: jax.Array, baseline: Array | str) -> jax.Array:
    """Returns the image [H,W,C] with every pixel removed."""
    if isinstance(baseline, str):
        return smooth(image, SIGMA)
    return door.filled(baseline, image)
