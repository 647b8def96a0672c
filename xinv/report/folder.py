"""Reads the files of a run's workdir; no other file of the report knows the layout."""

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from xinv.metrics import roc
from xinv.types import InputError

MEMBERSHIP = "membership"
"""The goal of an attack on the training set."""
_NUMBER, _OPTIONAL_TEXT, _OPTIONAL_COUNT = (int, float), (str, NoneType), (int, NoneType)
_OPTIONAL_NUMBER = (*_NUMBER, NoneType)
_ROW = {
    "unit": (str,),
    "seed": (int,),
    "stage": (str,),
    "arm": _OPTIONAL_TEXT,
    "goal": _OPTIONAL_TEXT,
    "verb": _OPTIONAL_TEXT,
    "inputs": _OPTIONAL_TEXT,
    "encoder": _OPTIONAL_TEXT,
    "explainer": _OPTIONAL_TEXT,
    "defence": _OPTIONAL_TEXT,
    "adaptive": (bool, NoneType),
    "queries": _OPTIONAL_COUNT,
    "releases": _OPTIONAL_COUNT,
    "roles": _OPTIONAL_TEXT,
    "attack": _OPTIONAL_TEXT,
    "baseline": (bool, NoneType),
    "control_of": _OPTIONAL_TEXT,
    "model": _OPTIONAL_TEXT,
    "metric": (str,),
    "value": _NUMBER,
    "low": _OPTIONAL_NUMBER,
    "high": _OPTIONAL_NUMBER,
    "p": _OPTIONAL_NUMBER,
    "examples": (int,),
}
_CURVE = {
    "seed": (int,),
    "stage": (str,),
    "arm": _OPTIONAL_TEXT,
    "epoch": (int,),
    "loss": _NUMBER,
    "validation_loss": _OPTIONAL_NUMBER,
}
_PUBLISHED = {
    "arm": (str,),
    "metric": (str,),
    "value": _NUMBER,
    "spread": _OPTIONAL_NUMBER,
    "source": (str,),
}
_FURTHER = {"band": _OPTIONAL_NUMBER, "note": (str,)}
"""Optional fields of an entry of the published figures."""
_Fields = Mapping[str, tuple[type, ...]]


class Unit(NamedTuple):
    """One finished work unit.

    Attributes:
      name: as in its rows.
      path: its folder.
      rows: one dict per (seed, stage, arm, metric), in the file's order.
      curves: one dict per (seed, stage, arm, epoch).
      examples: images uint8 [M,H,W,C], explanation/…, release/…, reconstruction/… and ssim/… of the
        reported images, evenly spaced; and confusion/… [K,K] of classifiers, rows the truth.
      factors: [N] over all reported images: properties of target and explanation, ssim/… and
        attack_accuracy/… by arm, distortion/… by defended arm; empty where the run kept none.
      members: <seed>/<arm>/score and <seed>/<arm>/member [N] of each membership attack; empty
        without one.
      classes: the M examples' class names, of the attacked label.
      dataset: name, fingerprint, image shape, class names, sizes of the roles.
      published: figures to compare with, one dict per (source, arm, metric): value, its spread or
        None, and where known band, the upper end of the figure by chance.
      config: the complete config.
      environment: versions, devices, date, times.
    """

    name: str
    path: Path
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    examples: dict[str, np.ndarray]
    factors: dict[str, np.ndarray]
    members: dict[str, np.ndarray]
    classes: list[str]
    dataset: dict[str, Any]
    published: list[dict[str, Any]]
    config: dict[str, Any]
    environment: dict[str, Any]


class Folder(NamedTuple):
    """A workdir: its finished units, and the names of a sweep's unfinished ones."""

    units: tuple[Unit, ...]
    unfinished: tuple[str, ...] = ()


def read(workdir: Path) -> Folder:
    """The unit in `workdir`, or a sweep's units in `workdir/units/*/`.

    Raises:
      InputError: nothing finished is there, or a file is missing or damaged; names the file, and
        the line.
    """
    if not workdir.is_dir():
        raise InputError(
            f"workdir {str(workdir)!r} is not a folder: give one that launch/run.py wrote"
        )
    # A sweep has its rows in the folders of its units.
    if (workdir / "units").is_dir() and not (workdir / "rows.jsonl").exists():
        return _sweep(workdir)
    if not (workdir / "rows.jsonl").exists():
        raise InputError(
            f"workdir {str(workdir)!r} has no rows.jsonl: the run is not finished, start it again"
            " first"
        )
    return Folder((_unit(workdir),))


