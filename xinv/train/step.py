"""One step of a training: its state, its losses, and the step of gradient descent."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from xinv import parallel
from xinv.train.batches import Evaluate
from xinv.types import Array, Batch, Key, Model, Variables

Loss = Callable[[Variables, Batch, Key | None], tuple[jax.Array, Mapping[str, Any]]]
"""`(variables, batch, key) -> (example losses [B], updates)`; `updates` are changed collections
to merge into `variables` (batch statistics). Without a key: evaluation mode, and the updates are
ignored."""


class State(NamedTuple):
    """The state of a training.

    Attributes:
      step: the number of steps done, int32 [].
      variables: any pytree.
      opt_state: any pytree.
    """

    step: Array
    variables: Variables
    opt_state: Any


@functools.lru_cache(64)
def sgd_step(loss: Loss, tx: optax.GradientTransformation) -> parallel.Step:
    """Returns the ordinary step: the gradient of the mean loss over all devices, through `tx`.

    If the variables are a mapping with "params", these are trained; otherwise the whole tree is.
    """

    def step(state: State, batch: Batch, key: Key) -> tuple[State, dict[str, jax.Array]]:
        parameters, merge = split(state.variables)

        def objective(parameters: Any) -> tuple[jax.Array, Any]:
            losses, updates = loss(merge(parameters, {}), batch, key)
            return jnp.mean(losses), updates

        # Differentiate on this device, and average over the devices
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (value, updates), gradient = differentiate(parameters)
        gradient, updates = parallel.mean((gradient, updates))

        # Update
        change, opt_state = tx.update(gradient, state.opt_state, parameters)
        parameters = optax.apply_updates(parameters, change)
        variables = merge(parameters, updates)
        return State(state.step + 1, variables, opt_state), {"loss": value}

    return step


def split(variables: Variables) -> tuple[Any, Callable[[Any, Mapping[str, Any]], Variables]]:
    """Returns the trained part of `variables`, and `(trained part, updates) -> variables`."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        return variables, lambda parameters, updates: parameters

    # Collections beside "params", such as batch statistics, are changed by the loss
    def merge(parameters: Any, updates: Mapping[str, Any]) -> Variables:
        return {**variables, **updates, "params": parameters}

    return variables["params"], merge


@functools.lru_cache(64)
def evaluation(loss: Loss) -> Evaluate:
    """Returns the loss of each example [B] in evaluation mode."""

    def evaluate(variables: Variables, batch: Batch) -> jax.Array:
        losses, _ = loss(variables, batch, None)
        return losses

    return evaluate


@functools.lru_cache(64)
def classifier_loss(model: Model, label: str = "label") -> Loss:
    """Returns the cross-entropy of `model`.

    Its batches are {"image": [B,H,W,C], label: int [B], or a teacher's probabilities [B,K]}.
    """

    def loss(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        if key is None:
            logits = model.apply(variables, batch["image"])
            updates = {}
        else:
            logits, updates = model.train(variables, batch["image"], key=key)
        # A teacher's probabilities are soft labels
        truth = batch[label]
        if truth.ndim == 2:
            return optax.softmax_cross_entropy(logits, truth), updates
        return optax.softmax_cross_entropy_with_integer_labels(logits, truth), updates

    return loss
