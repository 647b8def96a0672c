"""The one training loop: every network of xinv, attacked or attacking, is trained by `loop`.

A step is `(state, batch, key) -> (state, metrics)`, written for one device; `sgd_step` makes the ordinary one of a loss
and an optimizer, and `fit` is the loop with that. All randomness derives from the key, the epoch and the step, so that
a training resumes to the bit (on CPU) and its result does not depend on where its data lives.
"""

import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import batches, parallel
from xinv.batches import Evaluate, steps_per_epoch
from xinv.checkpoint import Checkpoints
from xinv.progress import Progress
from xinv.recipe import Recipe, optimizer
from xinv.types import Array, Batch, InputError, Key, Model, Variables

__all__ = [
    "Diverged",
    "Evaluate",
    "Fitted",
    "Loss",
    "Recipe",
    "Session",
    "State",
    "classifier_loss",
    "fit",
    "loop",
    "optimizer",
    "sgd_step",
    "steps_per_epoch",
]

Loss = Callable[[Variables, Batch, Key | None], tuple[jax.Array, Mapping[str, Any]]]
"""`(variables, batch, key) -> (example losses [B], updates)`; `updates` are changed collections to merge into
`variables` (batch statistics). Without a key: evaluation mode, and the updates are ignored."""


class Diverged(InputError):  # noqa: N818 (an event, named as the field names it)
    """A loss is no longer finite; the last finite checkpoint stays."""


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
    """

    directory: str | Path | None = None
    name: str = "train"
    log: Callable[[int, dict[str, float]], None] | None = None
    checkpoint_seconds: float = 30.0


class Fitted(NamedTuple):
    """A trained network.

    Attributes:
      variables: of the epoch with the lowest validation loss, or of the last one without validation.
      history: per epoch the mean of each metric over its steps, and "validation_loss" where there is validation.
      steps: the number of steps taken.
    """

    variables: Variables
    history: dict[str, list[float]]
    steps: int


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
    """Cross-entropy of `model` on batches {"image": [B,H,W,C], label: int [B]}."""

    def loss(variables: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Mapping[str, Any]]:
        if key is None:
            logits, updates = model.apply(variables, batch["image"]), {}
        else:
            logits, updates = model.train(variables, batch["image"], key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[label]), updates

    return loss


def loop(
    step: parallel.Step,
    state: State,
    data: Batch,
    key: Key,
    recipe: Recipe,
    evaluate: Evaluate | None = None,
    session: Session = Session(),  # noqa: B008 (immutable)
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

    Raises:
      InputError: too little data for a batch, NaN in it, a batch size that the devices do not divide, a checkpoint of
        another training; `Diverged` when a metric is no longer finite.
    """
    data = parallel.host(data)
    batches.check(data, recipe, session.name)
    if (evaluate is not None) != (recipe.validation > 0):
        raise InputError(
            f"{session.name}: validation is {recipe.validation} but must be 0 just where nothing evaluates"
        )
    split_key, step_key = jax.random.split(key)
    plan = batches.Plan(recipe, parallel.length(data), split_key, session.name)
    checkpoints = Checkpoints(session.directory, _identity(data, key, recipe))
    course, state, best = _begin(checkpoints, state, evaluate is not None)
    run = parallel.runner(batches.prepared(step, recipe.augment, recipe.crop_padding), data)
    keys, taken, pending, saved_at = parallel.per_device(step_key), course.step, None, time.monotonic()
    with Progress(session.name, recipe.epochs * plan.steps_per_epoch, recipe.batch_size, taken) as progress:
        follow = functools.partial(_follow, course, plan.steps_per_epoch, session, progress)
        for batch in itertools.chain.from_iterable(map(run.feed, plan.orders(taken))):
            if recipe.patience and course.waited >= recipe.patience:
                break
            state, metrics = run.advance(state, batch, keys)
            taken += np.size(next(iter(metrics.values())))
            follow(pending)  # one dispatch late, so that the device never waits for the host
            pending = metrics
            if evaluate and taken % plan.steps_per_epoch == 0:
                pending = follow(pending)
                score = batches.mean_score(evaluate, state.variables, data, plan.validation, recipe.batch_size)
                best = _judged(course, score, state.variables, best, session)
            if session.directory is not None and time.monotonic() - saved_at >= session.checkpoint_seconds:
                pending = follow(pending)
                _save(checkpoints, course, state, best, session.name)
                saved_at = time.monotonic()
        follow(pending)
    checkpoints.close()
    variables = best if evaluate else _copy(state.variables)
    return Fitted(jax.tree.map(jnp.asarray, variables), course.history, course.step)


