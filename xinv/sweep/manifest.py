"""The manifest of a sweep: its experiments, written once, for any worker to take pieces from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xinv
from xinv import store
from xinv.audit.results import Config
from xinv.leases import Leases
from xinv.types import InputError

MANIFEST = "manifest.json"
WORKERS = "workers"
"""The folder of the leases and logs of workers."""


class Unit(NamedTuple):
    """One experiment of a sweep.

    Attributes:
      number: its place in the sweep.
      digest: a hash of its config.
      config: complete and plain.
      folder: the place of its results.
    """

    number: int
    digest: str
    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """Its name in rows and reports."""
        return self.config["unit"]

    @property
    def seeds(self) -> range:
        """Its seeds."""
        return range(self.config["seed"], self.config["seed"] + self.config["seeds"])


class Piece(NamedTuple):
    """One seed of an experiment: the share of a sweep that a worker takes at once."""

    unit: Unit
    seed: int

    @property
    def key(self) -> str:
        """Its name among the files of its experiment; another config has another."""
        return f"{self.unit.digest}-{self.seed}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.unit.name}, seed {self.seed}"


class Sweep(NamedTuple):
    """A sweep in `workdir`, with its stages in `stages`."""

    workdir: Path
    stages: Path
    units: tuple[Unit, ...]

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, experiment by experiment."""
        found = []
        for unit in self.units:
            found += [Piece(unit, seed) for seed in unit.seeds]
        return found

    def lease(self, worker: str) -> Path:
        """Returns the marker of a worker's life."""
        return self.workdir / WORKERS / f"{worker}.lease"

    def log(self, number: int) -> Path:
        """Returns the path of the output of the worker with this number."""
        return self.workdir / WORKERS / f"{number:03d}.log"


def describe(configs: Sequence[Config], stages: Path | None = None) -> dict[str, Any]:
    """Returns the manifest of `configs`, as JSON values.

    Args:
      configs: complete.
      stages: the sweep's store; None for its own.
    """
    # The own store is relative, so that a sweep may be moved with it
    place = os.path.abspath(stages) if stages else "stages"
    units = []
    for number, config in enumerate(configs):
        # The digest names the files of a unit's pieces, so a changed config begins anew
        units.append({"number": number, "digest": store.digest(config), "config": config})
    return {"version": xinv.__version__, "stages": place, "units": units}


def write(workdir: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest.

    Raises:
      InputError: the manifest there is of another version, or workers are at one of other configs.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / MANIFEST
    if path.exists():
        _require_idle(workdir, _load(path), manifest)
    store.write_json(path, manifest)


def planned(workdir: Path, manifest: dict[str, Any]) -> Sweep:
    """Returns the sweep of a manifest in `workdir`."""
    # A config's tuples are lists in JSON
    units = []
    for entry in manifest["units"]:
        folder = workdir / "units" / f"{entry['number']:04d}"
        units.append(
            Unit(
                entry["number"],
                entry["digest"],
                _tuples(entry["config"]),
                folder,
            )
        )
    return Sweep(workdir, workdir / manifest["stages"], tuple(units))


def read(workdir: Path) -> Sweep:
    """Returns the sweep in `workdir`.

    Raises:
      InputError: there is none, or it is of another version of xinv.
    """
    path = workdir / MANIFEST
    if not path.exists():
        raise InputError(f"{workdir} has no {MANIFEST}: name the folder that launch/sweep.py wrote")
    return planned(workdir, _load(path))


def _load(path: Path) -> dict[str, Any]:
    manifest = store.read_json(path, "start launch/sweep.py again with another --workdir")
    # Another version may compute other results, and would mix them
    if manifest["version"] != xinv.__version__:
        raise InputError(
            f"{path} was written by xinv {manifest['version']} and this is {xinv.__version__},"
            " whose results may differ: give another --workdir, or use that version"
        )
    return manifest


def _require_idle(
    workdir: Path,
    earlier: dict[str, Any],
    manifest: dict[str, Any],
) -> None:
    """Raises InputError if workers are at a different manifest."""
    # Equal manifests may be written again, and so may others without workers
    old = {entry["number"]: entry["digest"] for entry in earlier["units"]}
    new = {entry["number"]: entry["digest"] for entry in manifest["units"]}
    differing = []
    for number in old | new:
        if old.get(number) != new.get(number):
            differing.append(number)
    if not differing and earlier["stages"] == manifest["stages"]:
        return
    # Living workers would go on by the old manifest
    leases = Leases()
    for marker in (workdir / WORKERS).glob("*.lease"):
        if leases.looks_held(marker):
            place = f"unit {differing[0]}" if differing else "the store"
            raise InputError(
                f"workers are at a sweep in {workdir} in which {place} differs: give another"
                " --workdir, or stop them"
            )


def _tuples(value: Any) -> Any:
    """Returns JSON values with tuples for lists, as in configs."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(each) for each in value)
    return value
