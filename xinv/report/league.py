"""The league of membership attacks, the most successful first, with their controls."""

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
        # NaN if either end is
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
      resolved: False if the number of others is too small for this rate.
    """

    tpr: Figure
    fpr: Figure | None
    chance: Figure | None
    resolved: bool


class Control(NamedTuple):
    """An attack without anything to find: its model, AUC and adjusted p-value."""

    name: str
    model: str
    auc: Figure
    p: float

    @property
    def leaks(self) -> bool:
        """True if it finds a leak nevertheless."""
        return self.p < SIGNIFICANT


class Entry(NamedTuple):
    """One attack.

    Attributes:
      name: as in the rows.
      label: the shortest distinct label among the unit's attacks.
      explainer: explanations that it reads, joined by "+"; None without.
      defence: defences of the release, joined by "+"; None for a release as it is.
      verdict: a key of `VERDICTS`.
      p: of the AUC against chance, over seeds, adjusted.
      auc: with the interval within a seed.
      restarts: the mean AUC of the single networks of an ensemble, with the lowest and the highest;
        None for one network.
      spread: the AUC's mean with Student's interval over seeds.
      rates: by name of the metric, such as "tpr_at_0.01".
      figures: the other metrics shown, by name.
      carried: metrics at the threshold carried over from the shadow, by name.
      release: the defence's cost by metric; empty without a defence.
      controls: the controls of this attack.
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
        """The AUC with its interval over seeds, or within the seed if there is one seed."""
        # Over seeds the interval is wider, as it covers other trainings.
        if self.spread.half:
            return self.spread.text
        return f"{self.auc.text} [{self.auc.ends}]"


class League(NamedTuple):
    """The membership attacks of a unit.

    Attributes:
      verb: the attacks' aim, in words after "can".
      entries: the highest AUC first.
      rates: metrics of the entries' rates, the smallest rate first.
      figures: names of their other metrics.
      carried: names of metrics at the threshold that is carried over.
      releases: names of the costs of their defences.
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
        found: list[Control] = []
        for entry in self.entries:
            found += entry.controls
        return found

    @property
    def unresolved(self) -> list[tuple[str, str]]:
        """Each unresolved rate, with the interval of the true false-positive rate."""
        found = []
        for name in self.rates:
            # The widest interval over the attacks
            lows = []
            highs = []
            for entry in self.entries:
                rate = entry.rates.get(name)
                if rate and rate.fpr and not rate.resolved:
                    lows.append(rate.fpr.low)
                    highs.append(rate.fpr.high)
            if lows:
                ends = f"{100 * min(lows):.2g}% to {100 * max(highs):.2g}%"
                found.append((percent(name), ends))
        return found

    def of(self, verdict: str) -> list[Entry]:
        """The entries with a verdict, the highest AUC first."""
        return [entry for entry in self.entries if entry.verdict == verdict]


def percent(metric: str) -> str:
    """The rate in a metric's name, in percent: "1%" of "tpr_at_0.01"."""
    return f"{100 * rate(metric):g}%"


def counted(entries: Sequence[Entry]) -> str:
    """The number of entries with each verdict, in words: "3 leak, 10 not found"."""
    # Two verdicts need other words in a list.
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
