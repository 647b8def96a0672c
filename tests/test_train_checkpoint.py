"""Trainings that are stopped, killed or broken, and what their checkpoints are worth afterwards."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import equal, fit_small, line, run_here, squared_error, zeros

from xinv import train
from xinv.train import Recipe, Session, State
from xinv.types import InputError


def killer(at: int) -> Callable[[int, dict], None]:
    def log(step: int, values: dict) -> None:
        if step == at and "loss" in values:
            raise KeyboardInterrupt

    return log


@pytest.mark.slow
@pytest.mark.parametrize("stops", [[1], [3, 6], [5], [9], [12]], ids=str)
def test_stopped_training_resumes(stops, tmp_path):
    """A stopped training resumes to the bit.

    Epochs have 4 steps; metrics arrive one dispatch late or, as a checkpoint follows each
    dispatch, with it.
    """
    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            fit_small(Session(tmp_path, log=killer(at), checkpoint_seconds=0))
    assert equal(fit_small(Session(tmp_path, checkpoint_seconds=0)), fit_small())
    assert equal(
        fit_small(Session(tmp_path)), fit_small()
    )  # and once more, from the last checkpoint


def test_killed_training_resumes(tmp_path):
    """A training that the system kills resumes to the bit."""
    killed = run_here("kill", str(tmp_path / "run"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    steps = []
    assert equal(
        fit_small(Session(tmp_path / "run", log=lambda step, _: steps.append(step))), fit_small()
    )
    assert steps[0] == 7  # the kill at step 7 came after the checkpoint of step 6


def test_resumed_training_keeps_patience(tmp_path):
    """A resumed training remembers its patience."""
    changes = {"patience": 1, "epochs": 30, "learning_rate": 0.3}
    expected = fit_small(**changes)
    assert 4 < expected.steps < 120
    with pytest.raises(KeyboardInterrupt):
        fit_small(Session(tmp_path, log=killer(expected.steps), checkpoint_seconds=0), **changes)
    assert equal(fit_small(Session(tmp_path, checkpoint_seconds=0), **changes), expected)


def test_short_training_leaves_no_checkpoint(tmp_path):
    """A short training leaves no checkpoint."""
    fit_small(Session(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 0.5}, "learning_rate"), ({"b1": 0.8}, "b1"), ({"epochs": 4}, "epochs")],
)
def test_checkpoint_of_another_recipe(changes, named, tmp_path):
    """A checkpoint of another recipe is refused."""
    with pytest.raises(KeyboardInterrupt):
        fit_small(Session(tmp_path, log=killer(3), checkpoint_seconds=0))
    with pytest.raises(InputError, match=f"another training \\({named} was"):
        fit_small(Session(tmp_path), **changes)
    assert equal(fit_small(Session(tmp_path)), fit_small())  # and left as it was


def truncate(checkpoint: Path) -> None:
    for file in (file for file in checkpoint.rglob("*") if file.is_file()):
        os.truncate(file, file.stat().st_size // 2)


def test_corrupt_checkpoint_falls_back(tmp_path):
    """A corrupt checkpoint falls back on the one before."""
    with pytest.raises(KeyboardInterrupt):
        fit_small(Session(tmp_path, log=killer(7), checkpoint_seconds=0))
    truncate(max(tmp_path.iterdir(), key=lambda path: int(path.name)))
    assert equal(fit_small(Session(tmp_path, checkpoint_seconds=0)), fit_small())


def test_only_corrupt_checkpoints(tmp_path):
    """Corrupt checkpoints alone are one clear error."""
    with pytest.raises(KeyboardInterrupt):
        fit_small(Session(tmp_path, log=killer(7), checkpoint_seconds=0))
    for checkpoint in tmp_path.iterdir():
        truncate(checkpoint)
    with pytest.raises(InputError, match=r"no checkpoint in .* is readable"):
        fit_small(Session(tmp_path))


def test_diverging_loss_stops_training(tmp_path):
    """A loss that diverges stops the training and keeps the last finite checkpoint."""

    def loss(variables, batch, key):
        return squared_error(variables, batch, key)[0] * jnp.where(
            variables["steps"] > 4, jnp.nan, 1
        ), {"steps": variables["steps"] + 1.0}

    variables = {**zeros(), "steps": jnp.float32(0)}
    recipe, session = (
        Recipe(batch_size=10, epochs=2, validation=0),
        Session(tmp_path, "target", None, 0),
    )
    with pytest.raises(
        train.Diverged, match="target: loss is nan at step 6: lower the learning rate"
    ):
        train.fit(loss, variables, line(), jax.random.key(0), recipe, session)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


def test_infinite_state_not_saved(tmp_path):
    """A state that is no longer finite is not saved."""

    def step(state, batch, key):
        broken = jnp.where(state.step == 2, jnp.inf, state.variables)
        return State(state.step + 1, broken, ()), {"loss": jnp.float32(0)}

    state, data, recipe = (
        State(np.int32(0), np.zeros(2), ()),
        line(),
        Recipe(batch_size=10, epochs=1, validation=0),
    )
    with pytest.raises(train.Diverged, match="the state is inf at step 3"):
        train.loop(
            step,
            state,
            data,
            jax.random.key(0),
            recipe,
            session=Session(tmp_path, checkpoint_seconds=0),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
