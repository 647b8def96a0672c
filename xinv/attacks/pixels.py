"""Parts of the optimised inversions: starts, priors, filters, the descent, and the attack's form.

An optimised inversion has the model itself, a `WhiteBox`. Its whole descent is one compiled program
on every backend: a batch goes in, the images come out. Each example's loss is a sum over its own
pixels, so the step of one example depends neither on its neighbours nor on the batch size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv import train
from xinv.attacks import checks
from xinv.images import as_float
from xinv.types import Array, Attack, InputError, Key, Observation, WhiteBox

STARTS = ("class_average", "class_instance", "random")
_ROWS = 4096  # images read at once for the class averages


def batch_size() -> int:
    """Returns the images per dispatch, over all devices: on CPU as many as fit the caches.

    On two cores the descent of `launch/bench.py inversion` makes 4,100 image-steps per second in
    batches of 16 or 32, 3,800 of 64 and 3,200 of 250.
    """
    # Measured, see above; an accelerator needs more images to be busy
    if jax.default_backend() == "cpu":
        return 32
    return 1024


def descend(
    gradient: Callable[[jax.Array, jax.Array], jax.Array],
    images: jax.Array,
    steps: int,
    learning_rate: Array | float,
    process: Callable[[jax.Array, jax.Array], jax.Array] = lambda images, step: images,
) -> jax.Array:
    """Descends from images [N,H,W,C], each step clamped to [0,1] (Thielen, Section 3.4).

    Args:
      gradient: `(images, step[]) -> [N,H,W,C]`.
      images: the start.
      steps: number of steps.
      learning_rate: η.
      process: `(images, step[]) -> images`, applied after the clamp.

    Returns:
      The images after the last step.
    """

    def body(step: jax.Array, images: jax.Array) -> jax.Array:
        return process(
            jnp.clip(
                images - learning_rate * gradient(images, step),
                0,
                1,
            ),
            step,
        )

    return lax.fori_loop(0, steps, body, images)


def squares(images: jax.Array) -> jax.Array:
    """Returns the sum [N] of squared pixels of images [N,H,W,C] (Thielen Eq. 3 without λ)."""
    return jnp.square(images).sum((1, 2, 3))


def absolute_variation(images: jax.Array) -> jax.Array:
    """Returns the sum [N] of absolute differences of neighbours (Thielen Eq. 4 without λ)."""
    # Inside the image only: the border has no outer neighbour
    down = jnp.diff(images, axis=1)
    right = jnp.diff(images, axis=2)
    return jnp.abs(down).sum((1, 2, 3)) + jnp.abs(right).sum((1, 2, 3))


def alpha_norm(images: jax.Array, alpha: float) -> jax.Array:
    """Returns ‖x‖_α^α [N] of images [N,H,W,C] (Yang 2019, Section II-B)."""
    return (jnp.abs(images) ** alpha).sum((1, 2, 3))


def total_variation(images: jax.Array, beta: float) -> jax.Array:
    """Returns Σ(right² + down²)^(β/2) [N] over pixels and channels (Yang 2019, Eq. 5).

    The difference to a neighbour beyond the border is 0. So is the gradient of a pixel without
    differences.
    """
    down = jnp.diff(images, axis=1, append=images[:, -1:])
    right = jnp.diff(images, axis=2, append=images[:, :, -1:])
    # The inner `where` keeps the infinite slope of the power at 0 out of the gradient
    squared = down**2 + right**2
    varies = squared > 0
    return jnp.where(varies, jnp.where(varies, squared, 1) ** (beta / 2), 0).sum((1, 2, 3))


def blur(images: jax.Array, sigma: float) -> jax.Array:
    """Blurs images [N,H,W,C] by a Gaussian of `sigma` > 0 pixels; its weights inside sum to 1."""
    # A Gaussian is separable: blur rows and columns in turn
    down, right = (_gaussian(side, sigma) for side in images.shape[1:3])
    return jnp.einsum("yi,xj,nijc->nyxc", down, right, images)


def _gaussian(side: int, sigma: float) -> np.ndarray:
    """Returns the blur along an axis as a matrix [side, side] of unit row sums."""
    # A row holds the weights of one output pixel, cut at the border
    distance = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def class_starts(
    key: Key,
    start: str,
    observation: Observation,
    truth: Array,
) -> np.ndarray:
    """Returns the start of each class: float32 [K,H,W,C], or a black image [1,H,W,C] for "random".

    The attacker's own images are grouped by their predicted class. "class_average" is the mean of a
    class, "class_instance" one of its images, drawn at random. A class without an image has the
    mean of all.
    """
    if start == "random":
        return np.zeros((1, *truth.shape[1:]), np.float32)
    labels = np.asarray(observation.prediction).argmax(1)
    starts = _class_means(labels, observation.prediction.shape[1], truth)
    # The first of each class in a random order is a random one
    if start == "class_instance":
        order = np.asarray(jax.random.permutation(key, len(labels)))
        classes, first = np.unique(labels[order], return_index=True)
        starts[classes] = as_float(np.asarray(truth[order[first]]))
    return starts


def _class_means(labels: np.ndarray, classes: int, images: Array) -> np.ndarray:
    sums = np.zeros((classes, *images.shape[1:]))
    counts = np.bincount(labels, minlength=classes)
    # Sum by class, slice by slice: membership of a class is a one-hot matrix
    for begin in range(0, len(labels), _ROWS):
        rows = slice(begin, begin + _ROWS)
        member = np.eye(classes)[labels[rows]]
        sums += np.tensordot(
            member, np.asarray(as_float(np.asarray(images[rows])), np.float64), (0, 0)
        )
    every, counts = sums.sum(0) / len(labels), counts[:, None, None, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), every).astype(np.float32)


def started(
    start: str,
    starts: jax.Array,
    prediction: jax.Array,
    keys: Key,
) -> jax.Array:
    """Returns the first images [N,H,W,C] of a descent: by class, or uniform for "random"."""
    if start == "random":
        return jax.vmap(lambda key: jax.random.uniform(key, starts.shape[1:]))(keys)
    return starts[prediction.argmax(1)]


def check_known(
    observation: Observation,
    truth: Any,
    known: WhiteBox,
) -> tuple[int, ...]:
    """Returns the shape of an image; raises InputError if the known model has other classes."""
    checks.shapes(observation, truth)
    shape = tuple(truth.shape[1:])
    # A trace on shapes shows the number of classes, and rejects images of another shape
    logits = jax.eval_shape(
        known.model.apply,
        known.variables,
        jax.ShapeDtypeStruct((1, *shape), np.float32),
    )
    if logits.shape[1] != observation.prediction.shape[1]:
        observed = observation.prediction.shape[1]
        raise InputError(
            f"the known model has {logits.shape[1]} classes, and the predictions {observed}: give"
            " one of them"
        )
    return shape


def white_box(
    fit: Callable[[Key, Observation, Array, WhiteBox], dict[str, Any]],
    predict: Callable[[Any, Observation, WhiteBox | None], np.ndarray],
    check: Callable[..., tuple[int, ...]] = check_known,
    asks: bool = True,
    logits: bool = False,
) -> Attack:
    """Returns the attack by a `WhiteBox` model without a network; its inputs are checked first.

    Args:
      fit: `(key, observation, truth, known) -> state`.
      predict: `(state, observation, known) -> guess`.
      check: as in `Attack`.
      asks: False if `predict` needs no model.
      logits: as in `Attack`.
    """

    # `fit` and `predict` of every optimised inversion check the same inputs, here
    def prepare(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
        *,
        known: WhiteBox,
    ) -> dict[str, Any]:
        del session
        check(observation, truth, known=known)
        checks.finite(observation.prediction)
        return fit(key, observation, truth, known)

    def guess(
        state: Any,
        observation: Observation,
        *,
        known: WhiteBox | None = None,
    ) -> np.ndarray:
        checks.finite(observation.prediction)
        if asks and known is None:
            raise InputError("predict asks the model that the attack was fitted to: give known")
        return predict(state, observation, known)

    return Attack(prepare, guess, check, ("known",), logits=logits)


def drawn(state: Any) -> Key:
    """Returns the key of a state, left there by `fit` as "key"."""
    return jax.random.wrap_key_data(jnp.asarray(state["key"]))
