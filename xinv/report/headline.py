"""One honest sentence: what the audit shows, claiming no more than the intervals allow."""

from xinv.report.cells import Cell, against
from xinv.report.defences import best, closed, share
from xinv.report.league import Entry, League, counted
from xinv.report.measures import measure, plain
from xinv.report.summary import Arm, Summary
from xinv.report.verdict import CONFOUNDED, LEAKS, SMALL, UNCONTROLLED, UNRESOLVED

_NAMED = 3
"""Explanations that a sentence names."""


def headline(summary: Summary) -> str:
    """What the audit shows: of rebuilt images one sentence, of membership one."""
    if summary.league is None:
        return _rebuilt(summary)
    found = membership(summary.league)
    if summary.arms:
        return f"{_rebuilt(summary)} {found}"
    return found


def membership(league: League) -> str:
    """Which attacks find who was in the training set, and whether their controls do so too."""
    leaks, confounded, uncontrolled = (
        league.of(verdict) for verdict in (LEAKS, CONFOUNDED, UNCONTROLLED)
    )
    if len(league.entries) > 1:
        count = f"of {_several(league)} {counted(league.entries)}"
    else:
        count = ""
    if leaks:
        # Those of explanations count first
        named = [entry for entry in leaks if entry.explainer] or leaks
        best = f"{'best: ' if len(named) > 1 else ''}AUC {named[0].text}{_of(count)}"
        return f"{_subject(league, named)} ({best}); {_controls(league)}."
    if confounded:
        first = confounded[0]
        return (
            f"No leak is shown: {first.label} can {league.verb} (AUC {first.text}{_of(count)}), "
            "but so can its control, so nothing shows that the model gives them away."
        )
    if uncontrolled:
        first = uncontrolled[0]
        return (
            f"No leak is shown: {first.label} can {league.verb} (AUC {first.text}{_of(count)}), but"
            " has no control, so nothing tells a leak of the model from a difference of the"
            " images."
        )
    first = league.entries[0]
    open_ = len(league.of(UNRESOLVED))
    said = f"No attack is known to {league.verb}: the best, {first.label}, has AUC {first.text}"
    if not open_:
        return f"{said}, and more than {SMALL} is excluded{' for each' if count else ''}."
    which = f"for {open_} of {_several(league)} " if count else ""
    return f"{said}, but {which}{SMALL} is not excluded."


def defended(summary: Summary) -> str:
    """How far the best defence of what leaks most gets; empty where nothing defends it."""
    arm = best(summary, summary.explained[0]) if summary.explained else None
    if arm:
        return _defence(summary, summary.explained[0], arm)
    return ""


def tally(summary: Summary) -> str:
    """Counts explanations apart from predictions alone; empty if the headline says it all."""
    verdicts = [arm.cells[summary.main].against for arm in summary.explained]
    if len(verdicts) < 2 or None in verdicts:
        return ""
    said = {
        "more": "leak more than predictions alone, intervals apart",
        "overlap": "cannot be told from predictions alone",
        "less": "leak less than predictions alone, intervals apart",
    }
    if len({arm.explainer for arm in summary.explained}) == len(verdicts):
        kind = "explanations"
    else:
        kind = "attacks on them"
    parts = []
    for v, text in said.items():
        if v in verdicts:
            parts.append(f"{verdicts.count(v)} of {len(verdicts)} {kind} {text}")
    return f"By {measure(summary.main).label}, {'; '.join(parts)} (confidence {summary.level:.0%})."


def _of(count: str) -> str:
    if count:
        return f"; {count}"
    return ""


def _several(league: League) -> str:
    """Number and kind of a league's attacks."""
    explainers = {entry.explainer for entry in league.entries}
    alike = None not in explainers and len(explainers) == len(league.entries)
    return f"{len(league.entries)} {'explainers' if alike else 'attacks'}"


