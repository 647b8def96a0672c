"""Stages: results declared by their spec, computed once and kept in the store.

A stage has a name, a label for people, and a spec: all of the config and of earlier stages' digests
that determines it. The three methods of `Stages` differ in the way to a missing result. They raise
`leases.Busy` if another process builds it, and `train.Stopped` if this one is to leave.

In the order of a run: target, evaluation and the shadows by their names, logits, explanation,
calibration, defence, release, attack, guess, metrics, attribute, utility, distortion, queries,
causes.
"""

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import processes, store, train
from xinv.audit.results import Rows
from xinv.store import Stage, Store
from xinv.train.scalars import Scalars
from xinv.types import Array, Key

COST = "cost.json"
"""The file of a stage with its label and the seconds that its last process took for it, without
those of the stages that it has built on the way, and the names of all stages that it asked for."""
Create = Callable[[str, tuple[int, ...]], np.ndarray]
"""`create(name, shape)` makes a float32 array of the stage on disk, to be filled in place."""


class Watch:
    """Watches over a run.

    Args:
      stop: tells if to leave: a training then saves its state, and no other stage is begun.
    """

    def __init__(self, stop: Callable[[], bool] = train.never):
        self.stop = stop

    def used(self, stage: Stage) -> None:
        """Is called with each stage that the run asks for."""

    def begun(self, label: str, folder: Path) -> None:
        """Is called with the label and the folder of each stage that is to be built."""


class Noted(Watch):
    """Notes the stages that a part of a run asks for.

    Args:
      watch: of the whole run; it is told all that this one is.

    Attributes:
      stages: their names, each once, in the order of the first use.
    """

    def __init__(self, watch: Watch):
        super().__init__(watch.stop)
        self.stages: dict[str, None] = {}
        self._watch = watch

    def used(self, stage: Stage) -> None:
        """Notes a stage."""
        self.stages[stage.path.name] = None
        self._watch.used(stage)

    def begun(self, label: str, folder: Path) -> None:
        """Passes on what is to be built."""
        self._watch.begun(label, folder)


class Stages(NamedTuple):
    """The stages of a run.

    Attributes:
      store: the place of results.
      workdir: the place of the trainings' TensorBoard scalars.
      checkpoint_seconds: least time between two checkpoints of a training.
      watch: whoever may end the run early; see `Watch`.
    """

    store: Store
    workdir: Path
    checkpoint_seconds: float = 30.0
    watch: Watch = Watch()

    def computed(
        self,
        name: str,
        label: str,
        spec: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Array]],
    ) -> Stage:
        """Saves the arrays of `compute()` by name."""

        def build(folder: Path) -> None:
            for key, array in compute().items():
                store.save_array(folder / f"{key}.npy", array)

        return self._stage(name, label, spec, build)

    def filled(
        self,
        name: str,
        label: str,
        spec: Mapping[str, Any],
        fill: Callable[[Create], None],
    ) -> Stage:
        """Saves the arrays created and filled by `fill(create)`: they may exceed memory."""

        def build(folder: Path) -> None:
            # Kept, to be flushed in the end
            made = []

            def create(key: str, shape: tuple[int, ...]) -> np.ndarray:
                array = store.create_array(folder / f"{key}.npy", shape, np.float32)
                made.append(array)
                return array

            # The store renames a complete folder, so that all of it is to be on disk
            fill(create)
            for array in made:
                if isinstance(array, np.memmap):
                    array.flush()

        return self._stage(name, label, spec, build)

    def trained(
        self,
        name: str,
        label: str,
        spec: Mapping[str, Any],
        fit: Callable[[train.Session], Mapping[str, Any]],
    ) -> Stage:
        """Saves the state of `fit(session)`, a dict of trees of arrays, with its "history"."""

        def build(folder: Path) -> None:
            # The folder has a partial name while it is built; scalars have the final one
            final, _, _ = folder.name.partition(".")
            with Scalars(self.workdir / "tensorboard" / final) as scalars:
                session = train.Session(
                    directory=folder / "checkpoints",
                    name=label,
                    log=scalars.write if processes.leads() else None,
                    checkpoint_seconds=self.checkpoint_seconds,
                    stop=self.watch.stop,
                )
                state = dict(fit(session))
            # Curves are read without the state, as JSON
            history = state.pop("history", {})
            if state:
                store.save_tree(folder / "state", state)
            store.write_json(folder / "history.json", curve(history))

        return self._stage(name, label, spec, build)

    def _stage(
        self,
        name: str,
        label: str,
        spec: Mapping[str, Any],
        build: Callable[[Path], None],
    ) -> Stage:
        stage, done = self.store.find(name, spec)
        self.watch.used(stage)
        if _building:
            _building[-1].stages[stage.path.name] = None
        if done:
            return stage
        if processes.led(self.watch.stop):
            raise train.Stopped(f"stopped before {label}")

        def timed(folder: Path) -> None:
            # Only computed stages are shown: a resumed run starts where the last one ended
            self.watch.begun(label, folder)
            with _timed() as built:
                build(folder)
            seconds = built.seconds
            cost = {"label": label, "seconds": round(seconds, 3), "within": list(built.stages)}
            store.write_json(folder / COST, cost)
            processes.say(f"{name:12s} {label:40s} {seconds:6.1f} s")

        self.store.compute(stage, spec, timed)
        return stage


