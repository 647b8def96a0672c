"""One honest sentence: what the audit shows, claiming no more than the intervals allow."""

from xinv.report.cells import Cell, against
from xinv.report.defences import best, closed, share
from xinv.report.measures import measure, plain
from xinv.report.summary import Arm, Summary


def headline(summary: Summary) -> str:
    """What the audit shows of undefended explanations, or of whatever it attacked."""
    return _leak(summary, summary.explained[0]) if summary.explained else _without_explanations(summary)


def defended(summary: Summary) -> str:
    """How far the best defence of what leaks most gets; empty where nothing defends it."""
    arm = best(summary, summary.explained[0]) if summary.explained else None
    return _defence(summary, summary.explained[0], arm) if arm else ""


def tally(summary: Summary) -> str:
    """How many explanations are apart from predictions alone; empty where the headline says it all."""
    verdicts = [arm.cells[summary.main].against for arm in summary.explained]
    if len(verdicts) < 2 or None in verdicts:
        return ""
    said = {
        "more": "leak more than predictions alone, intervals apart",
        "overlap": "cannot be told from predictions alone",
        "less": "leak less than predictions alone, intervals apart",
    }
    kind = "explanations" if len({arm.explainer for arm in summary.explained}) == len(verdicts) else "attacks on them"
    parts = [f"{verdicts.count(v)} of {len(verdicts)} {kind} {text}" for v, text in said.items() if v in verdicts]
    return f"By {measure(summary.main).label}, {'; '.join(parts)} (confidence {summary.level:.0%})."


def _leak(summary: Summary, first: Arm) -> str:
    shown, figure = measure(summary.main), first.cells[summary.main]
    seen = f"{plain(first.explainer)} explanations"
    seen += "" if first.label == plain(first.explainer) else f" ({first.label})"
    value = f"{shown.label} {figure.text}"
    if _by_chance(summary, first):
        return f"From {seen} an attacker cannot {shown.verbs[0]}: {value}, where guessing gives {shown.chance}."
    if summary.baseline is None or summary.main not in summary.baseline.cells:
        return f"From {seen} an attacker {shown.verbs[1]} at {value}."
    alone = f"{summary.baseline.cells[summary.main].text} from predictions alone"
    match figure.against:
        case "more":
            return f"Releasing {seen} lets an attacker {shown.verbs[0]} at {value}, against {alone}."
        case "less":
            return f"No explanation helped the attacker: the best, {first.label}, reaches {value}, against {alone}."
        case "overlap":
            return (
                f"No difference is established: {seen} reach {value}, against {alone}, "
                f"and the {summary.level:.0%} intervals overlap."
            )
    return (
        f"In one run {seen} reach {value}, against {alone}; "
        "a single seed gives no interval, so this difference may be chance."
    )


def _by_chance(summary: Summary, arm: Arm) -> bool:
    """Tells if a figure's interval holds what guessing gives; without an interval nothing is claimed."""
    interval, chance = arm.cells[summary.main].interval, measure(summary.main).chance
    return chance is not None and not (interval.low > chance or interval.high < chance)


def _defence(summary: Summary, first: Arm, arm: Arm) -> str:
    figure, name = arm.cells[summary.main], plain(arm.defence) + _diverged(arm)
    match against(figure, first.cells[summary.main], measure(summary.main).leak):
        case "less":
            part = closed(summary, first, arm)
            return f"The best defence, {name}, brings that to {figure.text}{_far(part)}."
        case "more":
            return f"No defence helps: under the best, {name}, it is {figure.text}."
        case "overlap":
            return (
                f"No defence is known to help: under the best, {name}, it is {figure.text}, and the intervals overlap."
            )
    return f"Under the best defence, {name}, it is {figure.text}."


def _diverged(arm: Arm) -> str:
    """In how many seeds the training of a defence diverged; nothing where none did."""
    values = arm.release["diverged"].values if "diverged" in arm.release else ()
    return f" (whose training diverged in {sum(values):.0f} of {len(values)} seeds)" if any(values) else ""


def _far(part: Cell | None) -> str:
    if part is None:
        return ""
    if part.interval.mean >= 100:
        return ", which leaves the attacker no better off than predictions alone do"
    return f", {share(part)} of the way to predictions alone"


def _without_explanations(summary: Summary) -> str:
    """The headline of a run that explains nothing, or nothing without a defence."""
    arms = summary.ranked(summary.arms)
    if not arms:
        return "This run attacked no explanation."
    first, shown = arms[0], measure(summary.main)
    value = f"{shown.label} {first.cells[summary.main].text}"
    if len(arms) == 1:
        return f"From {first.label} an attacker {shown.verbs[1]} at {value}."
    last = arms[-1]
    least = f"the least successful, {last.label}, reaches {last.cells[summary.main].text}"
    return f"Of {len(arms)} attacks, {first.label} {shown.verbs[1]} best on average: {value}; {least}."
