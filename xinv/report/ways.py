"""The rows of a hardening's report, each of one explanation that is hardened in one way."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from xinv.metrics.stats import Interval, holm, mean_interval
from xinv.report.cells import number
from xinv.report.trials import pareto, short
from xinv.report.verdict import combined
from xinv.types import InputError

_LEVEL, _ALPHA = 0.90, 0.05
LESS, STILL, NOT_SHOWN = "leaks less", "leaks less, but still leaks", "not shown to leak less"
SEARCH = "search"
UNRESOLVED = "unresolved: too few false positives at this rate"
CONFOUNDED = "confounded: a control leaks too"
AGAIN = "leaks less, but not to who asks again"

Lines = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """A mean with its interval over seeds, and the 95 % interval within each seed as shown."""

    interval: Interval
    ends: str

    @property
    def text(self) -> str:
        """Mean, and half the interval if there are several seeds."""
        mean = number(self.interval.mean, 3)
        if self.interval.count < 2:
            return mean
        return f"{mean} ± {number(self.interval.half_width, 3)}"


class Row(NamedTuple):
    """One explanation, hardened in one way.

    Attributes:
      name: of the explanation.
      way: name of the way.
      searched: True for a search.
      verdict: in words.
      before, after, difference: of the objective on the half kept from the search.
      p: of the difference, adjusted by Holm over all rows; None without one.
      controls: by name, the AUC before and after.
      utility: by name, the mean before and after.
      accuracy: of the target, before and after.
      privacy: the ε of a target trained with noise, a text a line; () of others.
      queries: the AUC of an attack on the mean of several queries.
      inversion: SSIM of reconstructions from predictions, and with the map before and after.
      rebuilt: the mean change of an image's SSIM; None without one.
      opens: True if the change is above 0 in every seed, interval and all.
      values: the chosen parameters, by seed.
      trials: number of trials of a seed.
      seconds: what finding the release of a seed took: the trials, or the training of a defence or
        of another target; 0 where nothing was to be found.
      pareto: the trials of each seed as a diagram.
      legend: mark, CSS class of the colour and label of each group of trials.
      policies: files of the policies, by seed.
    """

    name: str
    way: str
    searched: bool
    verdict: str
    before: Figure
    after: Figure | None
    difference: Figure | None
    p: float | None
    controls: dict[str, dict[str, Figure]]
    utility: dict[str, dict[str, Figure]]
    accuracy: dict[str, Figure]
    privacy: tuple[str, ...]
    queries: Figure | None
    inversion: dict[str, Figure]
    rebuilt: Figure | None
    opens: bool
    values: list[str]
    trials: int
    seconds: Interval
    pareto: list[Markup]
    legend: list[tuple[str, str, str]]
    policies: list[str]

    @property
    def label(self) -> str:
        """For people: the explanation, and the way unless it is the search."""
        return self.name if self.way == SEARCH else f"{self.name}, {self.way}"


def rows(workdir: Path) -> list[Row]:
    """Returns the rows of a folder that launch/harden.py wrote.

    Raises:
      InputError: a file is missing or damaged.
    """
    results = _lines(workdir / "hardened.jsonl")
    trials = _lines(workdir / "trials.jsonl")
    costs = _lines(workdir / "costs.jsonl")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in results:
        groups.setdefault((line["explanation"], line["way"]), []).append(line)

    # One test per row, over its seeds; Holm's correction covers all rows.
    values = {}
    for key, lines in groups.items():
        measured = []
        for line in lines:
            difference = _leak(line).get("difference")
            if difference:
                measured.append(difference["p"])
        if measured:
            values[key] = combined(measured)
    corrected = holm(list(values.values())).tolist()
    adjusted = dict(zip(values, corrected, strict=True))

    # The ways of one explanation follow each other, in the order of the file
    found = []
    for name in dict.fromkeys(name for name, _ in groups):
        for key, lines in groups.items():
            if key[0] == name:
                found.append(
                    _row(*key, lines, _own(trials, key), _own(costs, key), adjusted.get(key))
                )
    return found


def _leak(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of a line's objective."""
    objective = line["objective"]
    if objective != "auc":
        objective = f"tpr_at_{float(objective.removeprefix('tpr_at_'))}"
    return line["leak"][objective]


def _own(lines: Lines, key: tuple[str, str]) -> list[Mapping[str, Any]]:
    """Those of one explanation and way."""
    return [one for one in lines if (one["explanation"], one["way"]) == key]


def _row(name: str, way: str, lines: Lines, trials: Lines, costs: Lines, p: float | None) -> Row:
    """One way of one explanation of `lines`, `trials` and `costs`, all seeds; `p` is adjusted."""
    # Before and after are of the same seeds: those with a chosen policy, if any.
    hardened = [line for line in lines if "after" in _leak(line)]
    shown = hardened or lines
    before = []
    after = []
    differences = []
    for line in shown:
        leak = _leak(line)
        before.append(leak["before"])
        if "after" in leak:
            after.append(leak["after"])
        if "difference" in leak:
            differences.append(leak["difference"])

    # The difference of inversion is an estimate of its own, beside the SSIM of each release.
    changes = []
    rebuilt = []
    for line in shown:
        if line["inversion"]:
            part = dict(line["inversion"])
            if "difference" in part:
                changes.append(part.pop("difference"))
            rebuilt.append(part)

    queries = [line["queries"] for line in hardened if line["queries"]]
    diagrams, legend = pareto(trials)
    return Row(
        name=name,
        way=way,
        searched=bool(trials),
        verdict=_verdict(lines, hardened, p),
        before=_figure(before),
        after=_figure(after),
        difference=_figure(differences),
        p=p,
        controls=_nested([line["controls"] for line in shown]),
        utility=_nested([line["utility"] for line in shown]),
        accuracy=_flat([line["accuracy"] for line in shown]),
        privacy=_private(lines),
        queries=_figure(queries),
        inversion=_flat(rebuilt),
        rebuilt=_figure(changes),
        opens=bool(changes) and all(one["low"] > 0 for one in changes),
        values=[_described(line) if trials else line["outcome"] for line in lines],
        trials=max(line["trials"] for line in lines),
        seconds=mean_interval([one["seconds"] for one in costs], _LEVEL),
        pareto=diagrams,
        legend=legend,
        policies=[line["policy"] for line in lines],
    )