class _Built:
    """What a stage under construction takes: its own seconds, and the stages that it asks for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.stages: dict[str, None] = {}


# The stages under construction, the outermost first
_building: list[_Built] = []


@contextlib.contextmanager
def _timed() -> Iterator[_Built]:
    """Measures the construction of a stage, without that of stages within it."""
    built = _Built()
    started = time.monotonic()
    _building.append(built)
    try:
        yield built
    finally:
        _building.pop()
        total = time.monotonic() - started
        built.seconds += total
        # All of it is within the next outer one
        if _building:
            _building[-1].seconds -= total


def seconds(root: Path, name: str) -> float:
    """Returns the stage's own seconds, in the store at `root`; 0 if unknown."""
    return _cost(root, name)["seconds"]


def spent(root: Path, names: Iterable[str], without: Collection[str] = ()) -> float:
    """Returns the seconds of stages and of all that they have asked for; see `asked`."""
    return sum(seconds(root, name) for name in asked(root, names, without))


def asked(root: Path, names: Iterable[str], without: Collection[str] = ()) -> list[str]:
    """Returns stages and all that they have asked for when they were built, each once, sorted.

    Args:
      root: of the store.
      names: of the stages.
      without: stages to leave out, with what they alone have asked for.
    """
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found and name not in without:
            found.add(name)
            left += _cost(root, name)["within"]
    return sorted(found)


def _cost(root: Path, name: str) -> dict[str, Any]:
    path = root / name / COST
    found = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0}
    # Stages of before have no list
    return {"within": [], **found}


def key(seed: int, *purpose: str) -> Key:
    """Returns independent random numbers for each purpose of a seed."""
    # A checksum, since hash() of a string differs between processes
    number = zlib.crc32("/".join(purpose).encode())
    return jax.random.fold_in(jax.random.key(seed), number)


def state_of(stage: Stage | None) -> dict[str, Any]:
    """Returns the learned state of a stage; an empty dict if there is none."""
    # A defence may learn nothing, and a network may have no arrays
    if stage is None or not (stage.path / "state").exists():
        return {}
    return stage.tree("state")


def curve(history: Mapping[str, list[float]]) -> Rows:
    """Returns a training's history, one line per epoch; a missing validation loss is None."""
    if not history:
        return []
    # Every line has the same fields
    epochs = len(history["loss"])
    columns = {"validation_loss": [None] * epochs, **history}
    lines = []
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        lines.append({"epoch": number, **dict(zip(columns, values, strict=True))})
    return lines
