"""The result of an audit in one sentence, with no claim beyond its intervals."""

from xinv.report.cells import Cell, against
from xinv.report.defences import best, closed, share
from xinv.report.league import Entry, League, counted
from xinv.report.measures import measure, plain
from xinv.report.summary import Arm, Summary
from xinv.report.verdict import CONFOUNDED, LEAKS, SMALL, UNCONTROLLED, UNRESOLVED

_NAMED = 3
"""Largest number of explanations in a sentence."""


def headline(summary: Summary) -> str:
    """The result of an audit: a sentence on rebuilt images, one on membership, or both."""
    if summary.league is None:
        return _rebuilt(summary)
    found = membership(summary.league)
    if summary.arms:
        return f"{_rebuilt(summary)} {found}"
    return found


def membership(league: League) -> str:
    """The membership leaks of a unit, and those of their controls."""
    # The strongest verdict of any attack decides the sentence.
    leaks = league.of(LEAKS)
    confounded = league.of(CONFOUNDED)
    uncontrolled = league.of(UNCONTROLLED)
    several = len(league.entries) > 1
    count = ""
    if several:
        count = f"; of {_several(league)} {counted(league.entries)}"
    if leaks:
        # Leaks of explanations come first: they are the subject of the audit.
        named = [entry for entry in leaks if entry.explainer] or leaks
        best = f"AUC {named[0].text}{count}"
        if len(named) > 1:
            best = f"best: {best}"
        return f"{_subject(league, named)} ({best}); {_controls(league)}."
    if confounded:
        first = confounded[0]
        return (
            f"No leak is shown: {first.label} can {league.verb} (AUC {first.text}{count}), "
            "but so can its control, so nothing shows that the model gives them away."
        )
    if uncontrolled:
        first = uncontrolled[0]
        return (
            f"No leak is shown: {first.label} can {league.verb} (AUC {first.text}{count}), but"
            " has no control, so nothing tells a leak of the model from a difference of the"
            " images."
        )

    # No attack is significant: either a leak above SMALL is excluded, or the audit is too small.
    first = league.entries[0]
    unresolved = len(league.of(UNRESOLVED))
    said = f"No attack is known to {league.verb}: the best, {first.label}, has AUC {first.text}"
    if not unresolved:
        each = " for each" if several else ""
        return f"{said}, and more than {SMALL} is excluded{each}."
    those = f"for {unresolved} of {_several(league)} " if several else ""
    return f"{said}, but {those}{SMALL} is not excluded."


def defended(summary: Summary) -> str:
    """The effect of the best defence of the largest leak; empty where nothing defends it."""
    if not summary.explained:
        return ""
    first = summary.explained[0]
    arm = best(summary, first)
    if arm is None:
        return ""
    return _defence(summary, first, arm)


def tally(summary: Summary) -> str:
    """The number of explanations apart from predictions alone; empty if the headline says it."""
    # One attack is in the headline; without intervals there is no verdict.
    verdicts = [arm.cells[summary.main].against for arm in summary.explained]
    if len(verdicts) < 2 or None in verdicts:
        return ""
    said = {
        "more": "leak more than predictions alone, intervals apart",
        "overlap": "cannot be told from predictions alone",
        "less": "leak less than predictions alone, intervals apart",
    }
    # Several attacks on one explanation are no explanations of their own.
    explainers = {arm.explainer for arm in summary.explained}
    kind = "attacks on them"
    if len(explainers) == len(verdicts):
        kind = "explanations"
    parts = []
    for verdict, text in said.items():
        count = verdicts.count(verdict)
        if count:
            parts.append(f"{count} of {len(verdicts)} {kind} {text}")
    return f"By {measure(summary.main).label}, {'; '.join(parts)} (confidence {summary.level:.0%})."


def _several(league: League) -> str:
    """Number and kind of a league's attacks."""
    explainers = {entry.explainer for entry in league.entries}
    kind = "attacks"
    if None not in explainers and len(explainers) == len(league.entries):
        kind = "explainers"
    return f"{len(league.entries)} {kind}"


def _subject(league: League, leaks: list[Entry]) -> str:
    """The subject of a leak: explanations, by name up to three, or predictions."""
    names = []
    for entry in leaks:
        if entry.explainer:
            name = plain(entry.explainer)
            if entry.defence:
                name += f" with {plain(entry.defence)}"
            names.append(name)
    names = list(dict.fromkeys(names))
    if not names:
        if any(entry.explainer for entry in league.entries):
            return f"Predictions {league.verb}, explanations are not known to"
        return f"Predictions {league.verb}"

    # The first ones by AUC, then the number of the others; a single other is named
    shown = names
    if len(names) > _NAMED + 1:
        shown = names[:_NAMED]
        shown.append(f"{len(names) - len(shown)} others")
    listed = shown[0]
    if len(shown) > 1:
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"Explanations by {listed} {league.verb}"


def _controls(league: League) -> str:
    """The leaks of a league's controls."""
    leaking = 0
    for entry in league.entries:
        leaking += any(control.leaks for control in entry.controls)
    if leaking:
        others = "others" if leaking > 1 else "other"
        return f"a control of {leaking} {others} does so too"
    # The wording depends on the number of control models: untrained, or of other images.
    several = {1: "their control does not", 2: "neither control does"}
    return several.get(len(league.models), "no control does")


def _leak(summary: Summary, first: Arm) -> str:
    """The leak of the most successful attack on explanations, against predictions alone."""
    shown = measure(summary.main)
    figure = first.cells[summary.main]
    seen = f"{plain(first.explainer)} explanations"
    if first.label != plain(first.explainer):
        seen += f" ({first.label})"

    # The claim goes as far as the intervals: a difference, none established, or unknown.
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
    """The effect of a defence: `arm` is the attack `first` under it."""
    figure = arm.cells[summary.main]
    # Compared with the undefended attack of the headline
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
    """The number of seeds in which a defence's training diverged; empty for 0."""
    found = arm.release.get("diverged")
    if found is None or not any(found.values):
        return ""
    times = f"{sum(found.values):.0f} of {len(found.values)}"
    return f" (whose training diverged in {times} seeds)"


def _far(part: Cell | None) -> str:
    """The closed share of the distance to predictions alone; empty if unknown."""
    if part is None:
        return ""
    # Predictions alone are the bound, so a share above 100 % is not shown as such.
    if part.interval.mean >= 100:
        return ", which leaves the attacker no better off than predictions alone do"
    return f", {share(part)} of the way to predictions alone"


def _rebuilt(summary: Summary) -> str:
    """The sentence on rebuilt images, of undefended explanations if there are any."""
    if summary.explained:
        return _leak(summary, summary.explained[0])
    return _without_explanations(summary)


def _without_explanations(summary: Summary) -> str:
    """The headline of a run without an undefended explanation."""
    arms = summary.ranked(summary.arms)
    if not arms:
        return "This run attacked no explanation."
    first = arms[0]
    shown = measure(summary.main)
    value = f"{shown.label} {first.cells[summary.main].text}"
    if len(arms) == 1:
        return f"From {first.label} an attacker can {first.verb} at {value}."
    # Without predictions alone to compare with, the extremes say most.
    last = arms[-1]
    least = f"the least successful, {last.label}, reaches {last.cells[summary.main].text}"
    return (
        f"Of {len(arms)} attacks, {first.label} can {first.verb} best on average: {value}; {least}."
    )
