"""ROC curves of the membership attacks that find most, beside their controls and chance."""

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from xinv.metrics import chance, membership, roc
from xinv.report import plots
from xinv.report.folder import Unit
from xinv.report.league import Entry, League

_SHOWN = 6
"""Attacks in one diagram, so that they can be told apart."""
_POINTS = 90
"""False-positive rates at which a curve is drawn; all the small ones are among them."""
_GREY = "c0"


class Diagram(NamedTuple):
    """The curves and what a reader needs beside them.

    Attributes:
      svg: of the first seed; other seeds are thin.
      colours: the CSS class of each attack that is drawn, by its name.
      legend: the CSS class, label and AUC of each of them.
      total: number of attacks in the unit.
      controls: number of controls drawn.
      seed: the first one.
      members, others: number of images of each kind.
      unresolved: false-positive rate below which the diagram is hatched, as shown.
      independent: the numbers of members and others that the band of chance is of, as shown, if
        images come in groups; else empty.
    """

    svg: Markup
    colours: dict[str, str]
    legend: list[tuple[str, str, str]]
    total: int
    controls: int
    seed: int
    members: int
    others: int
    unresolved: str
    independent: str


def diagram(unit: Unit, league: League) -> Diagram:
    """The curves of the league's first attacks, from the unit's scores."""
    shown = league.entries[:_SHOWN]
    inks = {entry.name: f"c{place}" for place, entry in enumerate(shown, 1)}
    seeds = list(dict.fromkeys(int(name.partition("/")[0]) for name in unit.members))
    first = _ranked(unit, f"{seeds[0]}/{shown[0].name}")

    # Controls lie below, then other seeds, then the first seed
    controls = [control.name for entry in shown for control in entry.controls]
    lines = [_curve(unit, seeds[0], name, _GREY, thin=True) for name in controls]
    lines += [
        _curve(unit, seed, name, ink, thin=True) for seed in seeds[1:] for name, ink in inks.items()
    ]
    lines += [_curve(unit, seeds[0], name, ink, thin=False) for name, ink in reversed(inks.items())]

    # Near-duplicates count as one
    members, others = map(round, roc.effective(first))
    rates = _rates(others)
    _, low, high = chance.chance_band(members, others, rates)
    unresolved = _unresolved(league.entries, roc.counted(first)[1])
    least = 0.5 / max(first.members, first.others)
    return Diagram(
        svg=plots.operating(lines, (rates, low, high), unresolved, least),
        colours=inks,
        legend=[(inks[entry.name], entry.label, entry.auc.text) for entry in shown],
        total=len(league.entries),
        controls=len(controls),
        seed=seeds[0],
        members=first.members,
        others=first.others,
        unresolved=f"{100 * unresolved:.2g}%",
        independent=f"{members:,} and {others:,}" if first.clustered else "",
    )


def _ranked(unit: Unit, name: str) -> roc.Ranked:
    """The scores of one attack and seed, with the groups of their images."""
    found = unit.members
    return roc.ranked(
        found[f"{name}/member"],
        found[f"{name}/score"],
        found.get(f"{name}/group"),
    )


def _curve(unit: Unit, seed: int, name: str, ink: str, thin: bool) -> plots.Roc:
    scores = unit.members[f"{seed}/{name}/score"]
    member = unit.members[f"{seed}/{name}/member"]
    fpr, tpr = roc.roc(member, scores)
    rates = _rates(int((member == 0).sum()))

    # The last operating point of at most each rate; half a count allows for rounding
    allowed = np.searchsorted(fpr, rates + 0.5 / (member == 0).sum(), "right") - 1
    return plots.Roc(ink, np.append(rates, 1.0), np.append(tpr[allowed], 1.0), thin)


def _rates(others: int) -> np.ndarray:
    """Rates of whole counts from 0 to below 1, evenly spaced on a logarithmic scale."""
    counts = np.unique(np.round(np.geomspace(1, others, _POINTS)).astype(int))
    return np.append(0, counts[counts < others]) / others


def _unresolved(entries: tuple[Entry, ...], others: int) -> float:
    """The rate that allows ten false positives, or groups; more if the rows do not resolve that."""
    named = {name: rate for entry in entries for name, rate in entry.rates.items()}
    open_ = []
    for name, rate in named.items():
        if not rate.resolved:
            open_.append(float(name.removeprefix("tpr_at_")))
    return min(1.0, max([membership.RESOLVED / others, *open_]))
