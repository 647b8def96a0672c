"""LIME: a sparse linear model of the score around one image (Ribeiro et al. 2016)."""

import functools

import jax
import jax.numpy as jnp

from xinv.explain import door
from xinv.explain.perturbation import coalitions, linear
from xinv.explain.perturbation.coalitions import Baseline, Game
from xinv.explain.perturbation.segment import Labels, Segmenter, superpixels
from xinv.numbers import described, is_number, is_one_of
from xinv.plugins import cached
from xinv.space import Number, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

PENALTIES = {"lasso": linear.lasso, "ridge": linear.ridge}


@searched(
    samples=Number(2, 25, whole=True),
    segments=Number(10, 100, whole=True),
    compactness=Number(1.0, 50.0, log=True),
)
@cached
def lime(
    samples: int = 25,
    segments: int | None = None,
    compactness: float | None = None,
    kernel_width: float = 1.0,
    alpha: float = 0.01,
    *,
    penalty: str = "lasso",
    distance: str = "cosine",
    baseline: Baseline = 0.0,
    segmentation: str | Labels | Segmenter = "slic",
    sigma: float | None = None,
) -> Explainer:
    """Coefficients of a weighted linear model of the logit on superpixels, as captum's Lime.

    Each of `samples` copies keeps each superpixel with probability 1/2; a copy at distance d from
    the image weighs exp(-d^2 / 2 kernel_width^2).

    Args:
      samples: forward passes.
      segments, compactness, segmentation, sigma: see `segment.superpixels`.
      kernel_width: in units of `distance`.
      alpha: strength of the penalty, on weights rescaled to mean 1: `linear.lasso`, `linear.ridge`.
      penalty: "lasso" or "ridge".
      distance: between image and copy as vectors, "cosine" or "euclidean".
      baseline: value of an absent superpixel: a number, one per channel, an image [H,W,C], or
        "mean", its own mean colour.

    Returns:
      An explainer with a map [H,W,1], in units of the logit.

    Raises:
      InputError: an option outside these.

    Cost: `samples` forward passes.
    """
    # Refuse a wrong option now, before anything is traced.
    segmenter = superpixels(segmentation, segments, compactness, sigma)
    baseline = coalitions.check_baseline(baseline)
    coalitions.check_samples("lime", samples, 2)
    if not is_one_of(penalty, PENALTIES):
        raise InputError(f"lime's penalty is {' or '.join(PENALTIES)}, not {described(penalty)}")
    if not is_one_of(distance, DISTANCES):
        raise InputError(f"lime's distance is {' or '.join(DISTANCES)}, not {described(distance)}")
    if not is_number(kernel_width) or kernel_width <= 0:
        raise InputError(f"lime's kernel_width is positive, not {described(kernel_width)}")
    if not is_number(alpha) or alpha < 0:
        raise InputError(f"lime's alpha is at least 0, not {described(alpha)}")

    @functools.partial(door.checked, draws=True)
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # Draw coalitions and evaluate the model on them.
        game, count = coalitions.game(segmenter, image, baseline)
        present = jax.random.bernoulli(key, 0.5, (samples, count))
        logits = coalitions.logits(apply, variables, game, present)
        scores = logits[:, label]
        # Fit the scores by the presence of superpixels, with more weight on copies near the image.
        x = present.astype(scores.dtype)
        weights = _kernel(DISTANCES[distance](game, x), kernel_width)
        values = PENALTIES[penalty](x, scores, weights, alpha)
        # Without the mark, a fit of NaN would be a map of zeros.
        return coalitions.paint(door.marked(values, logits), game)

    return explain


def _kernel(squared: jax.Array, width: float) -> jax.Array:
    """exp(-d^2 / 2 width^2) of squared distances, times a factor: rescaled weights cancel it."""
    # Relative to the nearest copy, so that the weights are never all zero.
    return jnp.exp((squared.min() - squared) / (2 * width**2))


def _cosine(game: Game, present: jax.Array) -> jax.Array:
    """Squared cosine distances [S] between the image and copies with `present` [S,M]."""
    # A copy's inner products are sums over its superpixels: no copy is stored.
    whole, cross, absent = coalitions.products(game, present.shape[1])
    dot = present @ whole + (1 - present) @ cross
    norm = jnp.sqrt(whole.sum() * (present @ whole + (1 - present) @ absent))
    return (1 - dot / jnp.maximum(norm, 1e-8)) ** 2


def _euclidean(game: Game, present: jax.Array) -> jax.Array:
    """Squared Euclidean distances [S] between the image and copies with `present` [S,M]."""
    whole, cross, absent = coalitions.products(game, present.shape[1])
    return (1 - present) @ (whole - 2 * cross + absent)


DISTANCES = {"cosine": _cosine, "euclidean": _euclidean}
