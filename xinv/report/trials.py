"""Diagrams of a hardening: the trials of a search, and the ways to harden beside each other."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from xinv.metrics.stats import Interval
from xinv.report import plots

_INKS, _MARKS = ("c1", "c3", "c5"), ("■", "▲", "◆")


def short(value: Any) -> str:
    """Returns a parameter's value in few digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def pareto(trials: Sequence[Mapping[str, Any]]) -> tuple[list[Markup], list[tuple[str, str, str]]]:
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
            low, high = map(short, self.edges)
            return [f"{self.name} < {low}", f"{low} to {high}", f"> {high}"]
        labels = [f"{self.name} {short(kind)}" for kind in self.names]
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


def compared(
    before: Interval,
    ways: Sequence[tuple[bool, float, Interval]],
    chance: float,
) -> Markup:
    """Draws the ways to harden one explanation: searches as squares, defences as triangles.

    Args:
      before: the leak of the explanation as it is.
      ways: of each if it is a search, what is lost of the map, and the leak.
      chance: the leak of an attacker who guesses.
    """
    dots = [_way(before, 0.0, "c0", plots.UNDEFENDED)]
    for searched, loss, leak in ways:
        kind = 0 if searched else 1
        dots.append(_way(leak, loss, _INKS[kind], _MARKS[kind]))
    return plots.pareto(dots, (0.0, chance))


def _way(leak: Interval, loss: float, ink: str, mark: str) -> plots.Dot:
    # One seed has no interval over seeds
    ends = (leak.low, leak.high) if leak.count > 1 else None
    return plots.Dot(ink, mark, loss, leak.mean, ends, False)
