"""Gradient reconstruction of an image from its prediction (Thielen 2024, Sections 3.4 and 5.1)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from xinv import parallel
from xinv.attacks import checks, pixels
from xinv.attacks.search import check_trials, log_uniform_search
from xinv.images import as_float, ssim
from xinv.numbers import require_count, require_not_negative, require_positive
from xinv.types import Apply, Array, Attack, InputError, Key, Observation, WhiteBox

TARGETS = ("prediction", "label")
L2_RANGE, TV_RANGE = (1e-5, 3e-2), (1e-6, 3e-2)
"""The coarse search spaces of λ_l2 and λ_tv (Thielen, Section 5.1)."""
TRIAL_IMAGES = 320
"""Reconstructions of one trial."""
_SSIM_WINDOW = 11  # dm_pix accepts smaller images and returns nonsense


@functools.cache
def gradient_reconstruction(
    start: str = "class_average",
    target: str = "prediction",
    steps: int = 400,
    learning_rate: float = 0.05,
    l2: float = 4.43e-5,
    tv: float = 9.49e-3,
    search: tuple[int, int] | None = None,
    logits: bool = False,
) -> Attack:
    """Minimises cross-entropy + λ_l2 ΣI² + λ_tv Σ|∇I|, clamped (Thielen 2024, Eq. 1 to 4).

    Args:
      start: I_0, of the attacker's own images of the predicted class: "class_average",
        "class_instance", or "random".
      target: the y of Eq. 2. "prediction" is the observed vector: probabilities as released, or the
        softmax of logits; the paper calls y a label, but its Tables 5 and 6 reconstruct from
        rounded and truncated vectors. "label" is the vector's highest class.
      steps: of the descent.
      learning_rate: η; not stated in the paper. Of 0.001 to 1 on MNIST, at an eighth of the
        channels, this one gives the SSIM nearest to Table 3: class average 0.23 (0.24 there), class
        instance 0.20 (0.18). Smaller steps stay at the class average, whose own SSIM is 0.30.
      l2: λ_l2; the defaults of both weights are the paper's best.
      tv: λ_tv.
      search: numbers of coarse and fine trials, (20, 10) in the paper. `fit` then chooses l2 and tv
        for the highest mean SSIM on 320 of the attacker's images. None takes the given ones.
      logits: True if predictions are logits.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1]. Its state has l2 and tv, and after a search the "trials" (Figure 8), with
      their 1 − SSIM as its "history".

    Raises:
      InputError: an argument is none of these; or, at `check`, a search on images of less than 11
        pixels a side.
    """
    checks.choice("start", start, pixels.STARTS)
    checks.choice("target", target, TARGETS)
    require_count(steps=steps)
    require_positive(learning_rate=learning_rate)
    require_not_negative(l2=l2, tv=tv)
    if search is not None:
        check_trials(search)

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        known: WhiteBox,
    ) -> dict[str, Any]:
        # Draw the start of each class; keep a key for random starts
        start_key, random_key, search_key = jax.random.split(key, 3)
        starts = pixels.class_starts(start_key, start, observation, truth)
        state = {"starts": starts, "key": np.asarray(jax.random.key_data(random_key))}
        state |= {"l2": np.asarray(l2, np.float32), "tv": np.asarray(tv, np.float32)}
        # Without a search the weights are the given ones
        if search is None:
            return state
        return _searched(
            search_key,
            functools.partial(predict, known=known),
            state,
            observation,
            truth,
            *search,
        )

    def predict(
        state: Any,
        observation: Observation,
        known: WhiteBox,
    ) -> np.ndarray:
        # The weights are arguments of the program: all trials of a search share one compilation
        shared = {name: state[name] for name in ("starts", "l2", "tv")}
        shared |= {"variables": known.variables, "learning_rate": np.float32(learning_rate)}
        program = _program(known.model.apply, start, target, steps, logits)
        return parallel.map_batches(
            program,
            shared,
            observation.prediction,
            pixels.batch_size(),
            pixels.drawn(state),
        )

    def check(
        observation: Observation,
        truth: Any,
        *,
        known: WhiteBox,
    ) -> tuple[int, ...]:
        shape = pixels.check_known(observation, truth, known)
        if search and min(shape[:2]) < _SSIM_WINDOW:
            raise InputError(
                f"a search by SSIM needs images of at least {_SSIM_WINDOW} pixels a side: these"
                f" have {shape}"
            )
        return shape

    return pixels.white_box(fit, predict, check, logits=logits)


def total_loss(
    logits: jax.Array,
    images: jax.Array,
    y: jax.Array,
    l2: Array,
    tv: Array,
) -> jax.Array:
    """Returns L_total [N] of images [N,H,W,C], logits [N,K] and targets y [N,K] (Thielen Eq. 1)."""
    # Eq. 2 for soft targets, then Eq. 3 and 4
    cross_entropy = -(y * jax.nn.log_softmax(logits)).sum(1)
    return cross_entropy + l2 * pixels.squares(images) + tv * pixels.absolute_variation(images)


@functools.lru_cache(64)
def _program(
    apply: Apply,
    start: str,
    target: str,
    steps: int,
    logits: bool,
) -> Callable[..., jax.Array]:
    def reconstruct(
        shared: dict[str, Any],
        prediction: jax.Array,
        keys: Key,
    ) -> jax.Array:
        classes = prediction.shape[1]
        if target == "label":
            y = jax.nn.one_hot(prediction.argmax(1), classes)
        elif logits:
            # Eq. 2 weighs classes, which takes weights of at least 0
            y = jax.nn.softmax(prediction)
        else:
            y = prediction

        # A sum, so that each example has the gradient of its own loss
        def loss(images: jax.Array) -> jax.Array:
            answers = apply(shared["variables"], images)
            return total_loss(answers, images, y, shared["l2"], shared["tv"]).sum()

        images = pixels.started(start, shared["starts"], prediction, keys)
        gradient = jax.grad(loss)
        return pixels.descend(
            lambda images, step: gradient(images),
            images,
            steps,
            shared["learning_rate"],
        )

    return reconstruct


def _searched(
    key: Key,
    predict: Callable[..., np.ndarray],
    state: dict[str, Any],
    observation: Observation,
    truth: Array,
    coarse: int,
    fine: int,
) -> dict[str, Any]:
    """Returns `state` with the l2 and tv of the best trial, and with all trials.

    The trials share one compiled program.
    """
    # Draw the images of all trials, in the order of the file
    draw_key, search_key = jax.random.split(key)
    chosen = np.sort(np.asarray(jax.random.permutation(draw_key, len(truth)))[:TRIAL_IMAGES])
    images = as_float(np.asarray(truth[chosen]))
    seen = Observation(np.asarray(observation.prediction)[chosen])

    def score(l2: np.float32, tv: np.float32) -> float:
        guesses = predict(state | {"l2": l2, "tv": tv}, seen)
        return float(ssim(images, guesses, _SSIM_WINDOW).mean())

    trials = log_uniform_search(
        search_key,
        score,
        (L2_RANGE, TV_RANGE),
        coarse,
        fine,
    )
    # Keep the best weights, and the trials for Figure 8
    l2, tv = map(np.asarray, trials.best)
    table = {"l2": trials.values[:, 0], "tv": trials.values[:, 1], "ssim": trials.scores}
    history = {"loss": [float(1 - score) for score in trials.scores]}
    return state | {"l2": l2, "tv": tv, "trials": table, "history": history}