def _sweep(workdir: Path) -> Folder:
    folders = [path for path in (workdir / "units").iterdir() if path.is_dir()]
    # By number: shorter names first, so that unit 9 comes before unit 10
    folders.sort(key=lambda path: (len(path.name), path.name))
    finished = []
    unfinished = []
    for folder in folders:
        if (folder / "rows.jsonl").exists():
            finished.append(folder)
        else:
            unfinished.append(folder.name)
    if not finished:
        raise InputError(
            f"no unit of {str(workdir / 'units')!r} has a rows.jsonl: run the sweep first"
        )
    return Folder(tuple(map(_unit, finished)), tuple(unfinished))


def _unit(path: Path) -> Unit:
    rows = _json_lines(path / "rows.jsonl", _ROW)
    if not rows:
        raise InputError(
            f"{path / 'rows.jsonl'} is empty: the run is not finished, start it again first"
        )

    # Rows first: they state the arrays that the other files need.
    _check_unique(path / "rows.jsonl", rows)
    _check_membership(path / "rows.jsonl", rows)
    dataset = _json(path / "dataset.json")
    config = _json(path / "config.json")
    examples = _examples(path / "examples.npz", rows)
    return Unit(
        name=rows[0]["unit"],
        path=path,
        rows=rows,
        curves=_json_lines(path / "curves.jsonl", _CURVE),
        examples=examples,
        factors=_factors(path / "factors.npz"),
        members=_members(path / "members.npz", rows, config),
        classes=_classes(path, examples["labels"], dataset, config),
        dataset=dataset,
        published=_published(path / "config.json", config),
        config=config,
        environment=_json(path / "environment.json"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: the run is not finished, start it again first"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not text in UTF-8: it is damaged, run the audit again"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno} is not JSON ({error.msg}): run the audit again"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object: run the audit again")
    return value


def _json_lines(path: Path, fields: _Fields) -> list[dict[str, Any]]:
    """The objects of a file, one a line, each with `fields` of the given types."""
    found = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        found.append(_json_line(path, number, line, fields))
    return found


def _json_line(
    path: Path,
    number: int,
    line: str,
    fields: _Fields,
) -> dict[str, Any]:
    """The object of one line; errors name the file and the line."""
    # A copied folder may end within a line.
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {number} is cut off or damaged ({error.msg}): run the audit again"
        ) from None
    return _checked(f"{path} line {number}", value, fields)


def _checked(place: str, value: Any, fields: _Fields) -> dict[str, Any]:
    """`value` if it has `fields` of the given types and finite numbers; errors name `place`."""
    # JSON of Python may hold NaN and Infinity, so numbers are tested too.
    for field, kinds in fields.items():
        if not isinstance(value, dict) or field not in value:
            raise InputError(f"{place} has no {field!r}: it needs {', '.join(fields)}")
        if not isinstance(value[field], kinds):
            allowed = " or ".join(kind.__name__.replace("NoneType", "null") for kind in kinds)
            raise InputError(f"{place} has {field} = {value[field]!r}: {allowed} is allowed")
        if isinstance(value[field], float) and not math.isfinite(value[field]):
            raise InputError(f"{place} has {field} = {value[field]}: a finite number is allowed")
    return value


