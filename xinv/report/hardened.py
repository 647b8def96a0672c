"""The report of a hardening: the leak of each explanation before and after, and the cost."""

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
    """One explanation.

    Attributes:
      name: of the explanation.
      verdict: in words.
      before, after, difference: of the AUC on the half kept from the search.
      p: of the difference, adjusted by Holm over explanations; None without one.
      controls: by name, the AUC before and after.
      utility: by name, the mean before and after.
      queries: the AUC of an attack on the mean of several queries.
      inversion: SSIM of reconstructions from predictions, and with the map before and after.
      rebuilt: the mean change of an image's SSIM; None without one.
      opens: True if the change is above 0 in every seed, interval and all.
      values: the chosen parameters, by seed.
      trials: number of trials of a seed.
      pareto: the trials of each seed as a diagram.
      legend: mark, CSS class of the colour and label of each group of trials.
      policies: files of the policies, by seed.
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
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in results:
        groups.setdefault(line["explanation"], []).append(line)

    # One test per explanation, over its seeds; Holm's correction covers all explanations.
    values = {}
    for name, lines in groups.items():
        measured = []
        for line in lines:
            difference = line["leak"]["auc"].get("difference")
            if difference:
                measured.append(difference["p"])
        if measured:
            values[name] = combined(measured)
    corrected = holm(list(values.values())).tolist()
    adjusted = dict(zip(values, corrected, strict=True))

    # One row per explanation, in the order of the file
    found = []
    for name, lines in groups.items():
        own = [trial for trial in trials if trial["explanation"] == name]
        found.append(_row(name, lines, own, adjusted.get(name)))
    return found


def html(workdir: Path) -> str:
    """Returns the page of a folder that launch/harden.py wrote."""
    # The config names the unit, the sizes of the search and the seeds.
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
    """Returns the figures of a folder for a terminal, one line per explanation."""
    found = rows(workdir)
    lines = [headline(found), ""]
    # The table, one line per explanation under a rule
    head = f"{'explanation':28s} {'AUC before':>16s} {'after':>16s} {'difference':>26s}  verdict"
    lines += [head, "-" * len(head)]
    for row in found:
        # An explanation that stays as it is has neither an AUC after nor a difference.
        after = "-"
        change = "-"
        if row.after:
            after = row.after.text
        if row.difference:
            change = f"{row.difference.text} {row.difference.ends}"
        lines.append(
            f"{row.name:28s} {row.before.text:>16s} {after:>16s} {change:>26s}  {row.verdict}"
        )
    return "\n".join(lines)


def headline(found: Sequence[Row]) -> str:
    """Returns the number of explanations that leak less, in a sentence."""
    # An explanation without a leak to lower has no difference.
    hardened = [row for row in found if row.difference]
    less = [row for row in hardened if row.verdict.startswith("leaks less")]
    if not hardened:
        return f"No leak was lowered in {len(found)} explanations: see each verdict."
    # The search chose the policies on one half of the images, so the claim is of the other half.
    count = f"{len(less)} of {len(hardened)} hardened explanations leak less"
    rest = len(found) - len(hardened)
    if not rest:
        return f"{count} on images that the search never saw."
    return f"{count} on images that the search never saw; {rest} of {len(found)} were left as is."


def inversion(found: Sequence[Row]) -> str:
    """Returns the effect of hardening on inversion, in a sentence; "" if it was not measured."""
    both = [row for row in found if row.rebuilt]
    if not both:
        return ""
    # A policy against membership attacks may help inversion attacks.
    opened = [row.name for row in both if row.opens]
    if not opened:
        return "No hardened explanation is shown to help an inversion attack more than before."
    return f"Hardening opens the other leak: images are rebuilt better from {', '.join(opened)}."


def _row(name: str, lines: Lines, trials: Lines, p: float | None) -> Row:
    """One explanation of `lines`, one per seed, and `trials`; `p` is adjusted."""
    # Before and after are of the same seeds: those with a chosen policy, if any.
    hardened = [line for line in lines if "after" in line["leak"]["auc"]]
    shown = hardened or lines
    before = []
    after = []
    differences = []
    for line in shown:
        auc = line["leak"]["auc"]
        before.append(auc["before"])
        if "after" in auc:
            after.append(auc["after"])
        if "difference" in auc:
            differences.append(auc["difference"])

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
    pareto, legend = _pareto(trials)
    return Row(
        name=name,
        verdict=_verdict(lines, hardened, p),
        before=_figure(before),
        after=_figure(after),
        difference=_figure(differences),
        p=p,
        controls=_nested([line["controls"] for line in shown]),
        utility=_nested([line["utility"] for line in shown]),
        queries=_figure(queries),
        inversion=_flat(rebuilt),
        rebuilt=_figure(changes),
        opens=bool(changes) and all(one["low"] > 0 for one in changes),
        values=[_described(line) for line in lines],
        trials=max(line["trials"] for line in lines),
        pareto=pareto,
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
    if controls and min(controls) <= _ALPHA:
        return CONFOUNDED
    if not hardened or p is None:
        return _untouched(lines)

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
    before = [line["leak"]["auc"]["before"]["p"] for line in lines]
    none = all("no leak" in outcome for outcome in outcomes)
    # The search saw the other half of the images, so the two may disagree.
    if none and combined(before) <= _ALPHA:
        return f"{said}; the reported half shows one"
    return said


def _lowered(hardened: Lines, p: float) -> str:
    """The verdict on a difference with the adjusted p-value `p`."""
    if p > _ALPHA:
        return NOT_SHOWN
    # Less than before is not nothing: the AUC after is tested against chance.
    left = [line["leak"]["auc"]["after"]["p"] for line in hardened]
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


def _described(line: Mapping[str, Any]) -> str:
    """A seed's chosen parameters in words."""
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

    # The first parameter that varies is shown by colour, the second by mark.
    names = []
    for name in values[0]:
        if len({str(one[name]) for one in values}) > 1:
            names.append(name)
    names = names or list(values[0])
    colour = _Binned.of(names[0], [one[names[0]] for one in values])
    mark = None
    if len(names) > 1:
        mark = _Binned.of(names[1], [one[names[1]] for one in values])

    # One diagram per seed that searched
    seeds: dict[int, list[Mapping[str, Any]]] = {}
    for trial in trials:
        seeds.setdefault(trial["seed"], []).append(trial)
    diagrams = []
    for own in seeds.values():
        # The explanation as it is, a trial without values, makes no diagram alone.
        if any(trial["values"] for trial in own):
            dots = [_dot(trial, colour, mark, names) for trial in own]
            diagrams.append(plots.pareto(dots, (0.0, own[0]["chance"])))

    # The legend: colours of the first parameter, then marks of the second in grey
    legend = []
    for ink, label in zip(_INKS, colour.labels, strict=False):
        legend.append(("■", ink, label))
    if mark is not None:
        for sign, label in zip(_MARKS, mark.labels, strict=False):
            legend.append((sign, "c0", label))
    return diagrams, legend


