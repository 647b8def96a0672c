"""MI-Face: one image per class, by descent on the model (Fredrikson et al. 2015, Algorithm 1)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv import parallel
from xinv.attacks import pixels
from xinv.numbers import require_count, require_not_negative, require_positive
from xinv.types import Apply, Array, Attack, Key, Observation, WhiteBox


@functools.cache
def fredrikson(
    steps: int = 5000,
    learning_rate: float = 0.1,
    patience: int = 100,
    threshold: float = 0.01,
    process_every: int = 50,
    sharpening: float = 0.5,
    sigma: float = 1.0,
) -> Attack:
    """Descends on 1 − p_c(x) for each class c from a black image, with regular denoising.

    An observation's guess is the image of its highest class. A class stops if its cost is at most
    `threshold`, or no lower than the highest of the `patience` costs before it. Its image is the
    one of lowest cost (Algorithm 1; its α, β, γ and λ are steps, patience, threshold and
    learning_rate). The paper states γ = 0.99. As a bound on the cost this would stop at a
    confidence of 1 %; here it is a bound on the confidence.

    Args:
      steps: upper limit.
      learning_rate: of the descent.
      patience: β, the number of previous costs.
      threshold: of the cost.
      process_every: steps from one processing to the next: a 3×3 median, then an unsharp mask.
      sharpening: weight of the difference to the blurred image, added by the mask; 0 does not
        sharpen.
      sigma: of the mask's Gaussian, in pixels.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1]. Its state has the "images" [K,H,W,C], their "confidence" [K] and the "steps"
      [K] taken. It learns from no image.

    Raises:
      InputError: an argument is out of its range.
    """
    require_count(steps=steps, patience=patience, process_every=process_every)
    require_positive(learning_rate=learning_rate, sigma=sigma)
    require_not_negative(threshold=threshold, sharpening=sharpening)

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        known: WhiteBox,
    ) -> dict[str, Any]:
        del key
        # The classes are the batch: each has a descent of its own
        program = _program(
            known.model.apply,
            tuple(truth.shape[1:]),
            steps,
            patience,
            process_every,
            sharpening,
            sigma,
        )
        shared = {"learning_rate": np.float32(learning_rate), "threshold": np.float32(threshold)}
        shared["variables"] = known.variables
        classes = np.arange(observation.prediction.shape[1], dtype=np.int32)
        return parallel.map_batches(program, shared, classes, pixels.batch_size())

    def predict(
        state: Any,
        observation: Observation,
        known: WhiteBox | None,
    ) -> np.ndarray:
        del known
        # All images of a class have the same guess
        return np.asarray(state["images"])[np.asarray(observation.prediction).argmax(1)]

    return pixels.white_box(fit, predict, asks=False, logits=True)


class _Descent(NamedTuple):
    """The state of each class [B]: its image, its best so far, and its last costs [B, patience].

    The costs are a ring: a new one overwrites the oldest.
    """

    step: jax.Array
    images: jax.Array
    best: jax.Array
    cost: jax.Array
    recent: jax.Array
    taken: jax.Array
    running: jax.Array


@functools.lru_cache(64)
def _program(
    apply: Apply,
    shape: tuple[int, ...],
    steps: int,
    patience: int,
    every: int,
    sharpening: float,
    sigma: float,
) -> Callable[..., dict[str, jax.Array]]:
    def invert(
        shared: dict[str, Any],
        classes: jax.Array,
        keys: None,
    ) -> dict[str, jax.Array]:
        del keys

        # The cost c(x) of Algorithm 1, without its auxiliary term
        def costs(images: jax.Array) -> jax.Array:
            confidence = jax.nn.softmax(apply(shared["variables"], images))
            return 1 - jnp.take_along_axis(confidence, classes[:, None], axis=1)[:, 0]

        # PROCESS of Algorithm 1, only every few steps
        def process(images: jax.Array, step: jax.Array) -> jax.Array:
            filtered = lambda x: jnp.clip(
                sharpen(
                    median(x),
                    sharpening,
                    sigma,
                ),
                0,
                1,
            )
            return lax.cond((step + 1) % every == 0, filtered, lambda x: x, images)

        # One step against the gradient, within the range of images
        def body(at: _Descent) -> _Descent:
            gradient = jax.grad(lambda images: costs(images).sum())(at.images)
            images = process(
                jnp.clip(
                    at.images - shared["learning_rate"] * gradient,
                    0,
                    1,
                ),
                at.step,
            )
            return _advance(at, images, costs(images), shared["threshold"])

        # Start from a black image; an unfilled ring of costs never stops a class
        zeros = jnp.zeros((len(classes), *shape))
        first = costs(zeros)
        recent = jnp.full((len(classes), patience), jnp.inf).at[:, 0].set(first)
        running = jnp.ones(len(classes), bool)
        at = _Descent(
            jnp.int32(0),
            zeros,
            zeros,
            first,
            recent,
            jnp.zeros(len(classes), jnp.int32),
            running,
        )
        # Loop until the last class has stopped
        end = lax.while_loop(
            lambda at: (at.step < steps) & at.running.any(),
            body,
            at,
        )
        return {"images": end.best, "confidence": 1 - end.cost, "steps": end.taken}

    return invert


def _advance(
    at: _Descent,
    images: jax.Array,
    cost: jax.Array,
    threshold: jax.Array,
) -> _Descent:
    """Enters the next images and their costs [B]; a stopped class keeps its best."""
    # Stop: no better than the worst of the last β costs, or good enough (γ)
    better = at.running & (cost < at.cost)
    stopped = (cost >= at.recent.max(1)) | (cost <= threshold)
    return _Descent(
        at.step + 1,
        images,
        jnp.where(better[:, None, None, None], images, at.best),
        jnp.where(better, cost, at.cost),
        at.recent.at[:, (at.step + 1) % at.recent.shape[1]].set(cost),
        jnp.where(at.running, at.taken + 1, at.taken),
        at.running & ~stopped,
    )


def median(images: jax.Array) -> jax.Array:
    """Returns the 3×3 median of images [N,H,W,C], with repeated borders."""
    height, width = images.shape[1:3]
    # Nine shifted copies hold the neighbourhood of every pixel
    wide = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return jnp.median(
        jnp.stack([wide[:, a : a + height, b : b + width] for a in range(3) for b in range(3)]),
        axis=0,
    )


def sharpen(images: jax.Array, amount: float, sigma: float) -> jax.Array:
    """Returns images [N,H,W,C] plus `amount` times their difference to blurred ones."""
    return images + amount * (images - pixels.blur(images, sigma))
