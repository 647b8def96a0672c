"""Trainings that take milliseconds, for the tests of the loop and of its checkpoints; also run as a
process.
"""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xinv import models, parallel, train
from xinv.train import Recipe, Session


def squared_error(variables, batch, key):
    return (batch["x"] @ variables["params"]["w"] - batch["y"]) ** 2, {}


def line(count: int = 60) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5])).astype(np.float32)}


def zeros():
    return {"params": {"w": jnp.zeros(3)}}


def equal(left, right) -> bool:
    leaves = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


class Small(nn.Module):
    """A network with batch statistics over all devices (which would cancel a bias and leave it to
    rounding errors).
    """

    @nn.compact
    def __call__(self, images, train: bool):
        x = nn.Conv(4, (3, 3), use_bias=False)(images)
        x = nn.BatchNorm(use_running_average=not train, axis_name=parallel.AXIS, momentum=0.5)(x)
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


SMALL = models.linen(Small())


def pictures() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        "image": draw.integers(0, 256, (40, 6, 6, 1), np.uint8),
        "label": draw.integers(0, 3, 40).astype(np.int32),
    }


@functools.cache
def initial():
    return jax.jit(SMALL.init)(jax.random.key(4), jnp.zeros((1, 6, 6, 1)))


def fit_small(session: Session = Session(), data: dict | None = None, **changes) -> train.Fitted:
    """Three epochs of four steps with all that a resume must restore: Adam, batch statistics, the
    best epoch.
    """
    fields = {
        "batch_size": 8,
        "epochs": 3,
        "schedule": "cosine",
        "augment": ("crop", "flip"),
        "crop_padding": 1,
    }
    recipe = Recipe(**{**fields, **changes})
    return train.fit(
        train.classifier_loss(SMALL),
        initial(),
        data or pictures(),
        jax.random.key(5),
        recipe,
        session,
    )


def fit_private() -> np.ndarray:
    """Weights of a training with clipped gradients and noise, of two steps an epoch that leave some
    examples out.
    """
    recipe = Recipe(batch_size=24, epochs=2, learning_rate=0.1, validation=0, clip=0.5, noise=0.3)
    return train.fit(squared_error, zeros(), line(), jax.random.key(5), recipe).variables["params"][
        "w"
    ]


class Lazy:
    """An array-like that can only be indexed by positions."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return self._array[positions]


def run_here(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs `main` in a process of its own."""
    command = [sys.executable, "-W", "error", __file__, *arguments]
    paths = os.pathsep.join(
        [str(Path(train.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **environment}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def main(command: str, path: str) -> None:
    if command == "save":
        leaves = jax.tree.leaves(fit_small()[:2])
        np.savez(
            path,
            devices=jax.device_count(),
            private=fit_private(),
            **{str(i): leaf for i, leaf in enumerate(leaves)},
        )
    if command == "kill":
        fit_small(
            Session(
                path,
                log=lambda step, _: step == 7 and os.kill(os.getpid(), signal.SIGKILL),
                checkpoint_seconds=0,
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
