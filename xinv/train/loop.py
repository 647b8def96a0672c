"""The one training loop: every network of xinv, attacked or attacking, is trained by `loop`.

A step is `(state, batch, key) -> (state, metrics)`, written for one device. `sgd_step` makes the
ordinary one of a loss and an optimizer, `private_step` the one with differential privacy, and `fit`
is the loop with the one that the recipe asks for. All randomness derives from the key, the epoch
and the step: a training resumes to the bit (on CPU), wherever its data lives.
"""

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

from xinv import parallel, processes
from xinv.numbers import require
from xinv.train import batches
from xinv.train.batches import Evaluate, steps_per_epoch
from xinv.train.checkpoint import Checkpoints
from xinv.train.private import private_step, require_independent
from xinv.train.progress import Log, Record, TrainingMonitor, require_finite
from xinv.train.recipe import Recipe, optimizer
from xinv.train.step import Loss, State, evaluation, sgd_step, split
from xinv.types import Batch, Key, Variables


class Stopped(Exception):  # noqa: N818 (an event, not a mistake)
    """A training was asked to leave. It has saved its state, if it has a folder for that."""


def never() -> bool:
    """Returns False: the `stop` of a training that runs to its end."""
    return False


class Session(NamedTuple):
    """The traces of a training; none of them changes the result.

    Attributes:
      directory: for checkpoints; a training continues from one there. None keeps none.
      name: of the training, in progress and errors.
      log: called with a step and {tag: value} each step, and each epoch.
      checkpoint_seconds: least time between checkpoints; 0 makes one after each dispatch.
      advice: the remedy in errors of a diverging training.
      stop: tells, after each dispatch, if to save a checkpoint and raise Stopped.
    """

    directory: str | Path | None = None
    name: str = "train"
    log: Log | None = None
    checkpoint_seconds: float = 30.0
    advice: str = "lower the learning rate"
    stop: Callable[[], bool] = never