def _subject(league: League, leaks: list[Entry]) -> str:
    """What leaks: explanations, by name up to three, or predictions."""
    names = {}
    for entry in leaks:
        if entry.explainer:
            names[
                plain(entry.explainer) + (f" with {plain(entry.defence)}" if entry.defence else "")
            ] = None
    if not names:
        explained = any(entry.explainer for entry in league.entries)
        return f"Predictions {league.verb}{', explanations are not known to' if explained else ''}"
    shown = list(names)[:_NAMED]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} others")
    return (
        f"Explanations by {', '.join(shown[:-1])}{' and ' if shown[1:] else ''}{shown[-1]}"
        f" {league.verb}"
    )


def _controls(league: League) -> str:
    """What the controls of a league find."""
    leaking = sum(any(control.leaks for control in entry.controls) for entry in league.entries)
    if leaking:
        return f"a control of {leaking} other{'s' if leaking > 1 else ''} does so too"
    several = {1: "their control does not", 2: "neither control does"}
    return several.get(len(league.models), "no control does")


def _leak(summary: Summary, first: Arm) -> str:
    shown = measure(summary.main)
    figure = first.cells[summary.main]
    seen = f"{plain(first.explainer)} explanations"
    seen += "" if first.label == plain(first.explainer) else f" ({first.label})"
    value = f"{shown.label} {figure.text}"
    if summary.baseline is None or summary.main not in summary.baseline.cells:
        return f"From {seen} an attacker can {first.verb} at {value}."
    alone = f"{summary.baseline.cells[summary.main].text} from predictions alone"
    match figure.against:
        case "more":
            return f"Releasing {seen} lets an attacker {first.verb} at {value}, against {alone}."
        case "less":
            return (
                f"No explanation helped the attacker: the best, {first.label}, reaches {value},"
                f" against {alone}."
            )
        case "overlap":
            return (
                f"No difference is established: {seen} reach {value}, against {alone}, "
                f"and the {summary.level:.0%} intervals overlap."
            )
    return (
        f"In one run {seen} reach {value}, against {alone}; "
        "a single seed gives no interval, so this difference may be chance."
    )


def _defence(summary: Summary, first: Arm, arm: Arm) -> str:
    figure = arm.cells[summary.main]
    name = plain(arm.defence) + _diverged(arm)
    match against(figure, first.cells[summary.main], measure(summary.main).leak):
        case "less":
            part = closed(summary, first, arm)
            return f"The best defence, {name}, brings that to {figure.text}{_far(part)}."
        case "more":
            return f"No defence helps: under the best, {name}, it is {figure.text}."
        case "overlap":
            return (
                f"No defence is known to help: under the best, {name}, it is {figure.text}, and the"
                " intervals overlap."
            )
    return f"Under the best defence, {name}, it is {figure.text}."


def _diverged(arm: Arm) -> str:
    """In how many seeds the training of a defence diverged; nothing where none did."""
    values = arm.release["diverged"].values if "diverged" in arm.release else ()
    if any(values):
        return f" (whose training diverged in {sum(values):.0f} of {len(values)} seeds)"
    return ""


def _far(part: Cell | None) -> str:
    if part is None:
        return ""
    if part.interval.mean >= 100:
        return ", which leaves the attacker no better off than predictions alone do"
    return f", {share(part)} of the way to predictions alone"


def _rebuilt(summary: Summary) -> str:
    """What is rebuilt from undefended explanations, or from whatever was attacked."""
    if summary.explained:
        return _leak(summary, summary.explained[0])
    return _without_explanations(summary)


def _without_explanations(summary: Summary) -> str:
    """The headline of a run that explains nothing, or nothing without a defence."""
    arms = summary.ranked(summary.arms)
    if not arms:
        return "This run attacked no explanation."
    first = arms[0]
    shown = measure(summary.main)
    value = f"{shown.label} {first.cells[summary.main].text}"
    if len(arms) == 1:
        return f"From {first.label} an attacker can {first.verb} at {value}."
    last = arms[-1]
    least = f"the least successful, {last.label}, reaches {last.cells[summary.main].text}"
    return (
        f"Of {len(arms)} attacks, {first.label} can {first.verb} best on average: {value}; {least}."
    )
