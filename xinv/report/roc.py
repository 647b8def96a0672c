"""ROC curves of the most successful membership attacks, with their controls and chance."""

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from xinv.metrics import chance, membership, roc
from xinv.report import plots
from xinv.report.folder import Unit
from xinv.report.league import Entry, League, Rate, rate

_SHOWN = 6
"""Largest number of attacks in a diagram."""
_POINTS = 90
"""Number of false-positive rates of a drawn curve, all the small ones among them."""
_GREY = "c0"


class Diagram(NamedTuple):
    """The curves and their legend.

    Attributes:
      svg: of the first seed; other seeds are thin.
      colours: the CSS class of each drawn attack, by its name.
      legend: the CSS class, label and AUC of each of them.
      total: number of attacks in the unit.
      controls: number of controls drawn.
      seed: the first one.
      members, others: number of images of each kind.
      unresolved: end of the hatched false-positive rates, as shown.
      independent: effective numbers of members and others in the band of chance, as shown, if
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
    # All attacks of a seed score the same images, so the first one gives their numbers.
    first = _ranked(unit, f"{seeds[0]}/{shown[0].name}")

    # From the bottom up: controls, other seeds, the first seed with the best attack on top
    lines = []
    controls = 0
    for entry in shown:
        controls += len(entry.controls)
        for control in entry.controls:
            lines.append(_curve(unit, seeds[0], control.name, _GREY, thin=True))
    for seed in seeds[1:]:
        for name, ink in inks.items():
            lines.append(_curve(unit, seed, name, ink, thin=True))
    for name, ink in reversed(inks.items()):
        lines.append(_curve(unit, seeds[0], name, ink, thin=False))

    # Near-duplicates count as one in the band of chance: they are members together.
    members, others = map(round, roc.effective(first))
    rates = _rates(others)
    _, low, high = chance.chance_band(members, others, rates)
    unresolved = _unresolved(league.entries, roc.counted(first)[1])
    # The axes begin at half of one image
    least = 0.5 / max(first.members, first.others)
    return Diagram(
        svg=plots.operating(lines, (rates, low, high), unresolved, least),
        colours=inks,
        legend=[(inks[entry.name], entry.label, entry.auc.text) for entry in shown],
        total=len(league.entries),
        controls=controls,
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
    """The curve of one attack and seed at a fixed number of rates, whatever the images."""
    scores = unit.members[f"{seed}/{name}/score"]
    member = unit.members[f"{seed}/{name}/member"]
    fpr, tpr = roc.roc(member, scores)
    others = int((member == 0).sum())
    rates = _rates(others)

    # The last operating point of at most each rate; half a count allows for rounding.
    allowed = np.searchsorted(fpr, rates + 0.5 / others, "right") - 1
    return plots.Roc(ink, np.append(rates, 1.0), np.append(tpr[allowed], 1.0), thin)


def _rates(others: int) -> np.ndarray:
    """Rates of whole counts from 0 to below 1, evenly spaced on a logarithmic scale."""
    # Rounding makes the small counts coincide, so each of them is drawn once.
    counts = np.unique(np.round(np.geomspace(1, others, _POINTS)).astype(int))
    return np.append(0, counts[counts < others]) / others


def _unresolved(entries: tuple[Entry, ...], others: int) -> float:
    """The rate that allows ten false positives, or groups; more if the rows do not resolve that."""
    # Rates with an unresolved row are hatched too, whatever their count.
    named: dict[str, Rate] = {}
    for entry in entries:
        named |= entry.rates
    least = membership.RESOLVED / others
    for name, found in named.items():
        if not found.resolved:
            least = max(least, rate(name))
    return min(1.0, least)
