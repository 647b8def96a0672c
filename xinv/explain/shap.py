"""Shapley values of superpixels: by regression on coalitions (KernelSHAP) and by permutations."""

import functools
from itertools import product
from math import comb

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.perturbation import coalitions, linear
from xinv.explain.perturbation.coalitions import Baseline
from xinv.explain.perturbation.segment import Labels, Segmenter, superpixels
from xinv.plugins import cached
from xinv.space import Number, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

MOST_ENUMERATED = 16
"""Superpixels of a complete enumeration, of 2^16 coalitions."""


@searched(
    samples=Number(3, 25, whole=True),
    segments=Number(10, 100, whole=True),
    compactness=Number(1.0, 50.0, log=True),
)
@cached
def kernel_shap(
    samples: int | None = 25,
    segments: int | None = None,
    compactness: float | None = None,
    *,
    baseline: Baseline = 0.0,
    segmentation: str | Labels | Segmenter = "slic",
    sigma: float | None = None,
) -> Explainer:
    """KernelSHAP (Lundberg and Lee 2017) of the label's logit, as captum's KernelShap.

    The values always add up to f(image) - f(all absent), by constraint (captum: by
    weights of 10^6). With fewer coalitions than superpixels the solution of least norm
    is taken, as captum does.

    Args:
      samples: coalitions, the full and the empty one among them; the others have a size k with
        probability in proportion to 1 / k(M-k), all sets of one size being equally likely. None,
        or at least 2^M: every coalition once, with its Shapley weight, for the exact Shapley
        values of M superpixels.
      segments, compactness, segmentation, sigma: see `segment.superpixels`.
      baseline: value of an absent superpixel: a number, one per channel, an image [H,W,C], or
        "mean", its own mean colour.

    Returns:
      An explainer with a map [H,W,1], in units of the logit; a pixel has its superpixel's value.

    Raises:
      InputError: an option outside these, or None with more than 16 superpixels.

    Cost: `samples` forward passes, at most 2^M.
    """
    segmenter = superpixels(segmentation, segments, compactness, sigma)
    baseline = coalitions.check_baseline(baseline)
    if samples is not None:
        coalitions.check_samples("kernel_shap", samples, 3)

    @functools.partial(door.checked, draws=samples is not None)
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        game, count = coalitions.game(segmenter, image, baseline)
        if samples is None and count > MOST_ENUMERATED:
            raise InputError(
                f"kernel_shap enumerates at most {MOST_ENUMERATED} superpixels, not {count}: give"
                " samples"
            )
        # All coalitions with Shapley's weights, or a sample drawn by these weights.
        if samples is None or samples >= 2**count:
            present, weights = _all_coalitions(count)
        else:
            present = _sample_coalitions(key, samples, count)
            weights = jnp.ones(samples - 2)
        # Rows 0 and 1 are the full and the empty coalition: the sum of all values, and the origin.
        logits = coalitions.logits(apply, variables, game, present)
        scores = logits[:, label]
        total = scores[0] - scores[1]
        rest = scores[2:] - scores[1]
        values = linear.sum_constrained(
            jnp.asarray(present[2:], scores.dtype),
            rest,
            weights,
            total,
        )
        return coalitions.paint(door.marked(values, logits[0]), game)

    return explain


@cached
def shapley_sampling(
    samples: int = 25,
    segments: int | None = None,
    compactness: float | None = None,
    *,
    baseline: Baseline = 0.0,
    segmentation: str | Labels | Segmenter = "slic",
    sigma: float | None = None,
) -> Explainer:
    """Shapley values by random permutations (Castro 2009), as captum's ShapleyValueSampling.

    Superpixels enter one after another in each of `samples` random orders; a value is
    the mean change of the label's logit on entering, so the values always add up to
    f(image) - f(all absent).

    Args:
      samples: random orders.
      segments, compactness, segmentation, sigma, baseline: as for `kernel_shap`.

    Returns:
      An explainer with a map [H,W,1], in units of the logit; a pixel has its superpixel's value.

    Raises:
      InputError: an option outside these.

    Cost: samples x (M - 1) + 2 forward passes for M superpixels.
    """
    segmenter = superpixels(segmentation, segments, compactness, sigma)
    baseline = coalitions.check_baseline(baseline)
    coalitions.check_samples("shapley_sampling", samples, 1)

    @functools.partial(door.checked, draws=True)
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        game, count = coalitions.game(segmenter, image, baseline)
        ranks = _ranks(key, samples, count)
        # In order s, coalition k holds the superpixels of ranks below k.
        # All orders share both ends.
        inner = (ranks[:, None] < np.arange(1, count)[:, None]).reshape(-1, count)
        ends = np.array([[True], [False]]) & np.ones(count, bool)
        logits = coalitions.logits(
            apply,
            variables,
            game,
            jnp.concatenate([ends, inner]),
        )
        scores = logits[:, label]
        full, empty = (jnp.full((samples, 1), scores[i]) for i in (0, 1))
        # The change on entering at rank r is the r-th difference of scores along an order.
        path = jnp.concatenate([empty, scores[2:].reshape(samples, -1), full], 1)
        values = jnp.take_along_axis(jnp.diff(path), ranks, 1).mean(0)
        return coalitions.paint(door.marked(values, logits[0]), game)

    return explain


def _ranks(key: Key, samples: int, count: int) -> jax.Array:
    """Returns int [samples,count]: the rank of each superpixel in each random order."""
    return jnp.argsort(jax.random.uniform(key, (samples, count)), axis=1)


def _sample_coalitions(key: Key, samples: int, count: int) -> jax.Array:
    """Draws bool [samples,count]: the full and the empty coalition, then by Shapley's kernel."""
    order_key, size_key = jax.random.split(key)
    sizes = np.arange(1, count)
    # A size k by p(k) ~ 1 / k(M-k), then the first k superpixels of a random order.
    drawn = (
        jax.random.categorical(size_key, -np.log(sizes * (count - sizes)), shape=(samples - 2, 1))
        + 1
    )
    ends = np.array([[True], [False]]) & np.ones(count, bool)
    return jnp.concatenate([ends, _ranks(order_key, samples - 2, count) < drawn])


def _all_coalitions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns all coalitions, bool [2^count,count], the full and the empty one first.

    The Shapley weights of the others come second.
    """
    present = np.array([*product([True, False], repeat=count)])
    present = np.concatenate([present[:1], present[-1:], present[1:-1]])
    # Shapley's kernel (Lundberg and Lee 2017, theorem 2), by the size k.
    weights = []
    for k in range(1, count):
        weights.append((count - 1) / (comb(count, k) * k * (count - k)))
    return present, np.array(weights, np.float32)[present[2:].sum(1) - 1]
