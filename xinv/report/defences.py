"""What each defence costs the explanation and what it takes from the attacker, by what is
explained.
"""

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
      title: what they read.
      arms: the undefended one first, where there is one, then one per defence; their cells are
        compared with the first.
      names: for each arm "no defence" or its defence, with more of its label where that does not
        tell it from the group's others.
      closed: for each arm the share of the distance from the undefended arm to predictions alone
        that it closes.
    """

    title: str
    arms: tuple[Arm, ...]
    names: tuple[str, ...]
    closed: tuple[Cell | None, ...]


def groups(summary: Summary) -> list[Group]:
    """One group per explanation, and way of reading it, that an arm of `summary` defends."""
    kinds = {arm.attack: arm for arm in summary.arms if arm.defence}
    return [_group(summary, same_attack(arm, summary.arms)) for arm in kinds.values()]


def closed(summary: Summary, undefended: Arm, defended: Arm) -> Cell | None:
    """How much of the distance from `undefended` to predictions alone `defended` closes, in the
    main metric.

    A ratio per seed, in percent, with the interval of its mean over seeds; None where the
    explanation is not known to leak more than predictions alone, so that there is no distance to
    close.
    """
    arms = undefended, defended, summary.baseline
    if None in arms or not all(summary.main in arm.cells for arm in arms):
        return None
    open_, shut, alone = (arm.cells[summary.main] for arm in arms)
    if against(open_, alone, measure(summary.main).leak) != "more":
        return None
    triples = list(zip(open_.values, shut.values, alone.values, strict=False))
    if not len(open_.values) == len(shut.values) == len(triples) or any(
        a == c for a, _, c in triples
    ):
        return None
    shares = tuple(100 * (a - b) / (a - c) for a, b, c in triples)
    return Cell(mean_interval(shares, summary.level), shares, 0)


def best(summary: Summary, undefended: Arm) -> Arm | None:
    """The defence that withstands best: of each one's most successful attack, the least successful.

    Where some are apart from the undefended one, intervals and all, it is one of these.
    """
    arms = summary.ranked(arm for arm in same_attack(undefended, summary.arms) if arm.defence)
    strongest = summary.ranked({arm.defence: arm for arm in reversed(arms)}.values())
    open_ = undefended.cells[summary.main]
    leak = measure(summary.main).leak
    apart = []
    for arm in strongest:
        if against(arm.cells[summary.main], open_, leak) == "less":
            apart.append(arm)
    if strongest:
        return (apart or strongest)[-1]
    return None


def _group(summary: Summary, arms: Sequence[Arm]) -> Group:
    undefended = next((arm for arm in arms if not arm.defence), None)
    first = [undefended] if undefended else []
    arms = [*first, *(arm for arm in arms if arm is not undefended)]
    names = [plain(arm.defence) if arm.defence else "no defence" for arm in arms]
    read = f"{undefended.label} with " if undefended else ""
    return Group(
        title=plain(arms[0].explainer) if arms[0].explainer and not undefended else arms[0].label,
        arms=tuple(_compared(arm, undefended) for arm in arms),
        names=tuple(
            name if undefended and names.count(name) == 1 else arm.label.removeprefix(read)
            for name, arm in zip(names, arms, strict=True)
        ),
        closed=tuple(
            closed(summary, undefended, arm) if arm.defence and undefended else None for arm in arms
        ),
    )


def _compared(arm: Arm, undefended: Arm | None) -> Arm:
    """`arm` with its cells compared with the undefended arm instead of predictions alone."""
    others = undefended.cells if undefended and arm is not undefended else {}
    verdicts = {}
    for m, mine in arm.cells.items():
        if m in others:
            verdicts[m] = against(mine, others[m], measure(m).leak)
    return arm._replace(
        cells={m: mine._replace(against=verdicts.get(m)) for m, mine in arm.cells.items()}
    )


def share(cell: Cell) -> str:
    """A share in percent as shown: "83 ± 4%"."""
    if math.isnan(cell.interval.mean):
        return "n/a"
    return f"{cell.text}%"
