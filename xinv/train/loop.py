"""The one training loop: every network of xinv, attacked or attacking, is trained by `loop`.

A step is `(state, batch, key) -> (state, metrics)`, written for one device; `sgd_step` makes the ordinary one of a loss
and an optimizer, and `fit` is the loop with that. All randomness derives from the key, the epoch and the step, so that
a training resumes to the bit (on CPU) and its result does not depend on where its data lives.
"""

import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import parallel
from xinv.train import batches
from xinv.train.batches import Evaluate, steps_per_epoch
from xinv.train.checkpoint import Checkpoints
from xinv.train.progress import Log, Record, TrainingMonitor, require_finite
from xinv.train.recipe import Recipe, optimizer
from xinv.types import Array, Batch, Key, Model, Variables

Loss = Callable[[Variables, Batch, Key | None], tuple[jax.Array, Mapping[str, Any]]]
"""`(variables, batch, key) -> (example losses [B], updates)`; `updates` are changed collections to merge into
`variables` (batch statistics). Without a key: evaluation mode, and the updates are ignored."""


class State(NamedTuple):
    """What a step changes. `variables` and `opt_state` are any pytrees; `step` is int32 [], the steps done."""

    step: Array
    variables: Variables
    opt_state: Any


class Session(NamedTuple):
    """Where a training may leave traces; none of it changes the result.

    Attributes:
      directory: for checkpoints; a training that finds one there continues it. None keeps none.
      name: what progress and errors call the training.
      log: called with a step and {tag: value} each step, and each epoch.
      checkpoint_seconds: least time between checkpoints; 0 makes one after each dispatch.
      advice: what errors say is to be done about a training that diverges.
    """

    directory: str | Path | None = None
    name: str = "train"
    log: Log | None = None
    checkpoint_seconds: float = 30.0
    advice: str = "lower the learning rate"


class Fitted(NamedTuple):
    """A trained network.

    Attributes:
      variables: of the epoch with the lowest validation loss, or of the last one without validation.
      history: per epoch the mean of each metric over its steps, and "validation_loss" where there is validation.
      steps: the number of steps taken.
      diverged: why the variables are those of an earlier epoch than the last, in words; "" where they need not be.
      held_out: int32 [V], positions of the examples in the validation part, in no order.
    """

    variables: Variables
    history: dict[str, list[float]]
    steps: int
    diverged: str
    held_out: np.ndarray


def fit(
    loss: Loss,
    variables: Variables,
    data: Batch,
    key: Key,
    recipe: Recipe,
    session: Session = Session(),  # noqa: B008
) -> Fitted:
    """Minimises the mean of `loss` over `data` as the recipe says; see `loop`.

    The same loss object and recipe compile once, whatever the variables, key and data of that shape.
    """
    tx = optimizer(recipe, recipe.epochs * steps_per_epoch(recipe, parallel.length(data), session.name))
    state = State(np.int32(0), variables, jax.jit(tx.init)(_split(variables)[0]))
    evaluate = _evaluation(loss) if recipe.validation else None
    return loop(sgd_step(loss, tx), state, data, key, recipe, evaluate, session)


@functools.lru_cache(64)
def sgd_step(loss: Loss, tx: optax.GradientTransformation) -> parallel.Step:
    """The ordinary step: the gradient of the mean loss, averaged over the devices, through `tx`.

    Where the variables are a mapping with "params", these are trained; otherwise the whole tree is.
    """

    def step(state: State, batch: Batch, key: Key) -> tuple[State, dict[str, jax.Array]]:
        parameters, merge = _split(state.variables)

        def objective(parameters: Any) -> tuple[jax.Array, Any]:
            losses, updates = loss(merge(parameters, {}), batch, key)
            return jnp.mean(losses), updates

        (value, updates), gradient = jax.value_and_grad(objective, has_aux=True)(parameters)
        gradient, updates = parallel.mean((gradient, updates))
        change, opt_state = tx.update(gradient, state.opt_state, parameters)
        variables = merge(optax.apply_updates(parameters, change), updates)
        return State(state.step + 1, variables, opt_state), {"loss": value}

    return step


def _split(variables: Variables) -> tuple[Any, Callable[[Any, Mapping[str, Any]], Variables]]:
    """The trained part of `variables`, and the function that puts it and the changed collections back."""
    if isinstance(variables, Mapping) and "params" in variables:
        return variables["params"], lambda parameters, updates: {**variables, **updates, "params": parameters}
    return variables, lambda parameters, updates: parameters


@functools.lru_cache(64)
def _evaluation(loss: Loss) -> Evaluate:
    return lambda variables, batch: loss(variables, batch, None)[0]


