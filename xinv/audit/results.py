"""The files of a work unit: the results of a run, from which alone a report is made."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xinv import store

Config = Mapping[str, Any]
Rows = list[dict[str, Any]]

CONFIG, ROWS = "config.json", "rows.jsonl"
STAGES = "stages.json"
"""The names of the stages of each seed, of an experiment of a sweep."""
FILES = (
    ROWS,
    "curves.jsonl",
    "examples.npz",
    "factors.npz",
    "members.npz",
    "dataset.json",
    "environment.json",
    STAGES,
    "report.html",
    CONFIG,
)
"""Files in the order of their removal: the rows first, since they mark the unit as done."""


def begin(workdir: Path, config: Config, files: Iterable[str] = FILES) -> None:
    """Makes `workdir` the folder of `config`; `files` of another move to history/<its hash>."""
    if (workdir / CONFIG).exists():
        # Rows of two configs in one folder would mislead
        earlier = store.read_json(workdir / CONFIG)
        if not _same(earlier, config):
            _move(workdir, workdir / "history" / store.digest(earlier), files)
    store.write_json(workdir / CONFIG, config)


def is_begun(workdir: Path, config: Config) -> bool:
    """Tells if `workdir` is the folder of this very config."""
    return (workdir / CONFIG).exists() and _same(store.read_json(workdir / CONFIG), config)


def is_done(workdir: Path, config: Config) -> bool:
    """Tells if `workdir` holds the rows of this very config."""
    if not (workdir / ROWS).exists():
        return False
    lines = (workdir / ROWS).read_text().splitlines()
    try:
        for line in lines:
            json.loads(line)
    except json.JSONDecodeError:
        return False  # damaged by hand: the stages make them again
    return bool(lines) and is_begun(workdir, config)


def finish(
    workdir: Path,
    rows: Rows,
    curves: Rows,
    examples: Mapping[str, np.ndarray],
    factors: Mapping[str, np.ndarray],
    dataset: Mapping[str, Any],
    environment: Mapping[str, Any] | None,
    members: Mapping[str, np.ndarray],
) -> None:
    """Writes the results; the rows last, since their presence marks the unit as done.

    An `environment` of None keeps the one of an earlier run of the same config.
    """
    # Arrays for the report
    named = {"examples.npz": examples, "factors.npz": factors, "members.npz": members}
    for name, arrays in named.items():
        if not arrays:
            continue
        with store.atomic(workdir / name) as path, open(path, "wb") as file:
            np.savez(file, **arrays)
    # Text
    store.write_json(workdir / "dataset.json", dataset)
    if environment is not None:
        store.write_json(workdir / "environment.json", environment)
    store.write_text(workdir / "curves.jsonl", _lines(curves))
    store.write_text(workdir / ROWS, _lines(rows))


def _same(one: Config, other: Config) -> bool:
    return store.canonical(one) == store.canonical(other)


def _move(workdir: Path, folder: Path, files: Iterable[str]) -> None:
    # A kill between two moves leaves a folder without rows: not done
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if (workdir / name).exists():
            os.replace(workdir / name, folder / name)


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
