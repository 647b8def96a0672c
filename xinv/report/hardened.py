"""The report of a hardening: what each explanation leaks before and after, and what that costs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from xinv.metrics.stats import Interval, holm, mean_interval
from xinv.report import plots
from xinv.report.cells import number
from xinv.report.verdict import combined, p_value
from xinv.types import InputError

_LEVEL, _ALPHA = 0.90, 0.05
_INKS, _MARKS = ("c1", "c3", "c5"), ("■", "▲", "◆")
_CHANCE = 0.5
LESS, STILL, NOT_SHOWN = "leaks less", "leaks less, but still leaks", "not shown to leak less"
CONFOUNDED = "confounded: a control leaks too"
CONTROLS = {"untrained": "untrained pair", "stranger": "stranger"}

Lines = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """A figure over seeds: its mean with the interval over seeds, and the 95 % interval of each."""

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
    """One explanation.

    Attributes:
      name: of the explanation.
      verdict: in words.
      before, after, difference: of the AUC on the half that was never searched.
      p: of the difference, adjusted by Holm over explanations; None without one.
      controls: by name, the AUC before and after.
      utility: by name, the mean before and after.
      queries: the AUC of who averages several queries.
      inversion: SSIM of what is rebuilt from predictions, and with the map before and after.
      values: the chosen parameters, by seed.
      trials: number of trials of a seed.
      pareto: the trials of each seed as a diagram.
      legend: what its colours and marks stand for.
      policies: the files.
    """

    name: str
    verdict: str
    before: Figure
    after: Figure | None
    difference: Figure | None
    p: float | None
    controls: dict[str, dict[str, Figure]]
    utility: dict[str, dict[str, Figure]]
    queries: Figure | None
    inversion: dict[str, Figure]
    values: list[str]
    trials: int
    pareto: list[Markup]
    legend: list[tuple[str, str, str]]
    policies: list[str]


def rows(workdir: Path) -> list[Row]:
    """Returns the rows of a folder that launch/harden.py wrote.

    Raises:
      InputError: a file is missing or damaged.
    """
    results = _lines(workdir / "hardened.jsonl")
    trials = _lines(workdir / "trials.jsonl")
    names = list(dict.fromkeys(line["explanation"] for line in results))
    grouped = [[line for line in results if line["explanation"] == name] for name in names]

    # One test per explanation, over its seeds
    changes = [[_p(line) for line in lines if _p(line) is not None] for lines in grouped]
    tested = [index for index, ps in enumerate(changes) if ps]
    adjusted = dict(zip(tested, holm([combined(changes[index]) for index in tested]), strict=True))
    controls = _controls_that_leak(grouped)
    found = []
    for index, (name, lines) in enumerate(zip(names, grouped, strict=True)):
        own = [trial for trial in trials if trial["explanation"] == name]
        p = float(adjusted[index]) if index in adjusted else None
        found.append(_row(name, lines, own, p, name in controls))
    return found


def html(workdir: Path) -> str:
    """Returns the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p_value"] = p_value
    found, config = rows(workdir), _json(workdir / "config.json")
    return environment.get_template("hardened.html").render(
        rows=found,
        headline=headline(found),
        inversion=inversion(found),
        unit=config["unit"],
        harden=config["harden"],
        seeds=config["seeds"],
        controls=CONTROLS,
    )


def text(workdir: Path) -> str:
    """Returns the figures for a terminal."""
    found = rows(workdir)
    lines = [headline(found), ""]
    head = f"{'explanation':28s} {'AUC before':>16s} {'after':>16s} {'difference':>26s}  verdict"
    lines += [head, "-" * len(head)]
    for row in found:
        after = row.after.text if row.after else "-"
        change = f"{row.difference.text} {row.difference.ends}" if row.difference else "-"
        lines.append(f"{row.name:28s} {row.before.text:>16s} {after:>16s} {change:>26s}  {row.verdict}")
    return "\n".join(lines)


def headline(found: Sequence[Row]) -> str:
    """Returns what was gained, in a sentence."""
    hardened = [row for row in found if row.difference]
    less = [row for row in hardened if row.verdict in (LESS, STILL)]
    if not hardened:
        return f"No leak was lowered in {len(found)} explanations: see each verdict."
    count = f"{len(less)} of {len(hardened)} hardened explanations leak less"
    rest = len(found) - len(hardened)
    if not rest:
        return f"{count} on images that the search never saw."
    return f"{count} on images that the search never saw; {rest} of {len(found)} were left as is."


def inversion(found: Sequence[Row]) -> str:
    """Returns whether hardening opened the other leak, in a sentence; "" if it was not measured."""
    both = [row for row in found if "after" in row.inversion]
    if not both:
        return ""
    opened = []
    for row in both:
        before, after = row.inversion["before"].interval, row.inversion["after"].interval
        margin = 0.0 if math.isnan(before.half_width + after.half_width) else after.half_width
        if after.mean - margin > before.mean:
            opened.append(row.name)
    if not opened:
        return "No hardened explanation helps an inversion attack more than it did before."
    return f"Hardening opens the other leak: images are rebuilt better from {', '.join(opened)}."


def _row(name: str, lines: Lines, trials: Lines, p: float | None, confounded: bool) -> Row:
    auc = [line["leak"]["auc"] for line in lines]
    hardened = [line for line in lines if "after" in line["leak"]["auc"]]
    difference = _figure([one["difference"] for one in auc if "difference" in one], signed=True)
    after = _figure([one["after"] for one in auc if "after" in one])
    pareto, legend = _pareto(trials)
    return Row(
        name=name,
        verdict=_verdict(lines, difference, p, confounded),
        before=_figure([one["before"] for one in auc]),
        after=after,
        difference=difference,
        p=p,
        controls=_nested([line["controls"] for line in lines]),
        utility=_nested([line["utility"] for line in lines]),
        queries=_figure([line["queries"] for line in hardened if line["queries"]]),
        inversion=_flat([line["inversion"] for line in lines if line["inversion"]]),
        values=[_described(line) for line in lines],
        trials=max(line["trials"] for line in lines),
        pareto=pareto,
        legend=legend,
        policies=[line["policy"] for line in lines],
    )


