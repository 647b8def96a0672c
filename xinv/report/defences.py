"""Cost and effect of each defence, grouped by explanation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xinv.metrics.stats import mean_interval
from xinv.report.cells import Cell, against
from xinv.report.measures import measure, plain
from xinv.report.summary import Arm, Summary, same_attack


class Group(NamedTuple):
    """The arms that read one explanation in one way.

    Attributes:
      title: the explanation.
      arms: the undefended one first, where there is one, then one per defence; their cells are
        compared with the first.
      names: for each arm "no defence" or its defence, with more of its label where several arms
        share that.
      closed: for each arm the closed share of the distance from the undefended arm to predictions
        alone; see `closed`.
    """

    title: str
    arms: tuple[Arm, ...]
    names: tuple[str, ...]
    closed: tuple[Cell | None, ...]


def groups(summary: Summary) -> list[Group]:
    """One group per attack with a defended arm."""
    # Arms of one attack differ in their defences alone.
    kinds = {arm.attack: arm for arm in summary.arms if arm.defence}
    found = []
    for arm in kinds.values():
        alike = same_attack(arm, summary.arms)
        found.append(_group(summary, alike))
    return found


def closed(summary: Summary, undefended: Arm, defended: Arm) -> Cell | None:
    """The share of the distance from `undefended` to predictions alone that `defended` closes.

    Args:
      summary: of the unit.
      undefended: an arm without a defence.
      defended: the same attack under a defence.

    Returns:
      One ratio per seed of the main metric, in percent, with the interval of its mean; None without
      a distance to close, that is without a leak beyond predictions alone.
    """
    if summary.baseline is None:
        return None
    cells = []
    for arm in (undefended, defended, summary.baseline):
        if summary.main not in arm.cells:
            return None
        cells.append(arm.cells[summary.main])
    open_, shut, alone = cells
    if against(open_, alone, measure(summary.main).leak) != "more":
        return None

    # A ratio needs the same seeds of all three, and a distance in each.
    count = len(open_.values)
    if len(shut.values) != count or len(alone.values) < count:
        return None
    shares = []
    for start, reached, end in zip(open_.values, shut.values, alone.values, strict=False):
        if start == end:
            return None
        shares.append(100 * (start - reached) / (start - end))
    return Cell(mean_interval(shares, summary.level), tuple(shares), 0)


def best(summary: Summary, undefended: Arm) -> Arm | None:
    """The best defence: of each one's most successful attack, the least successful.

    Defences with an interval below that of the undefended arm come before the others. None without
    a defence.
    """
    defended = [arm for arm in same_attack(undefended, summary.arms) if arm.defence]

    # The most successful attack on each defence comes last and stays.
    attacks = {}
    for arm in reversed(summary.ranked(defended)):
        attacks[arm.defence] = arm
    strongest = summary.ranked(attacks.values())
    if not strongest:
        return None

    # A lower mean within the intervals shows nothing, so these yield.
    open_ = undefended.cells[summary.main]
    leak = measure(summary.main).leak
    apart = []
    for arm in strongest:
        if against(arm.cells[summary.main], open_, leak) == "less":
            apart.append(arm)
    return (apart or strongest)[-1]


def _group(summary: Summary, arms: Sequence[Arm]) -> Group:
    undefended = next((arm for arm in arms if not arm.defence), None)
    if undefended:
        arms = [undefended, *(arm for arm in arms if arm is not undefended)]
    first = arms[0]
    title = first.label
    if first.explainer and not undefended:
        title = plain(first.explainer)

    # A defence names its arm unless several arms share it.
    defences = []
    for arm in arms:
        defences.append(plain(arm.defence) if arm.defence else "no defence")
    read = f"{undefended.label} with " if undefended else ""
    names = []
    for arm, defence in zip(arms, defences, strict=True):
        if undefended and defences.count(defence) == 1:
            names.append(defence)
        else:
            names.append(arm.label.removeprefix(read))

    # The closed share of the distance that each defence covers
    shares = []
    for arm in arms:
        if undefended and arm.defence:
            shares.append(closed(summary, undefended, arm))
        else:
            shares.append(None)
    return Group(
        title=title,
        arms=tuple(_compared(arm, undefended) for arm in arms),
        names=tuple(names),
        closed=tuple(shares),
    )


def _compared(arm: Arm, undefended: Arm | None) -> Arm:
    """`arm` with its cells compared with those of the undefended arm; with none for that arm."""
    # In a table of defences the first row is the one to compare with, not predictions alone.
    cells = {}
    for metric, mine in arm.cells.items():
        verdict = None
        if undefended and arm is not undefended and metric in undefended.cells:
            verdict = against(mine, undefended.cells[metric], measure(metric).leak)
        cells[metric] = mine._replace(against=verdict)
    return arm._replace(cells=cells)


def share(cell: Cell) -> str:
    """A share in percent as shown: "83 ± 4%"."""
    if math.isnan(cell.interval.mean):
        return "n/a"
    return f"{cell.text}%"
