"""The report of a hardening: what each explanation leaks before and after, and what that costs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from xinv.metrics.stats import Interval, holm, mean_interval
from xinv.report import plots
from xinv.report.cells import number
from xinv.report.templates import templates
from xinv.report.verdict import combined, p_value
from xinv.store import read_json
from xinv.types import InputError

_LEVEL, _ALPHA = 0.90, 0.05
_INKS, _MARKS = ("c1", "c3", "c5"), ("■", "▲", "◆")
_CHANCE = 0.5
LESS, STILL, NOT_SHOWN = "leaks less", "leaks less, but still leaks", "not shown to leak less"
CONFOUNDED = "confounded: a control leaks too"
AGAIN = "leaks less, but not to who asks again"

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
      rebuilt: the mean change of an image's SSIM; None without one.
      opens: True if it is above 0 in every seed.
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
    rebuilt: Figure | None
    opens: bool
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
    adjusted = dict(
        zip(
            tested,
            holm([combined(changes[index]) for index in tested]),
            strict=True,
        )
    )
    found = []
    for index, (name, lines) in enumerate(zip(names, grouped, strict=True)):
        own = [trial for trial in trials if trial["explanation"] == name]
        p = float(adjusted[index]) if index in adjusted else None
        found.append(_row(name, lines, own, p))
    return found


def html(workdir: Path) -> str:
    """Returns the page."""
    environment = templates()
    environment.filters["p_value"] = p_value
    found = rows(workdir)
    config = read_json(workdir / "config.json", "run launch/harden.py again")
    return environment.get_template("hardened.html").render(
        rows=found,
        headline=headline(found),
        inversion=inversion(found),
        unit=config["unit"],
        harden=config["harden"],
        seeds=config["seeds"],
    )


def text(workdir: Path) -> str:
    """Returns the figures for a terminal."""
    found = rows(workdir)
    lines = [headline(found), ""]
    head = f"{'explanation':28s} {'AUC before':>16s} {'after':>16s} {'difference':>26s}  verdict"
    lines += [head, "-" * len(head)]
    for row in found:
        after = row.after.text if row.after else "-"
        if row.difference:
            change = f"{row.difference.text} {row.difference.ends}"
        else:
            change = "-"
        lines.append(
            f"{row.name:28s} {row.before.text:>16s} {after:>16s} {change:>26s}  {row.verdict}"
        )
    return "\n".join(lines)


def headline(found: Sequence[Row]) -> str:
    """Returns what was gained, in a sentence."""
    hardened = [row for row in found if row.difference]
    less = [row for row in hardened if row.verdict.startswith("leaks less")]
    if not hardened:
        return f"No leak was lowered in {len(found)} explanations: see each verdict."
    count = f"{len(less)} of {len(hardened)} hardened explanations leak less"
    rest = len(found) - len(hardened)
    if not rest:
        return f"{count} on images that the search never saw."
    return f"{count} on images that the search never saw; {rest} of {len(found)} were left as is."


def inversion(found: Sequence[Row]) -> str:
    """Returns whether hardening opened the other leak, in a sentence; "" if it was not measured."""
    both = [row for row in found if row.rebuilt]
    if not both:
        return ""
    opened = [row.name for row in both if row.opens]
    if not opened:
        return "No hardened explanation is shown to help an inversion attack more than before."
    return f"Hardening opens the other leak: images are rebuilt better from {', '.join(opened)}."


def _row(name: str, lines: Lines, trials: Lines, p: float | None) -> Row:
    # Before and after are of the same seeds: those in which something was chosen, if any
    hardened = [line for line in lines if "after" in line["leak"]["auc"]]
    shown = hardened or lines
    auc = [line["leak"]["auc"] for line in shown]
    difference = _figure([one["difference"] for one in auc if "difference" in one])
    rebuilt = [line["inversion"] for line in shown if line["inversion"]]
    changes = [part.get("difference") for part in rebuilt if "difference" in part]
    pareto, legend = _pareto(trials)
    return Row(
        name=name,
        verdict=_verdict(lines, hardened, p),
        before=_figure([one["before"] for one in auc]),
        after=_figure([one["after"] for one in auc if "after" in one]),
        difference=difference,
        p=p,
        controls=_nested([line["controls"] for line in shown]),
        utility=_nested([line["utility"] for line in shown]),
        queries=_figure([line["queries"] for line in hardened if line["queries"]]),
        inversion=_flat([{k: v for k, v in one.items() if k != "difference"} for one in rebuilt]),
        rebuilt=_figure(changes),
        opens=bool(changes) and all(one["low"] > 0 for one in changes),
        values=[_described(line) for line in lines],
        trials=max(line["trials"] for line in lines),
        pareto=pareto,
        legend=legend,
        policies=[line["policy"] for line in lines],
    )


def _verdict(lines: Lines, hardened: Lines, p: float | None) -> str:
    controls = _controls(hardened or lines)
    if controls and min(controls) <= _ALPHA:
        return CONFOUNDED
    if not hardened or p is None:
        said = " / ".join(dict.fromkeys(line["outcome"] for line in lines))
        before = [line["leak"]["auc"]["before"]["p"] for line in lines]
        missed = all("no leak" in line["outcome"] for line in lines) and combined(before) <= _ALPHA
        if missed:
            return f"{said}; the reported half shows one"
        return said
    verdict = _lowered(hardened, p)
    if not controls:
        verdict += ", without a control"
    if len(hardened) < len(lines):
        verdict += f" ({len(hardened)} of {len(lines)} seeds)"
    return verdict


def _lowered(hardened: Lines, p: float) -> str:
    if p > _ALPHA:
        return NOT_SHOWN
    left = [line["leak"]["auc"]["after"]["p"] for line in hardened]
    if combined(left) <= _ALPHA:
        return STILL
    asked = [line["queries"]["p"] for line in hardened if line["queries"]]
    if asked and combined(asked) <= _ALPHA:
        return AGAIN
    return LESS


def _controls(lines: Lines) -> list[float]:
    """Returns the p-values of an explanation's controls, adjusted among themselves."""
    found = []
    for control in lines[0]["controls"]:
        for when in ("before", "after"):
            parts = [line["controls"][control] for line in lines]
            ps = [part[when]["p"] for part in parts if when in part]
            if ps:
                found.append(combined(ps))
    return holm(found).tolist()