class _Binned(NamedTuple):
    """The values of a parameter in at most three groups.

    Attributes:
      name: the parameter.
      edges: two inner edges of numeric groups; () for groups by value.
      names: values in order, the third and later ones in one group; () for groups by edges.
    """

    name: str
    edges: tuple[float, ...]
    names: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> "_Binned":
        """Groups `values` by thirds if they are many numbers, else by value."""
        kinds = set(values)
        # bool is a subclass of int, but a truth value has no thirds
        numeric = all(type(value) in (int, float) for value in values)
        if numeric and len(kinds) > len(_INKS):
            edges = np.quantile(np.asarray(values, float), [1 / 3, 2 / 3])
            return cls(name, tuple(edges.tolist()), ())
        # By type first: values of one parameter may not be comparable.
        ordered = sorted(kinds, key=lambda kind: (str(type(kind)), kind))
        return cls(name, (), tuple(ordered))

    @property
    def labels(self) -> list[str]:
        """One label per group."""
        if self.edges:
            low, high = map(_short, self.edges)
            return [f"{self.name} < {low}", f"{low} to {high}", f"> {high}"]
        labels = [f"{self.name} {_short(kind)}" for kind in self.names]
        if len(labels) > 3:
            return [*labels[:2], "others"]
        return labels

    def place(self, value: Any) -> int:
        """The group of `value`, 0 to 2."""
        if self.edges:
            return int(np.searchsorted(self.edges, value))
        return min(2, self.names.index(value))


def _dot(
    trial: Mapping[str, Any],
    colour: _Binned,
    mark: _Binned | None,
    names: Sequence[str],
) -> plots.Dot:
    """A trial as a dot; the explanation as it is, a trial without values, is grey and hollow."""
    ink = "c0"
    sign = plots.UNDEFENDED
    values = trial["values"]
    if values:
        ink = _INKS[colour.place(values[names[0]])]
        sign = _MARKS[0]
    if values and mark:
        sign = _MARKS[mark.place(values[names[1]])]
    # The interval of the chosen trial alone, as those of all would cover the dots
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
    """The objects of a file, one a line."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}: the hardening is not finished, start it again first"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): run launch/harden.py again") from None
