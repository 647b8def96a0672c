"""Occlusion: the drop of the score as a window of the image is replaced (Zeiler, Fergus 2014)."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.perturbation.predict import predict
from xinv.numbers import described, is_count
from xinv.plugins import cached
from xinv.space import Choice, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

Size = int | tuple[int, ...]
Baseline = float | tuple[float, ...] | np.ndarray


@searched(window=Choice((4, 8, 16)), stride=Choice((2, 4)))
@cached
def occlusion(
    window: Size = 8,
    stride: Size = 4,
    baseline: Baseline = 0.0,
) -> Explainer:
    """Mean drop of the label's logit over all windows on a pixel, as captum's Occlusion.

    Args:
      window: n for n x n pixels, (h, w), or (h, w, c) to slide over channels too.
      stride: step between windows, in the form of `window`; at most the window, so that every pixel
        is covered. The last window of an axis is cut off at the border.
      baseline: value of a covered pixel: a number, one per channel, or that of an image [H,W,C].

    Returns:
      An explainer with a map [H,W,1], or [H,W,C] for a window (h, w, c), in units of the logit.

    Raises:
      InputError: a window that does not fit, or a stride that would leave gaps.

    Cost: one forward pass per window, and one.
    """
    baseline = door.baseline(baseline)
    window, stride = _sizes("window", window), _sizes("stride", stride)
    if len(stride) > len(window):
        raise InputError(
            f"occlusion's stride {stride} has a channel step, its window {window} has no channel"
            " size"
        )

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        shape = image.shape if len(window) == 3 else (*image.shape[:2], 1)
        # A window is a product of one interval per axis: [positions, length] each.
        axes = [
            _covers(*axis) for axis in zip(shape, (*window, 1)[:3], (*stride, 1)[:3], strict=True)
        ]
        index = np.array([*product(*(range(len(cover)) for cover in axes))], np.int32)
        # -1 covers nothing: the last row is the image itself.
        rows = np.concatenate([index, np.full((1, 3), -1, np.int32)])

        def cover(shared: tuple[jax.Array, jax.Array], row: jax.Array) -> jax.Array:
            image, covered = shared
            y, x, c = (jnp.asarray(axis)[i] & (i >= 0) for axis, i in zip(axes, row, strict=True))
            return jnp.where(y[:, None, None] & x[:, None] & c, covered, image)

        shared = jnp.asarray(image), door.filled(baseline, image)
        logits = predict(apply, variables, cover, shared, rows)
        scores = logits[:, label]
        drops = (scores[-1] - scores[:-1]).reshape([len(axis) for axis in axes])
        # The mean over windows, axis by axis: contract the leading axis, append the image's.
        for axis in axes:
            drops = jnp.tensordot(
                drops,
                axis / axis.sum(0),
                axes=(0, 0),
                precision="highest",
            )
        return door.marked(drops.astype(logits.dtype), logits[-1])

    return explain


def _sizes(name: str, size: Size) -> tuple[int, ...]:
    """Returns a window or stride as (h, w) or (h, w, c); InputError for anything else."""
    if isinstance(size, np.ndarray | jax.Array):
        size = tuple(np.asarray(size).ravel().tolist())
    sizes = size if isinstance(size, tuple) else (size, size)
    if len(sizes) not in (2, 3) or not all(is_count(n, 1) for n in sizes):
        raise InputError(
            f"occlusion's {name} is n, (h, w) or (h, w, c) of whole numbers from 1, not"
            f" {described(size)}"
        )
    return sizes


def _covers(length: int, window: int, stride: int) -> np.ndarray:
    """Returns bool [n,length]: the pixels of an axis under each position of the window."""
    if window > length:
        raise InputError(f"an occlusion window of {window} does not fit an image axis of {length}")
    if stride > window and window < length:
        raise InputError(f"an occlusion stride of {stride} leaves gaps between windows of {window}")
    # The last position reaches the end of the axis, or sticks out and is cut off.
    starts = stride * np.arange(-(-(length - window) // stride) + 1)
    return (np.arange(length) >= starts[:, None]) & (np.arange(length) < starts[:, None] + window)
