"""Games on superpixels: a coalition is the set of superpixels kept, its value the label's logit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.perturbation.predict import predict
from xinv.explain.perturbation.segment import Segmenter
from xinv.numbers import is_count
from xinv.types import Apply, Array, InputError, Variables

Baseline = float | tuple[float, ...] | np.ndarray | str
"""Value of an absent superpixel: a number, one per channel, an image [H,W,C], or "mean"."""


class Game(NamedTuple):
    """One image cut into M superpixels.

    Attributes:
      image: float [H,W,C].
      absent: float [H,W,C], the image with every superpixel absent.
      labels: int32 [H,W], the superpixel of each pixel.
    """

    image: jax.Array
    absent: jax.Array
    labels: jax.Array


def game(
    segmenter: Segmenter,
    image: Array,
    baseline: Baseline,
) -> tuple[Game, int]:
    """Cuts `image` into superpixels; returns the game and their number M."""
    count = segmenter.count(*image.shape[:2])
    image, labels = jnp.asarray(image), segmenter.labels(image)
    if isinstance(baseline, str):
        # Each superpixel's mean colour; one without pixels is divided by 1.
        absent = (
            _per_segment(image, labels, count)
            / jnp.maximum(
                _per_segment(
                    1,
                    labels,
                    count,
                ),
                1,
            )
        )[labels]
    else:
        absent = door.filled(baseline, image)
    return Game(image, absent, labels), count


def logits(
    apply: Apply,
    variables: Variables,
    game: Game,
    coalitions: jax.Array,
    active: jax.Array | None = None,
) -> jax.Array:
    """Evaluates the model on the coalitions bool [S,M]; returns logits [S,K]; see `predict`."""

    def compose(game: Game, coalition: jax.Array) -> jax.Array:
        # A pixel is kept if its superpixel is in the coalition.
        return jnp.where(coalition[game.labels][..., None], game.image, game.absent)

    return predict(apply, variables, compose, game, coalitions, active)


def paint(values: jax.Array, game: Game) -> jax.Array:
    """Returns the map [H,W,1] with each pixel at its superpixel's value, of `values` [M]."""
    return values[game.labels][..., None]


def products(game: Game, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums image·image, image·absent and absent·absent over each superpixel's pixels, [M] each."""
    # Distances between copies and the image need no more than these sums.
    pairs = (game.image, game.image), (game.image, game.absent), (game.absent, game.absent)
    return tuple(
        _per_segment((a * b).sum(-1, keepdims=True), game.labels, count)[:, 0] for a, b in pairs
    )


def check_baseline(baseline: Baseline) -> Baseline:
    """Returns the baseline as an array or "mean"; InputError for anything else."""
    return door.baseline(baseline, ("mean",))


def check_samples(name: str, samples: int, least: int) -> None:
    """Raises InputError for fewer than `least` samples."""
    if not is_count(samples, least):
        raise InputError(f"{name} takes at least {least} samples, not {samples!r}")


def _per_segment(values: Array | int, labels: jax.Array, count: int) -> jax.Array:
    """Sums [M, c] of values [H,W,c] over each superpixel."""
    # As a product with the membership, a sum over pixels is quick on every backend.
    member = jax.nn.one_hot(labels.reshape(-1), count, axis=0)
    flat = jnp.broadcast_to(
        jnp.asarray(values, member.dtype),
        (*labels.shape, jnp.shape(values)[-1] if jnp.ndim(values) else 1),
    )
    return jnp.matmul(member, flat.reshape(labels.size, -1), precision="highest")