def _verdict(lines: Lines, hardened: Lines, p: float | None) -> str:
    """The verdict on one explanation, in words.

    Args:
      lines: one per seed.
      hardened: those of the seeds with a chosen policy.
      p: of the difference, adjusted; None without one.
    """
    # A leak of a control is not of the model, so hardening the model proves nothing.
    controls = _controls(hardened or lines)
    confounded = bool(controls) and min(controls) <= _ALPHA
    if not hardened or p is None:
        return _untouched(lines) + ("; a control leaks" if confounded else "")
    if confounded:
        return CONFOUNDED

    # Reservations follow the verdict: no control, or a policy in some seeds alone.
    verdict = _lowered(hardened, p)
    if not controls:
        verdict += ", without a control"
    if len(hardened) < len(lines):
        verdict += f" ({len(hardened)} of {len(lines)} seeds)"
    return verdict


def _untouched(lines: Lines) -> str:
    """The outcome of a search without a chosen policy."""
    outcomes = [line["outcome"] for line in lines]
    said = " / ".join(dict.fromkeys(outcomes))
    before = [_leak(line)["before"]["p"] for line in lines]
    none = all("no leak" in outcome for outcome in outcomes)
    # The search saw the other half of the images, so the two may disagree.
    if none and combined(before) <= _ALPHA:
        return f"{said}; the reported half shows one"
    return said


def _lowered(hardened: Lines, p: float) -> str:
    """The verdict on a difference with the adjusted p-value `p`."""
    # Too few false positives place no threshold, and an interval of draws is too narrow
    if not all(_leak(line).get("resolved", True) for line in hardened):
        return UNRESOLVED
    if p > _ALPHA:
        return NOT_SHOWN
    # Less than before is not nothing: the leak after is tested against chance.
    left = [_leak(line)["after"]["p"] for line in hardened]
    if combined(left) <= _ALPHA:
        return STILL
    # A policy with noise may withstand one query and not the mean of several.
    asked = [line["queries"]["p"] for line in hardened if line["queries"]]
    if asked and combined(asked) <= _ALPHA:
        return AGAIN
    return LESS


def _controls(lines: Lines) -> list[float]:
    """Returns the p-values of an explanation's controls, adjusted among themselves."""
    found = []
    for control in lines[0]["controls"]:
        for when in ("before", "after"):
            values = []
            for line in lines:
                part = line["controls"][control]
                if when in part:
                    values.append(part[when]["p"])
            # One test over the seeds, as for the attack itself
            if values:
                found.append(combined(values))
    return holm(found).tolist()


def _figure(estimates: Sequence[Mapping[str, float]]) -> Figure | None:
    """The figure of one estimate per seed; None without any."""
    if not estimates:
        return None
    values = []
    ends = []
    for one in estimates:
        values.append(one["value"])
        ends.append(f"[{number(one['low'], 3)}, {number(one['high'], 3)}]")
    return Figure(mean_interval(values, _LEVEL), " ".join(ends))


def _nested(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Figure]]:
    """The figures by name and time (before, after), of one part per seed."""
    found: dict[str, dict[str, Figure]] = {}
    for name in parts[0]:
        found[name] = _flat([part[name] for part in parts])
    return found


def _flat(parts: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures by name of one part per seed, of estimates or of numbers without an interval."""
    groups: dict[str, list[Any]] = {}
    for part in parts:
        for name, value in part.items():
            groups.setdefault(name, []).append(value)
    # A plain number is a mean over images, without an interval of its own.
    found = {}
    for name, values in groups.items():
        if isinstance(values[0], Mapping):
            found[name] = _figure(values)
        else:
            found[name] = Figure(mean_interval(values, _LEVEL), "")
    return found


def _private(lines: Lines) -> tuple[str, ...]:
    """The ε of one image for the targets of all seeds, then that of a group and the δ of both."""
    found = []
    for line in lines:
        stated = line["privacy"]
        if not stated:
            continue
        text = [number(stated["epsilon"], 3)]
        if "epsilon_of_group" in stated:
            text.append(f"of a group {number(stated['epsilon_of_group'], 3)}")
        found.append((*text, f"δ = {stated['delta']:g}"))
    # Once if they are equal
    return tuple(part for text in dict.fromkeys(found) for part in text)


def _described(line: Mapping[str, Any]) -> str:
    """A seed's chosen parameters in words."""
    values = line["values"]
    if not values:
        return "as it was"
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}: the hardening is not finished, start it again first"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): run launch/harden.py again") from None
