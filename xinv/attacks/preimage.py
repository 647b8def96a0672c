"""Pre-image search: inversion as optimisation under an image prior (Yang 2019, Section II-B)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv import parallel
from xinv.attacks import checks, pixels
from xinv.numbers import require_count, require_not_negative, require_positive
from xinv.types import Apply, Array, Attack, Key, Observation, WhiteBox

DISTANCES = ("prediction", "logits")


@functools.cache
def preimage(
    start: str = "random",
    distance: str = "logits",
    steps: int = 400,
    learning_rate: float = 0.001,
    alpha: float = 6.0,
    alpha_weight: float = 5.0,
    beta: float = 2.0,
    tv_weight: float = 5.0,
    jitter: int = 1,
    blur: float = 0.5,
    blur_every: int = 10,
    floor: float = 1e-6,
    logits: bool = False,
) -> Attack:
    """Minimises ‖F(x̂) − F(x)‖² + λ_α ‖x̂‖_α^α + λ_V P_Vβ(x̂), clamped (Yang 2019, Eq. 4 and 5).

    Yang lists these priors without weights. The defaults are this library's own. With them, 48
    MNIST digits at an eighth of the channels all reach their class, and their prediction to a mean
    squared distance of 0.02 (SSIM 0.04: such images are no digits). By distance "prediction" few
    random images reach the class, since a sure softmax has no slope.

    Args:
      start: as in `gradient_reconstruction`.
      distance: F, "prediction" (probabilities) or "logits". Observed logits are those released, or
        the logarithms of released probabilities; both sides are taken less their mean, since
        probabilities hide a constant.
      steps: of the descent.
      learning_rate: of the descent.
      alpha: the norm, 2 for Simonyan et al. and 6 for Mahendran and Vedaldi.
      alpha_weight: λ_α.
      beta: of the total variation.
      tv_weight: λ_V.
      jitter: largest random roll of the network's input along each axis, in pixels; 0 for none.
      blur: the Gaussian's σ in pixels; 0 does not blur.
      blur_every: steps from one blur to the next.
      floor: lower bound of probabilities before the logarithm.
      logits: True if predictions are logits.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1].

    Raises:
      InputError: an argument is none of these.
    """
    checks.choice("start", start, pixels.STARTS)
    checks.choice("distance", distance, DISTANCES)
    require_count(steps=steps, blur_every=blur_every)
    require_count(0, jitter=jitter)
    require_positive(
        learning_rate=learning_rate,
        alpha=alpha,
        beta=beta,
        floor=floor,
    )
    require_not_negative(alpha_weight=alpha_weight, tv_weight=tv_weight, blur=blur)
    numbers = {
        "learning_rate": learning_rate,
        "alpha_weight": alpha_weight,
        "tv_weight": tv_weight,
        "floor": floor,
    }

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        known: WhiteBox,
    ) -> dict[str, Any]:
        # Starts by class are learned; random ones are drawn in `predict`
        start_key, random_key = jax.random.split(key)
        starts = pixels.class_starts(start_key, start, observation, truth)
        return {"starts": starts, "key": np.asarray(jax.random.key_data(random_key))}

    def predict(
        state: Any,
        observation: Observation,
        known: WhiteBox,
    ) -> np.ndarray:
        # Arrays are arguments of the program, so that one compilation serves every model and weight
        shared = {name: np.float32(value) for name, value in numbers.items()}
        shared |= {"variables": known.variables, "starts": state["starts"]}
        program = _program(
            known.model.apply,
            start,
            distance,
            steps,
            alpha,
            beta,
            jitter,
            blur,
            blur_every,
            logits,
        )
        return parallel.map_batches(
            program,
            shared,
            observation.prediction,
            pixels.batch_size(),
            pixels.drawn(state),
        )

    return pixels.white_box(fit, predict, logits=logits)


def centred_logits(prediction: jax.Array, floor: Array | float) -> jax.Array:
    """Returns the logits [N,K] of probabilities [N,K] of at least `floor`, with a mean of 0."""
    return centred(jnp.log(jnp.maximum(prediction, floor)))


def centred(logits: jax.Array) -> jax.Array:
    """Returns logits [N,K] with a mean of 0."""
    return logits - logits.mean(1, keepdims=True)


def _output(logits: jax.Array, distance: str) -> jax.Array:
    return jax.nn.softmax(logits) if distance == "prediction" else centred(logits)


@functools.lru_cache(64)
def _program(
    apply: Apply,
    start: str,
    distance: str,
    steps: int,
    alpha: float,
    beta: float,
    jitter: int,
    sigma: float,
    every: int,
    logits: bool,
) -> Callable[..., jax.Array]:
    def search(
        shared: dict[str, Any],
        prediction: jax.Array,
        keys: Key,
    ) -> jax.Array:
        # F(x), the observed side of Eq. 4
        if logits:
            wanted = _output(prediction, distance)
        elif distance == "prediction":
            wanted = prediction
        else:
            wanted = centred_logits(prediction, shared["floor"])
        start_keys, jitter_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

        def loss(images: jax.Array, step: jax.Array) -> jax.Array:
            # The network sees the rolled image, the priors the image itself
            shifted = shift(images, jitter_keys, step, jitter)
            # The observed distance of Eq. 4, and the priors of Eq. 5
            error = jnp.square(_output(apply(shared["variables"], shifted), distance) - wanted).sum(
                1
            )
            norm, variation = (
                pixels.alpha_norm(images, alpha),
                pixels.total_variation(images, beta),
            )
            return (error + shared["alpha_weight"] * norm + shared["tv_weight"] * variation).sum()

        def process(images: jax.Array, step: jax.Array) -> jax.Array:
            # A regular blur removes the high frequencies that gradients add
            if sigma == 0:
                return images
            return lax.cond(
                (step + 1) % every == 0,
                lambda x: pixels.blur(x, sigma),
                lambda x: x,
                images,
            )

        images = pixels.started(start, shared["starts"], prediction, start_keys)
        return pixels.descend(
            jax.grad(loss),
            images,
            steps,
            shared["learning_rate"],
            process,
        )

    return search


def shift(images: jax.Array, keys: Key, step: jax.Array, reach: int) -> jax.Array:
    """Rolls images [N,H,W,C], each by up to `reach` pixels along each axis, anew at every step."""
    if reach == 0:
        return images

    # The key is the example's own, so its rolls depend on no neighbour
    def roll(image: jax.Array, key: Key) -> jax.Array:
        offsets = jax.random.randint(
            jax.random.fold_in(key, step),
            (2,),
            -reach,
            reach + 1,
        )
        return jnp.roll(image, offsets, (0, 1))

    return jax.vmap(roll)(images, keys)