def _published(path: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The config's published figures; none where it has none."""
    report = config.get("report", {})
    if not isinstance(report, dict):
        return []
    entries = report.get("published", [])
    if not isinstance(entries, list):
        raise InputError(f"{path} has report.published = {entries!r}: a list of objects is allowed")
    # These figures are typed by people, so each field is checked.
    for number, entry in enumerate(entries):
        place = f"{path} report.published[{number}]"
        _checked(place, entry, _PUBLISHED)
        further = {name: kinds for name, kinds in _FURTHER.items() if name in entry}
        _checked(place, entry, further)
    return entries


def _check_unique(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rejects a repeated row, which would count one run twice and make its interval too narrow."""
    # Lines by key, so that the error names both
    seen = {}
    for number, row in enumerate(rows, 1):
        key = (row["stage"], row["arm"], row["metric"], row["seed"])
        if key in seen:
            raise InputError(
                f"{path} line {number} repeats line {seen[key]} ({row['metric']}, seed"
                f" {row['seed']})"
            )
        seen[key] = number


def _check_membership(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rejects a membership attack without a full AUC, and a control of an unknown attack."""
    found = _membership(rows)
    # An attack is ranked and judged by its AUC, in every seed.
    known = set()
    for row in found:
        if row["metric"] == "auc" and None not in (row["low"], row["high"], row["p"]):
            known.add((row["arm"], row["seed"]))
    arms = {row["arm"] for row in found}

    # Each attack needs its AUC, and each control its attack.
    for row in found:
        if (row["arm"], row["seed"]) not in known:
            raise InputError(
                f"{path} has no auc of arm {row['arm']!r}, seed {row['seed']}, with low, high and"
                " p: give config.metrics.membership an auc and run the audit again"
            )
        if row["control_of"] is not None and row["control_of"] not in arms:
            raise InputError(
                f"{path} has arm {row['arm']!r} as control of {row['control_of']!r}, which is not"
                " there"
            )


def _membership(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the membership attacks."""
    found = []
    for row in rows:
        if row["goal"] == MEMBERSHIP and row["stage"] == "attack":
            found.append(row)
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    # Without pickle, as a workdir may come from elsewhere
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: the run is not finished, start it again first"
        ) from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): run the audit again") from None


def _examples(path: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of `path`, with all that the rows' attacks need."""
    arrays = _arrays(path)
    needed = _shown(rows)
    # Releases are kept of some arms alone, and maps of no arm too: checked where they are.
    needed.update(name for name in arrays if name.startswith(("release/", "explanation/")))
    for name in sorted(needed):
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}: run the audit again")
        if len(arrays[name]) != len(arrays["images"]):
            raise InputError(
                f"{path} has {len(arrays[name])} of {name!r} for {len(arrays['images'])} images"
            )
        if name.startswith("reconstruction/") and arrays[name].shape != arrays["images"].shape:
            raise InputError(
                f"{path} has {name!r} of shape {arrays[name].shape} for {arrays['images'].shape}"
            )
    # Confusion matrices are per class, not per image.
    for name, array in arrays.items():
        if name.startswith("confusion/") and (array.ndim != 2 or array.shape[0] != array.shape[1]):
            raise InputError(f"{path} has {name!r} of shape {array.shape}: a square is allowed")
    return arrays


def _shown(rows: list[dict[str, Any]]) -> set[str]:
    """Names of the example arrays of the rows' attacks."""
    # Explanations of membership attacks are shown too; only reconstructions have an SSIM.
    needed = {"images", "labels"}
    for row in rows:
        if row["stage"] != "attack":
            continue
        if row["goal"] == "reconstruction":
            needed.add(f"reconstruction/{row['arm']}")
        if row["metric"] == "ssim":
            needed.add(f"ssim/{row['arm']}")
        if row["explainer"]:
            needed.update(f"explanation/{name}" for name in row["explainer"].split("+"))
    return needed


def _factors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of `path`, all of one length; none where the run kept none."""
    if not path.exists():
        return {}
    arrays = _arrays(path)
    sizes = [array.shape for array in arrays.values()]
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape != sizes[0]:
            raise InputError(
                f"{path} has {name!r} of shape {array.shape}: all need one dimension and one length"
            )
    return arrays


def _members(
    path: Path,
    rows: list[dict[str, Any]],
    config: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Scores, members and, where the data have them, groups of each membership attack and seed."""
    # A run without membership attacks writes no such file.
    names = dict.fromkeys(f"{row['seed']}/{row['arm']}" for row in _membership(rows))
    if not names:
        return {}
    arrays = _arrays(path)
    data = config.get("data") or {}
    roles = data.get("roles") or {}
    kinds = ["member", "score"]
    if roles.get("group"):
        kinds.append("group")
    needed = {}
    for name in names:
        mine = []
        for kind in kinds:
            array = f"{name}/{kind}"
            if array not in arrays:
                raise InputError(f"{path} has no array {array!r}: run the audit again")
            needed[array] = arrays[array]
            mine.append(arrays[array])

        # A curve is drawn of each, so scores without one are found here.
        try:
            roc.ranked(*mine)
        except InputError as error:
            raise InputError(f"{path} has no ROC curve of {name!r}: {error}") from None
    return needed


def _classes(
    path: Path,
    labels: np.ndarray,
    dataset: dict[str, Any],
    config: dict[str, Any],
) -> list[str]:
    """The class names of `labels` [M]."""
    # The label is the one of the config; its names are in the description of the data.
    try:
        names = dataset["labels"][config["evaluation"]["label"]]
        return [str(names[label]) for label in labels]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"the labels of {path / 'examples.npz'} have no names in dataset.json ({error}): run"
            " the audit again"
        ) from None
