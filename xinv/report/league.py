"""The league of membership attacks: what each finds of the training set, and what its controls find
without it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from xinv.report.cells import Cell, number
from xinv.report.verdict import LEAKS, SIGNIFICANT, TPR, UNCONTROLLED, VERDICTS


class Figure(NamedTuple):
    """One metric of one attack.

    Attributes:
      value: mean over seeds.
      low, high: ends of the interval within a seed, averaged over seeds; NaN without one.
      values: the seeds' values, by seed.
      digits: decimals shown.
    """

    value: float
    low: float
    high: float
    values: tuple[float, ...]
    digits: int

    @property
    def text(self) -> str:
        """The value as shown."""
        return number(self.value, self.digits)

    @property
    def ends(self) -> str:
        """The interval as shown; empty without one."""
        if math.isnan(self.low + self.high):
            return ""
        return f"{number(self.low, self.digits)}–{number(self.high, self.digits)}"

    @property
    def seeds(self) -> str:
        """The seeds' values as shown."""
        return ", ".join(number(value, self.digits) for value in self.values)


class Rate(NamedTuple):
    """The true-positive rate at one false-positive rate.

    Attributes:
      tpr: share of members above the threshold.
      fpr: realised share of others above it, with the interval of the true one; None if unknown.
      chance: the true-positive rate by chance, with its band; None if unknown.
      resolved: False if there are too few others for this rate.
    """

    tpr: Figure
    fpr: Figure | None
    chance: Figure | None
    resolved: bool


class Control(NamedTuple):
    """An attack that must find nothing: its model, AUC and adjusted p-value."""

    name: str
    model: str
    auc: Figure
    p: float

    @property
    def leaks(self) -> bool:
        """True if it finds something."""
        return self.p < SIGNIFICANT


class Entry(NamedTuple):
    """One attack.

    Attributes:
      name: as in the rows.
      label: the shortest text that tells it from the unit's other attacks.
      explainer: what it reads, several joined by "+"; None without explanations.
      defence: what changed the release, several joined by "+"; None for a release as it is.
      verdict: a key of `VERDICTS`.
      p: of the AUC against chance, over seeds, adjusted.
      auc: with the interval within a seed.
      restarts: the AUC of the single networks that the attack averages, with the lowest and the
        highest; None for one.
      spread: the AUC's mean with Student's interval over seeds.
      rates: by name of the metric, such as "tpr_at_0.01".
      figures: the other metrics shown, by name.
      carried: metrics at the threshold that the attacker carries over from the shadow, by name.
      release: figures by metric of what the defence does to the release; empty without a defence.
      controls: those of this attack.
    """

    name: str
    label: str
    explainer: str | None
    defence: str | None
    verdict: str
    p: float
    auc: Figure
    restarts: Figure | None
    spread: Cell
    rates: dict[str, Rate]
    figures: dict[str, Figure]
    carried: dict[str, Figure]
    release: dict[str, Cell]
    controls: tuple[Control, ...]

    @property
    def why(self) -> str:
        """The reason of the verdict, in a few words."""
        return VERDICTS[self.verdict]

    @property
    def text(self) -> str:
        """The AUC with the interval over seeds; with one seed with that within it."""
        if self.spread.half:
            return self.spread.text
        return f"{self.auc.text} [{self.auc.ends}]"


class League(NamedTuple):
    """The membership attacks of a unit.

    Attributes:
      verb: what they do if they succeed, as people say it after "can".
      entries: the highest AUC first.
      rates: metrics of the entries' rates, the smallest rate first.
      figures: names of their other metrics.
      carried: names of those at the threshold that is carried over.
      releases: names of what their defences cost.
      models: of all controls.
      seeds: number of seeds.
      examples: members and others per seed.
      level: confidence level of the intervals over seeds.
    """

    verb: str
    entries: tuple[Entry, ...]
    rates: tuple[str, ...]
    figures: tuple[str, ...]
    carried: tuple[str, ...]
    releases: tuple[str, ...]
    models: tuple[str, ...]
    seeds: int
    examples: str
    level: float

    @property
    def metrics(self) -> list[str]:
        """All metrics shown, in a table's order."""
        return ["auc", *self.rates, *self.figures, *self.carried, *self.releases]

    @property
    def controls(self) -> list[Control]:
        """The controls of all entries."""
        return [control for entry in self.entries for control in entry.controls]

    @property
    def unresolved(self) -> list[tuple[str, str]]:
        """Each rate that is not resolved, with the interval of the true false-positive rate."""
        found = []
        for name in self.rates:
            rates = [entry.rates[name] for entry in self.entries if name in entry.rates]
            open_ = [rate.fpr for rate in rates if not rate.resolved and rate.fpr]
            if open_:
                low = min(fpr.low for fpr in open_)
                high = max(fpr.high for fpr in open_)
                found.append((percent(name), f"{100 * low:.2g}% to {100 * high:.2g}%"))
        return found

    def of(self, verdict: str) -> list[Entry]:
        """The entries with a verdict, the highest AUC first."""
        return [entry for entry in self.entries if entry.verdict == verdict]


def percent(metric: str) -> str:
    """The rate in a metric's name, in percent: "1%" of "tpr_at_0.01"."""
    return f"{100 * rate(metric):g}%"


def counted(entries: Sequence[Entry]) -> str:
    """How many entries have each verdict, in words: "3 leak, 10 not found"."""
    counts = Counter(entry.verdict for entry in entries)
    words = {LEAKS: "leak" if counts[LEAKS] > 1 else "leaks", UNCONTROLLED: "without a control"}
    found = []
    for verdict in VERDICTS:
        if counts[verdict]:
            found.append(f"{counts[verdict]} {words.get(verdict, verdict)}")
    return ", ".join(found)


def rate(metric: str) -> float:
    """The rate in a metric's name: 0.01 of "tpr_at_0.01"."""
    return float(metric.removeprefix(TPR))
