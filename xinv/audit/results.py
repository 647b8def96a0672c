"""The files of a work unit: what a run leaves in its folder, and all that a report reads."""

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
FILES = (
    ROWS,
    "curves.jsonl",
    "examples.npz",
    "factors.npz",
    "members.npz",
    "dataset.json",
    "environment.json",
    "report.html",
    CONFIG,
)
"""In the order in which an earlier run's are moved away: what says that the unit is done goes first."""


def begin(workdir: Path, config: Config) -> None:
    """Makes `workdir` the folder of `config`; the files of another config move to history/<its hash>."""
    if (workdir / CONFIG).exists():
        earlier = store.read_json(workdir / CONFIG)
        if not _same(earlier, config):
            _move(workdir, workdir / "history" / store.digest(earlier))
    store.write_json(workdir / CONFIG, config)


def is_done(workdir: Path, config: Config) -> bool:
    """Whether `workdir` holds the rows of this very config."""
    if not (workdir / ROWS).exists() or not (workdir / CONFIG).exists():
        return False
    try:
        rows = [json.loads(line) for line in (workdir / ROWS).read_text().splitlines()]
    except json.JSONDecodeError:
        return False  # damaged by hand: the stages make them again
    return bool(rows) and _same(store.read_json(workdir / CONFIG), config)


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
    """Writes the results; the rows last, since their presence says that the unit is done.

    `environment` says what they were computed with; None keeps what an earlier run of the same config wrote.
    """
    for name, arrays in (("examples.npz", examples), ("factors.npz", factors), ("members.npz", members)):
        if not arrays:
            continue
        with store.atomic(workdir / name) as path, open(path, "wb") as file:
            np.savez(file, **arrays)
    store.write_json(workdir / "dataset.json", dataset)
    if environment is not None:
        store.write_json(workdir / "environment.json", environment)
    store.write_text(workdir / "curves.jsonl", _lines(curves))
    store.write_text(workdir / ROWS, _lines(rows))


def _same(one: Config, other: Config) -> bool:
    return store.canonical(one) == store.canonical(other)


def _move(workdir: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (workdir / name).exists():
            os.replace(workdir / name, folder / name)


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