@dataclass
class _Course:
    """What the host knows of a training: JSON values, which a checkpoint holds as they are."""

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    lowest: float | None = None
    waited: int = 0


def _begin(checkpoints: Checkpoints, state: State, judged: bool) -> tuple[_Course, State, Variables | None]:
    """The course, state and best variables to start from: a checkpoint's, or the initial ones."""
    start = _copy({"state": state, "best": state.variables if judged else None})
    saved = checkpoints.latest(start)
    tree = saved.tree if saved else start
    return _Course(**saved.record) if saved else _Course(), parallel.replicate(tree["state"]), tree["best"]


def _copy(tree: Any) -> Any:
    """A copy on the host, of which no part is an alias of a buffer that a later step consumes."""
    return jax.tree.map(np.array, jax.device_get(tree))


def _follow(
    course: _Course, per_epoch: int, session: Session, progress: Progress, metrics: Mapping[str, jax.Array] | None
) -> None:
    """Fetches one dispatch's metrics, of one or of many steps, and enters them into the course."""
    if metrics is None:
        return
    steps = {name: np.atleast_1d(value).astype(np.float64).tolist() for name, value in metrics.items()}
    for values in zip(*steps.values(), strict=True):
        course.step += 1
        values = dict(zip(steps, values, strict=True))
        _require_finite(values, course.step, session.name)
        course.totals = {name: course.totals.get(name, 0.0) + value for name, value in values.items()}
        _log(session, course.step, values)
        if course.step % per_epoch == 0:
            means = {name: total / per_epoch for name, total in course.totals.items()}
            _record(course, means, session)
            course.totals = {}
    progress.update(course.step, next(iter(values.values())))


def _record(course: _Course, values: dict[str, float], session: Session) -> None:
    for name, value in values.items():
        course.history.setdefault(name, []).append(value)
    _log(session, course.step, {f"epoch/{name}": value for name, value in values.items()})


def _log(session: Session, step: int, values: dict[str, float]) -> None:
    if session.log is not None:
        session.log(step, values)


def _require_finite(values: Mapping[str, float], step: int, name: str) -> None:
    for metric, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"{name}: {metric} is {value} at step {step}: lower the learning rate")


def _judged(course: _Course, score: float, variables: Variables, best: Variables, session: Session) -> Variables:
    """Enters an epoch's validation score, and gives the variables of the best epoch so far."""
    _require_finite({"validation_loss": score}, course.step, session.name)
    _record(course, {"validation_loss": score}, session)
    better = course.lowest is None or score < course.lowest
    course.lowest, course.waited = (score, 0) if better else (course.lowest, course.waited + 1)
    return _copy(variables) if better else best


def _save(checkpoints: Checkpoints, course: _Course, state: State, best: Variables | None, name: str) -> None:
    """Writes a checkpoint, unless the last update has just broken the state that gave a finite loss."""
    tree = _copy({"state": state, "best": best})
    for leaf in jax.tree.leaves(tree["state"]):
        _require_finite({"the state": float(np.sum(leaf, dtype=np.float64))}, course.step, name)
    checkpoints.save(course.step, tree, asdict(course))


def _identity(data: Batch, key: Key, recipe: Recipe) -> dict[str, Any]:
    """What a training that continues a checkpoint must have in common with the one that left it."""
    shapes = {f"data {name}": f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for name, leaf in data.items()}
    return json.loads(json.dumps({**asdict(recipe), **shapes, "key": jax.random.key_data(key).tolist()}))