def _verdict(lines: Lines, difference: Figure | None, p: float | None, confounded: bool) -> str:
    if confounded:
        return CONFOUNDED
    if difference is None or p is None:
        return " / ".join(dict.fromkeys(line["outcome"] for line in lines))
    if p > _ALPHA:
        return NOT_SHOWN
    left = [line["leak"]["auc"]["after"]["p"] for line in lines if "after" in line["leak"]["auc"]]
    return STILL if combined(left) <= _ALPHA else LESS


def _controls_that_leak(grouped: Sequence[Lines]) -> set[str]:
    """Returns the explanations of which a control leaks, after Holm over all controls."""
    found: list[tuple[str, float]] = []
    for lines in grouped:
        for control in lines[0]["controls"]:
            for when in ("before", "after"):
                ps = [line["controls"][control][when]["p"] for line in lines if when in line["controls"][control]]
                if ps:
                    found.append((lines[0]["explanation"], combined(ps)))
    adjusted = holm([p for _, p in found])
    return {name for (name, _), p in zip(found, adjusted, strict=True) if p <= _ALPHA}


def _p(line: Mapping[str, Any]) -> float | None:
    difference = line["leak"]["auc"].get("difference")
    return difference["p"] if difference else None


def _figure(estimates: Sequence[Mapping[str, float]], signed: bool = False) -> Figure | None:
    if not estimates:
        return None
    ends = ""
    if len(estimates) == 1:
        low, high = (number(estimates[0][end], 3) for end in ("low", "high"))
        ends = f"[{low}, {high}]"
    return Figure(mean_interval([one["value"] for one in estimates], _LEVEL), ends)


def _nested(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Figure]]:
    found: dict[str, dict[str, Figure]] = {}
    for name in parts[0]:
        found[name] = _flat([part[name] for part in parts])
    return found


def _flat(parts: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    found = {}
    for name in dict.fromkeys(key for part in parts for key in part):
        values = [part[name] for part in parts if name in part]
        estimates = [one if isinstance(one, Mapping) else _point(one) for one in values]
        figure = _figure(estimates)
        is_point = not isinstance(values[0], Mapping)
        found[name] = figure._replace(ends="") if is_point else figure
    return found


def _point(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def _described(line: Mapping[str, Any]) -> str:
    values = line["values"]
    if not values:
        return "as it was"
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pareto(trials: Lines) -> tuple[list[Markup], list[tuple[str, str, str]]]:
    """Returns a diagram of each seed's trials, and the legend of their colours and marks."""
    values = [trial["values"] for trial in trials if trial["values"]]
    if not values:
        return [], []
    names = list(values[0])
    # The first parameter by colour, the second by mark
    colour = _Binned.of(names[0], [one[names[0]] for one in values])
    mark = None
    if len(names) > 1:
        mark = _Binned.of(names[1], [one[names[1]] for one in values])
    diagrams = []
    for seed in dict.fromkeys(trial["seed"] for trial in trials):
        own = [trial for trial in trials if trial["seed"] == seed]
        candidates = [trial for trial in own if trial["values"]]
        if candidates:
            dots = [_dot(trial, colour, mark, names) for trial in own]
            diagrams.append(plots.pareto(dots, (0.0, own[0]["chance"])))
    legend = [("■", ink, label) for ink, label in zip(_INKS, colour.labels, strict=False)]
    if mark is not None:
        legend += [(sign, "c0", label) for sign, label in zip(_MARKS, mark.labels, strict=False)]
    return diagrams, legend


class _Binned(NamedTuple):
    """The values of a parameter in at most three groups."""

    name: str
    edges: tuple[float, ...]
    names: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> "_Binned":
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            edges = np.quantile(np.asarray(values, float), [1 / 3, 2 / 3])
            return cls(name, tuple(float(edge) for edge in edges), ())
        kinds = sorted(dict.fromkeys(values), key=str)
        return cls(name, (), tuple(kinds))

    @property
    def labels(self) -> list[str]:
        if self.edges:
            low, high = (_short(edge) for edge in self.edges)
            return [f"{self.name} < {low}", f"{low} to {high}", f"> {high}"]
        shown = [f"{self.name} {kind}" for kind in self.names[:2]]
        rest = self.names[2:]
        return [*shown, "others"] if len(rest) > 1 else [*shown, *(f"{self.name} {k}" for k in rest)]

    def place(self, value: Any) -> int:
        if self.edges:
            return int(np.searchsorted(self.edges, value))
        return min(2, self.names.index(value))


def _dot(trial: Mapping[str, Any], colour: _Binned, mark: _Binned | None, names: Sequence[str]) -> plots.Dot:
    ink, sign = "c0", plots.UNDEFENDED
    if trial["values"]:
        ink = _INKS[colour.place(trial["values"][names[0]])]
        sign = _MARKS[mark.place(trial["values"][names[1]])] if mark else _MARKS[0]
    leak = trial["leak"]
    ends = (leak["low"], leak["high"]) if trial["chosen"] else None
    return plots.Dot(ink, sign, 1 - trial["spearman"], leak["value"], ends, trial["chosen"])


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}: the hardening is not finished, start it again first"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): run launch/harden.py again") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): run launch/harden.py again") from None
