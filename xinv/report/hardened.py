"""The report of a hardening: the leak of each explanation before and after, and the cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from xinv.report.templates import templates
from xinv.report.trials import compared
from xinv.report.verdict import p_value
from xinv.report.ways import SEARCH, Row, rows
from xinv.store import read_json


def html(workdir: Path) -> str:
    """Returns the page of a folder that launch/harden.py wrote."""
    # The config names the unit, the sizes of the search and the seeds.
    environment = templates()
    environment.filters["p_value"] = p_value
    found = rows(workdir)
    config = read_json(workdir / "config.json", "run launch/harden.py again")
    ways = {}
    for row in found:
        ways.setdefault(row.name, []).append(row)
    drawn = {name: _compared(own, config) for name, own in ways.items()}
    return environment.get_template("hardened.html").render(
        rows=found,
        several={name: diagram for name, diagram in drawn.items() if diagram},
        private=any(row.privacy for row in found),
        inverted=any(row.inversion for row in found),
        # Other ways leave the target, and its accuracy, as they are
        retrained=bool(config["harden"]["trainings"]),
        objective=labelled(config["harden"]["leak"]),
        headline=headline(found),
        inversion=inversion(found),
        unit=config["unit"],
        harden=config["harden"],
        seeds=config["seeds"],
    )


def text(workdir: Path) -> str:
    """Returns the figures of a folder for a terminal, one line per explanation and way."""
    found = rows(workdir)
    lines = [headline(found), ""]
    # The table under a rule
    config = read_json(workdir / "config.json", "run launch/harden.py again")
    before = f"{labelled(config['harden']['leak'])} before"
    width = max(28, *(len(row.label) for row in found))
    head = f"{'explanation':{width}s} {before:>16s} {'after':>16s} {'difference':>26s}  verdict"
    lines += [head, "-" * len(head)]
    for row in found:
        # An explanation that stays as it is has neither a leak after nor a difference.
        after = "-"
        change = "-"
        if row.after:
            after = row.after.text
        if row.difference:
            change = f"{row.difference.text} {row.difference.ends}"
        lines.append(
            f"{row.label:{width}s} {row.before.text:>16s} {after:>16s} {change:>26s}  {row.verdict}"
        )
    return "\n".join(lines)


def headline(found: Sequence[Row]) -> str:
    """Returns the number of explanations that leak less, in a sentence."""
    # An explanation without a leak to lower has no difference.
    hardened = [row for row in found if row.difference]
    less = [row for row in hardened if row.verdict.startswith("leaks less")]
    if not hardened:
        names = {row.name for row in found}
        return f"No leak was lowered in {len(names)} explanations: see each verdict."
    # The search chose the policies on one half of the images, so the claim is of the other half.
    kind = "explanations" if all(row.way == SEARCH for row in found) else "releases"
    count = f"{len(less)} of {len(hardened)} hardened {kind} leak less"
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
    opened = [row.label for row in both if row.opens]
    if not opened:
        return "No hardened explanation is shown to help an inversion attack more than before."
    return f"Hardening opens the other leak: images are rebuilt better from {', '.join(opened)}."


def labelled(objective: str) -> str:
    """Returns an objective "auc" or "tpr_at_<rate>" for people."""
    if objective == "auc":
        return "AUC"
    return f"TPR at {float(objective.removeprefix('tpr_at_')):.4g} FPR"


def _compared(rows: Sequence[Row], config: Mapping[str, Any]) -> Markup | None:
    """The diagram of all ways of one explanation; None if fewer than two have a place in it."""
    objective = config["harden"]["leak"]
    chance = 0.5 if objective == "auc" else float(objective.removeprefix("tpr_at_"))
    ways = []
    for row in rows:
        # Models trained in another way have other maps, and no loss of fidelity
        kept = row.utility["spearman"].get("after")
        if row.after and kept:
            ways.append((row.searched, 1 - kept.interval.mean, row.after.interval))
    if len(ways) < 2:
        return None
    # A search may have chosen in some seeds alone; the unhardened leak is of all
    before = max((row.before.interval for row in rows), key=lambda one: one.count)
    return compared(before, ways, chance)
