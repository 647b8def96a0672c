"""Verdicts on membership attacks, by their p-values and those of their controls.

Rules:

1. The p-value of an attack is the least of its AUC's and its resolved true-positive rates' against
   chance, times their number (Bonferroni). Over several seeds it is twice their median, at most 1,
   which is valid whatever their dependence (Rüger 1978; Rüschendorf 1982).
2. Holm's correction covers all attacks of the unit. Controls are corrected over those of one attack
   alone: a stricter correction would let more of them pass. An adjusted value below 0.05 is
   significant.
3. A significant attack "leaks" if none of its controls is significant, and is "confounded" if one
   is: controls attack other models, so this finding is not of the target. Without any control it is
   "no control": a leak is then not distinguished from a difference between the images.
4. Any other attack is "not found" if the upper end of its AUC's interval is below 0.55, and else
   "unresolved": the audit cannot exclude an AUC of 0.55.

The interval is the 95 % one within a seed, its ends averaged over seeds: it is of these models. The
± of a table is Student's over seeds: it is of models trained alike.
"""

from collections.abc import Sequence

import numpy as np

from xinv.metrics.stats import holm
from xinv.report.cells import Rows, of_metric

LEAKS, CONFOUNDED, UNCONTROLLED = "leaks", "confounded", "no control"
NOT_FOUND, UNRESOLVED = "not found", "unresolved"
VERDICTS = {
    LEAKS: "",
    CONFOUNDED: "the control leaks too",
    UNCONTROLLED: "nothing tells the model from the images",
    UNRESOLVED: "an AUC of 0.55 is not excluded",
    NOT_FOUND: "an AUC of 0.55 is excluded",
}
"""The reason of each verdict."""
SIGNIFICANT = 0.05
SMALL = 0.55
"""The AUC that an audit must exclude for the verdict "not found"."""
TPR, RESOLVED = "tpr_at_", "resolved_at_"
"""Prefixes of the names of metrics at one rate."""


def combined(p: Sequence[float]) -> float:
    """Returns one p-value of several seeds' ones, valid under any dependence; see rule 1."""
    # One value needs no combination.
    if len(p) == 1:
        return float(p[0])
    return min(1.0, 2 * float(np.median(p)))


def judged(p: float, high: float, controls: Sequence[float]) -> str:
    """Returns the verdict on an attack; see rules 3 and 4.

    Args:
      p: adjusted p-value.
      high: upper end of the AUC's interval.
      controls: adjusted p-values of its controls.
    """
    # Rule 4: absence needs an interval that excludes a small leak.
    if p >= SIGNIFICANT:
        if high < SMALL:
            return NOT_FOUND
        return UNRESOLVED
    # Rule 3
    if not controls:
        return UNCONTROLLED
    if min(controls) < SIGNIFICANT:
        return CONFOUNDED
    return LEAKS


def p_value(p: float) -> str:
    """A p-value as shown: two digits, or "below 0.0001"."""
    if p >= 1e-4:
        return f"{p:.2g}"
    return "below 0.0001"


def adjusted(arms: dict[str, Rows]) -> dict[str, float]:
    """The p-value of each arm over seeds, by Holm's correction over all of them."""
    if not arms:
        return {}
    # Rule 1 within an arm, rule 2 over arms
    values = [combined(_by_seed(rows)) for rows in arms.values()]
    return dict(zip(arms, holm(values).tolist(), strict=True))


def _by_seed(rows: Rows) -> list[float]:
    """One p-value per seed, of the AUC and of each rate that is resolved; see rule 1."""
    found = []
    for area in of_metric(rows, "auc"):
        same = [row for row in rows if row["seed"] == area["seed"]]
        resolved = set()
        for row in same:
            if row["metric"].startswith(RESOLVED) and row["value"] == 1:
                resolved.add(row["metric"].removeprefix(RESOLVED))
        values = [area["p"]]
        for row in same:
            if row["metric"].removeprefix(TPR) in resolved and row["p"] is not None:
                values.append(row["p"])
        # Bonferroni's correction over the statistics of one attack
        found.append(min(1.0, len(values) * min(values)))
    return found