@functools.lru_cache(64)
def classifier_loss(model: Model, label: str = "label") -> Loss:
    """Cross-entropy of `model` on batches {"image": [B,H,W,C], label: int [B], or a teacher's probabilities [B,K]}."""

    def loss(variables: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Mapping[str, Any]]:
        if key is None:
            logits, updates = model.apply(variables, batch["image"]), {}
        else:
            logits, updates = model.train(variables, batch["image"], key=key)
        soft = batch[label].ndim == 2
        entropy = optax.softmax_cross_entropy if soft else optax.softmax_cross_entropy_with_integer_labels
        return entropy(logits, batch[label]), updates

    return loss


def loop(
    step: parallel.Step,
    state: State,
    data: Batch,
    key: Key,
    recipe: Recipe,
    evaluate: Evaluate | None = None,
    session: Session = Session(),  # noqa: B008 (immutable)
    limits: Mapping[str, float] | None = None,
) -> Fitted:
    """Runs `step` over `data` for the recipe's epochs.

    The step sees uint8 images augmented and as float32 in [0,1], and a key of its own step and device. `evaluate`
    scores the held-out part after each epoch. The optimizer is the step's own business.

    Args:
      step: see `parallel.Step`; raises `state.step` by one. Its metrics are averaged over the devices.
      state: survives the call.
      data: named arrays [N,...], or lazy array-likes that the host reads batch by batch; rank-4 uint8 ones are images.
      key: a typed key (`jax.random.key`).
      recipe: see `Recipe`.
      evaluate: a score per example; needed exactly where the recipe holds out a validation part.
      session: see `Session`.
      limits: what metrics may be at most, on the mean of an epoch. With limits (also none in particular) the variables
        are those of the last epoch within them, also where a later one is not finite: see `Fitted.diverged`.

    Raises:
      InputError: too little data for a batch, NaN in it, a batch size that the devices do not divide, a checkpoint of
        another training; `Diverged` when a metric is no longer finite, but for limits that an epoch kept; or when no
        epoch kept them.
    """
    data = parallel.host(data)
    batches.check(data, recipe, evaluate, session.name)
    split_key, step_key = jax.random.split(key)
    plan = batches.Plan(recipe, parallel.length(data), split_key, session.name)
    checkpoints = Checkpoints(session.directory, _identity(data, key, recipe))
    keeps = evaluate is not None or limits is not None
    start = _copy({"state": state, "best": state.variables if keeps else None})
    tree, record = checkpoints.latest(start) or (start, {})
    state, best, record = parallel.replicate(tree["state"]), tree["best"], Record(**record)
    run = parallel.runner(batches.prepared(step, recipe.augment, recipe.crop_padding), data)
    keys, taken, pending, saved = parallel.per_device(step_key), record.step, None, time.monotonic()
    length = recipe.epochs, plan.steps_per_epoch, recipe.batch_size
    monitor = TrainingMonitor(session.name, session.advice, session.log, record, *length)
    with checkpoints, monitor, monitor.surviving(limits is not None):
        for batch in itertools.chain.from_iterable(map(run.feed, plan.orders(taken))):
            if recipe.patience and record.waited >= recipe.patience:
                break
            state, metrics = run.advance(state, batch, keys)
            taken += np.size(next(iter(metrics.values())))
            monitor.follow(pending)  # one dispatch late, so that the device never waits for the host
            pending = metrics
            if keeps and taken % plan.steps_per_epoch == 0:
                pending = monitor.follow(pending)
                finite = _finite_copy(state.variables, record.step, session)
                score = evaluate and batches.mean_score(evaluate, finite, data, plan.validation, recipe.batch_size)
                best = finite if monitor.judge(score, limits or {}) else best
            if session.directory is not None and time.monotonic() - saved >= session.checkpoint_seconds:
                pending = monitor.follow(pending)
                _save(checkpoints, record, {"state": state, "best": best}, session)
                saved = time.monotonic()
        monitor.follow(pending)
    variables = best if keeps else _copy(state.variables)
    found = jax.tree.map(jnp.asarray, variables)
    return Fitted(found, record.history, record.step, monitor.diverged, plan.validation)


def _copy(tree: Any) -> Any:
    """A copy on the host, in JAX's types, of which no part is an alias of a buffer that a later step consumes."""
    return jax.tree.map(np.array, jax.device_get(jax.tree.map(jnp.asarray, tree)))


def _finite_copy(tree: Any, step: int, session: Session) -> Any:
    """Returns a copy on the host; raises Diverged if the last update made a leaf NaN or infinite."""
    tree = _copy(tree)
    for leaf in jax.tree.leaves(tree):
        require_finite({"the state": float(np.sum(leaf, dtype=np.float64))}, step, session.name, session.advice)
    return tree


def _save(checkpoints: Checkpoints, record: Record, tree: Any, session: Session) -> None:
    checkpoints.save(record.step, _finite_copy(tree, record.step, session), asdict(record))


def _identity(data: Batch, key: Key, recipe: Recipe) -> dict[str, Any]:
    """What a training that continues a checkpoint must have in common with the one that left it."""
    shapes = {f"data {name}": f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for name, leaf in data.items()}
    return json.loads(json.dumps({**asdict(recipe), **shapes, "key": jax.random.key_data(key).tolist()}))