def _p(line: Mapping[str, Any]) -> float | None:
    difference = line["leak"]["auc"].get("difference")
    if difference:
        return difference["p"]
    return None


def _figure(estimates: Sequence[Mapping[str, float]]) -> Figure | None:
    if not estimates:
        return None
    ends = [f"[{number(one['low'], 3)}, {number(one['high'], 3)}]" for one in estimates]
    return Figure(mean_interval([one["value"] for one in estimates], _LEVEL), " ".join(ends))


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
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _pareto(trials: Lines) -> tuple[list[Markup], list[tuple[str, str, str]]]:
    """Returns a diagram of each seed's trials, and the legend of their colours and marks."""
    values = [trial["values"] for trial in trials if trial["values"]]
    if not values:
        return [], []
    # The first parameter that varies by colour, the second by mark
    names = [name for name in values[0] if len({str(one[name]) for one in values}) > 1]
    names = names or list(values[0])
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
    legend = []
    for ink, label in zip(_INKS, colour.labels, strict=False):
        legend.append(("■", ink, label))
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
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        )
        if numeric and len(set(values)) > len(_INKS):
            edges = np.quantile(np.asarray(values, float), [1 / 3, 2 / 3])
            return cls(name, tuple(float(edge) for edge in edges), ())
        kinds = sorted(
            dict.fromkeys(values), key=lambda kind: (str(type(kind)), kind is None, kind)
        )
        return cls(name, (), tuple(kinds))

    @property
    def labels(self) -> list[str]:
        if self.edges:
            low, high = (_short(edge) for edge in self.edges)
            return [f"{self.name} < {low}", f"{low} to {high}", f"> {high}"]
        shown = [f"{self.name} {_short(kind)}" for kind in self.names[:2]]
        rest = self.names[2:]
        if len(rest) > 1:
            return [*shown, "others"]
        return [*shown, *(f"{self.name} {_short(kind)}" for kind in rest)]

    def place(self, value: Any) -> int:
        if self.edges:
            return int(np.searchsorted(self.edges, value))
        return min(2, self.names.index(value))


def _dot(
    trial: Mapping[str, Any],
    colour: _Binned,
    mark: _Binned | None,
    names: Sequence[str],
) -> plots.Dot:
    ink = "c0"
    sign = plots.UNDEFENDED
    if trial["values"]:
        ink = _INKS[colour.place(trial["values"][names[0]])]
        sign = _MARKS[mark.place(trial["values"][names[1]])] if mark else _MARKS[0]
    leak = trial["leak"]
    ends = (leak["low"], leak["high"]) if trial["chosen"] else None
    return plots.Dot(
        ink,
        sign,
        1 - trial["spearman"],
        leak["value"],
        ends,
        trial["chosen"],
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}: the hardening is not finished, start it again first"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): run launch/harden.py again") from None