class Fitted(NamedTuple):
    """A trained network.

    Attributes:
      variables: of the epoch with the lowest validation loss, or of the last without validation.
      history: per epoch the mean of each metric over its steps, and any "validation_loss".
      steps: the number of steps taken.
      diverged: why the variables are those of an earlier epoch than the last, in words; or "".
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
    session: Session = Session(),
) -> Fitted:
    """Minimises the mean of `loss` over `data` by the recipe; see `loop`.

    The same loss object and recipe compile once, for all variables, keys and data of one shape.

    Raises:
      InputError: as `loop`; or the recipe has noise, and the network statistics of its batches.
    """
    # The schedule of the learning rate ends with the last step
    per_epoch = steps_per_epoch(recipe, parallel.length(data), session.name)
    tx = optimizer(recipe, recipe.epochs * per_epoch)
    parameters, _ = split(variables)
    state = State(np.int32(0), variables, jax.jit(tx.init)(parameters))
    evaluate = None
    if recipe.validation:
        evaluate = evaluation(loss)
    step = sgd_step(loss, tx)
    if recipe.noise:
        require_independent(variables, session.name)
        step = private_step(loss, tx, recipe.clip, recipe.noise)
    return _run(
        step,
        state,
        data,
        key,
        recipe,
        evaluate,
        session,
        None,
    )


def loop(
    step: parallel.Step,
    state: State,
    data: Batch,
    key: Key,
    recipe: Recipe,
    evaluate: Evaluate | None = None,
    session: Session = Session(),
    limits: Mapping[str, float] | None = None,
) -> Fitted:
    """Runs `step` over `data` for the recipe's epochs.

    The step sees uint8 images augmented and as float32 in [0,1], and a key of its own step and
    device. `evaluate` scores the held-out part after each epoch. The step has its own optimizer.

    Args:
      step: see `parallel.Step`; adds one to `state.step`. Its metrics are averaged over devices.
      state: survives the call.
      data: named arrays [N,...], or lazy array-likes, read batch by batch on the host; rank-4
        uint8 ones are images.
      key: a typed key (`jax.random.key`).
      recipe: see `Recipe`.
      evaluate: a score per example; needed exactly if the recipe holds out a validation part.
      session: see `Session`.
      limits: upper bounds of metrics, on the mean of an epoch. With limits, even with {}, the
        variables are those of the last epoch within them, even if a later one is not finite: see
        `Fitted.diverged`.

    Raises:
      InputError: too little data for a batch, NaN in it, a batch size that the devices do not
        divide, a checkpoint of another training, or a recipe with noise, which only `fit` adds.
      Diverged: a metric is not finite and no epoch was within limits, or none was at the end.
      Stopped: the session said so.
    """
    # Noise needs the gradients of single examples, which a step of its own does not give
    allowed = "0 in a training with a step of its own"
    require(not recipe.noise, f"noise of {session.name}", recipe.noise, allowed)
    return _run(step, state, data, key, recipe, evaluate, session, limits)


def _run(
    step: parallel.Step,
    state: State,
    data: Batch,
    key: Key,
    recipe: Recipe,
    evaluate: Evaluate | None,
    session: Session,
    limits: Mapping[str, float] | None,
) -> Fitted:
    """`loop`, by any recipe."""
    # Choose the validation part, and the order of the others in each epoch
    data = parallel.host(data)
    batches.check(data, recipe, evaluate, session.name)
    plan, step_key = _plan(recipe, parallel.length(data), key, session.name)

    # Continue from the newest checkpoint
    checkpoints = Checkpoints(session.directory, _identity(data, key, recipe))
    keeps = evaluate is not None or limits is not None
    state, best, record = _latest(checkpoints, state, keeps)

    # Place the step and its data on the devices
    prepared = batches.prepared(step, recipe.augment, recipe.crop_padding)
    run = parallel.runner(prepared, data)
    keys = parallel.per_device(step_key)

    # Train
    per_epoch = plan.steps_per_epoch
    monitor = TrainingMonitor(session.name, session.advice, session.log, record, recipe, per_epoch)
    taken = record.step
    pending = None
    saved = time.monotonic()
    with checkpoints, monitor, monitor.surviving(limits is not None):
        for batch in itertools.chain.from_iterable(map(run.feed, plan.orders(taken))):
            if recipe.patience and record.waited >= recipe.patience:
                break

            # Run the steps of one dispatch
            state, metrics = run.advance(state, batch, keys)
            taken += np.size(next(iter(metrics.values())))

            # Metrics are read one dispatch late, so that the device never waits for the host
            monitor.follow(pending)
            pending = metrics

            # After an epoch, keep the variables if they are the best
            if keeps and taken % per_epoch == 0:
                pending = monitor.follow(pending)
                finite = _finite_copy(state.variables, record.step, session)
                score = batches.mean_score(
                    evaluate,
                    finite,
                    data,
                    plan.validation,
                    recipe.batch_size,
                )
                if monitor.judge(score, limits or {}):
                    best = finite

            # Save, so that a training that is killed continues from here
            due, stopped = processes.led(
                lambda saved=saved: _interruption(session, time.monotonic() - saved)
            )
            if session.directory is not None and due:
                pending = monitor.follow(pending)
                _save(checkpoints, record, {"state": state, "best": best}, session)
                saved = time.monotonic()
            if stopped:
                raise Stopped(f"{session.name}: stopped at step {record.step}")
        monitor.follow(pending)

    # Without a choice among epochs the last variables are the result
    if not keeps:
        best = _copy(state.variables)
    variables = jax.tree.map(jnp.asarray, best)
    return Fitted(variables, record.history, record.step, monitor.diverged, plan.validation)


def left_out(
    recipe: Recipe,
    count: int,
    key: Key,
    name: str = "train",
) -> np.ndarray:
    """Returns the positions of training examples in no batch if `count` are trained on.

    Each epoch drops an incomplete last batch, of other examples each time. So a training of several
    epochs has hardly any. Those held out for validation are not among them.

    Raises:
      InputError: too few examples for a batch, or a batch that the devices do not divide.
    """
    plan, _ = _plan(recipe, count, key, name)
    return plan.left_out()


def _plan(recipe: Recipe, count: int, key: Key, name: str) -> tuple[batches.Plan, Key]:
    """Returns the order of the batches, and the key of the steps."""
    plan_key, step_key = jax.random.split(key)
    return batches.Plan(recipe, count, plan_key, name), step_key


def _latest(checkpoints: Checkpoints, state: State, keeps: bool) -> tuple[State, Any, Record]:
    """Returns the replicated state, the best variables and the record to go on from."""
    best = None
    if keeps:
        best = state.variables
    # A copy, since a step consumes its state and the caller keeps the argument
    start = _copy({"state": state, "best": best})
    found = checkpoints.latest(start)
    if found is None:
        tree = start
        record = Record()
    else:
        tree = found.tree
        record = Record(**found.record)
    return parallel.replicate(tree["state"]), tree["best"], record


def _copy(tree: Any) -> Any:
    """Returns a copy on the host, in JAX's types, without an alias of a buffer of the device."""
    typed = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(np.array, jax.device_get(typed))


def _finite_copy(tree: Any, step: int, session: Session) -> Any:
    """Returns a copy on the host; raises Diverged if the last update made a leaf not finite."""
    tree = _copy(tree)
    # A sum is NaN or infinite if an element is
    for leaf in jax.tree.leaves(tree):
        total = float(np.sum(leaf, dtype=np.float64))
        require_finite({"the state": total}, step, session.name, session.advice)
    return tree


def _interruption(session: Session, elapsed: float) -> tuple[bool, bool]:
    """Tells if a training is to be saved now, and if it is to leave."""
    stopped = session.stop()
    return stopped or elapsed >= session.checkpoint_seconds, stopped


def _save(checkpoints: Checkpoints, record: Record, tree: Any, session: Session) -> None:
    finite = _finite_copy(tree, record.step, session)
    checkpoints.save(record.step, finite, asdict(record))


def _identity(data: Batch, key: Key, recipe: Recipe) -> dict[str, Any]:
    """Returns the values in which a training and the checkpoint it continues must agree."""
    identity = asdict(recipe)
    for name, leaf in data.items():
        identity[f"data {name}"] = f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
    identity["key"] = jax.random.key_data(key).tolist()
    # As JSON gives it back: tuples are lists
    return json.loads(json.dumps(identity))
