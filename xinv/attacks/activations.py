"""Recovers last-layer activations from a prediction alone (Thielen 2024, Section 3.5)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv import parallel
from xinv.attacks import checks, pixels
from xinv.attacks.preimage import centred_logits
from xinv.numbers import require_count, require_positive
from xinv.types import Array, Attack, InputError, Key, Observation, Variables, WhiteBox

STARTS = ("zeros", "normal")
Head = Callable[[Variables, jax.Array], jax.Array]


@functools.cache
def activations(
    threshold: float = 1.5,
    steps: int = 2000,
    learning_rate: float = 0.1,
    start: str = "zeros",
    floor: float = 1e-6,
    logits: bool = False,
) -> Attack:
    """Minimises MSE(head(A), Y) over the penultimate activations A, until the loss is below τ.

    Y is the released logits. Of released probabilities it is the logarithm less its mean: the
    logits, up to the constant hidden by a softmax. Each example stops by its own loss, where the
    paper stops a batch, so each guess is independent of its neighbours.

    Args:
      threshold: τ.
      steps: upper limit; with fewer activations than classes the loss may never fall below τ.
      learning_rate: η; not stated in the paper.
      start: A_0, "zeros" or "normal"; not stated in the paper.
      floor: lower bound of probabilities before the logarithm; a truncated prediction has zeros.
      logits: True if predictions are logits.

    Returns:
      An attack whose guess is float32 [N,1,1,D], in the form of an explanation, with D the width of
      the known model's penultimate layer. Its truth gives the shape of the images only.

    Raises:
      InputError: an argument is out of its range; or, at `check`, the known model has no `embed`
        and `head`.
    """
    checks.choice("start", start, STARTS)
    numbers = {"threshold": threshold, "learning_rate": learning_rate, "floor": floor}
    require_positive(**numbers)
    require_count(steps=steps)

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        known: WhiteBox,
    ) -> dict[str, Any]:
        # Nothing is learned: the state fixes the starting point and the random draws
        del observation
        first = np.zeros((1, _width(truth, known)), np.float32)
        return {"first": first, "key": np.asarray(jax.random.key_data(key))}

    def predict(
        state: Any,
        observation: Observation,
        known: WhiteBox,
    ) -> np.ndarray:
        # Arrays are arguments of the program, so that one compilation serves every model and number
        shared = {name: np.float32(value) for name, value in numbers.items()}
        shared |= {"variables": known.variables, "first": state["first"]}
        program = _program(known.model.head, steps, start, logits)
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
        if known.model.embed is None or known.model.head is None:
            raise InputError(
                "the known model has no embed and head: activations need a classifier that has both"
            )
        pixels.check_known(observation, truth, known)
        return (1, 1, _width(truth, known))

    return pixels.white_box(fit, predict, check, logits=logits)


def _width(truth: Any, known: WhiteBox) -> int:
    # The width follows from shapes alone: nothing is computed
    image = jax.ShapeDtypeStruct((1, *truth.shape[1:]), np.float32)
    return jax.eval_shape(known.model.embed, known.variables, image).shape[1]


@functools.lru_cache(64)
def _program(head: Head, steps: int, start: str, logits: bool) -> Callable[..., jax.Array]:
    def recover(
        shared: dict[str, Any],
        prediction: jax.Array,
        keys: Key,
    ) -> jax.Array:
        # Y of the loss
        Y = prediction
        if not logits:
            Y = centred_logits(prediction, shared["floor"])

        def losses(A: jax.Array) -> jax.Array:
            return jnp.square(head(shared["variables"], A) - Y).mean(1)

        def body(at: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            # One step of gradient descent; a finished example stays in place
            step, A, loss = at
            gradient = jax.grad(lambda A: losses(A).sum())(A)
            A = jnp.where(
                (loss > shared["threshold"])[:, None],
                A - shared["learning_rate"] * gradient,
                A,
            )
            return step + 1, A, losses(A)

        # Start from A_0, and descend until the slowest example is done
        A = jnp.repeat(shared["first"], len(prediction), axis=0)
        if start == "normal":
            A = jax.vmap(lambda key: jax.random.normal(key, A.shape[1:]))(keys)
        at = jnp.int32(0), A, losses(A)
        _, A, _ = lax.while_loop(
            lambda at: (at[0] < steps) & (at[2] > shared["threshold"]).any(),
            body,
            at,
        )
        return A[:, None, None]

    return recover
