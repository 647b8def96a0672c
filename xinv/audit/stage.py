"""Stages: results declared by what determines them, computed once and kept in the store.

A stage has a name, a label for people, and a spec: the part of the config and the digests of earlier stages that
determine it. The three methods of `Stages` differ in how a result that is missing comes about.
"""

import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import store, train
from xinv.audit.results import Rows
from xinv.store import Stage, Store
from xinv.train.scalars import Scalars
from xinv.types import Array, Key

Create = Callable[[str, tuple[int, ...]], np.ndarray]
"""`create(name, shape)` makes a float32 array of the stage on disk, to be filled in place."""


class Stages(NamedTuple):
    """The stages of a run.

    Attributes:
      store: where results are kept.
      workdir: where trainings write TensorBoard scalars.
      checkpoint_seconds: least time between two checkpoints of a training.
    """

    store: Store
    workdir: Path
    checkpoint_seconds: float = 30.0

    def computed(
        self, name: str, label: str, spec: Mapping[str, Any], compute: Callable[[], Mapping[str, Array]]
    ) -> Stage:
        """Saves the arrays that `compute()` returns."""

        def build(folder: Path) -> None:
            for key, array in compute().items():
                store.save_array(folder / f"{key}.npy", array)

        return self._stage(name, label, spec, build)

    def filled(self, name: str, label: str, spec: Mapping[str, Any], fill: Callable[[Create], None]) -> Stage:
        """Saves the arrays that `fill(create)` creates and fills: those may be larger than memory."""

        def build(folder: Path) -> None:
            made = []

            def create(key: str, shape: tuple[int, ...]) -> np.ndarray:
                made.append(store.create_array(folder / f"{key}.npy", shape, np.float32))
                return made[-1]

            fill(create)
            for array in made:
                array.flush()

        return self._stage(name, label, spec, build)

    def trained(
        self, name: str, label: str, spec: Mapping[str, Any], fit: Callable[[train.Session], Mapping[str, Any]]
    ) -> Stage:
        """Saves the state, a dict of trees of arrays, that `fit(session)` returns, and its "history" as curves."""

        def build(folder: Path) -> None:
            with Scalars(self.workdir / "tensorboard" / folder.name.removesuffix(".partial")) as scalars:
                session = train.Session(folder / "checkpoints", label, scalars.write, self.checkpoint_seconds)
                state = fit(session)
            arrays = {key: part for key, part in state.items() if key != "history"}
            if arrays:
                store.save_tree(folder / "state", arrays)
            store.write_json(folder / "history.json", curve(state.get("history", {})))

        return self._stage(name, label, spec, build)

    def _stage(self, name: str, label: str, spec: Mapping[str, Any], build: Callable[[Path], None]) -> Stage:
        stage, done = self.store.find(name, spec)
        if done:
            return stage
        started = time.monotonic()
        self.store.compute(stage, spec, build)
        print(f"{name:12s} {label:40s} {time.monotonic() - started:6.1f} s", file=sys.stderr, flush=True)
        return stage


def key(seed: int, *purpose: str) -> Key:
    """Returns independent random numbers for each purpose of a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(purpose).encode()))


def state_of(stage: Stage | None) -> dict[str, Any]:
    """Returns what was learned in a stage; an empty dict if that is nothing."""
    if stage is None or not (stage.path / "state").exists():
        return {}
    return stage.tree("state")


def curve(history: Mapping[str, list[float]]) -> Rows:
    """Returns a training's history as one line per epoch; without validation its loss there is None."""
    if not history:
        return []
    columns = {"validation_loss": [None] * len(history["loss"]), **history}
    lines = zip(*columns.values(), strict=True)
    return [{"epoch": epoch, **dict(zip(columns, line, strict=True))} for epoch, line in enumerate(lines, start=1)]
