"""One figure of a table: a mean over seeds, its interval, and its place in its column."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from xinv.metrics.stats import Interval, mean_interval, overlap

Rows = list[dict[str, Any]]


class Cell(NamedTuple):
    """One arm's figure for one metric.

    Attributes:
      interval: mean over seeds and its confidence interval.
      values: the seeds' values, by seed.
      digits: decimals shown.
      leak: 0 for the arm that leaks least by this metric, 1 for the one with the largest leak; None
        where unknown.
      against: comparison with predictions alone, or with the same explanation undefended: "more" or
        "less" where the intervals are apart, "overlap" where they are not, None where unknown.
    """

    interval: Interval
    values: tuple[float, ...]
    digits: int
    leak: float | None = None
    against: str | None = None

    @property
    def mean(self) -> str:
        """The mean as shown."""
        return number(self.interval.mean, self.digits)

    @property
    def half(self) -> str:
        """Half the interval as shown; empty for one seed."""
        if self.interval.count > 1:
            return number(self.interval.half_width, self.digits)
        return ""

    @property
    def text(self) -> str:
        """Mean ± half the interval."""
        if self.half:
            return f"{self.mean} ± {self.half}"
        return self.mean

    @property
    def seeds(self) -> str:
        """The seeds' values as shown."""
        return ", ".join(number(value, self.digits) for value in self.values)


def of_metric(rows: Rows, metric: str) -> Rows:
    """The rows of a metric, by seed."""
    found = [row for row in rows if row["metric"] == metric]
    return sorted(found, key=lambda row: row["seed"])


def cell(rows: Rows, digits: int, level: float) -> Cell:
    """The figure of one (stage, arm, metric): one row per seed."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    values = tuple(float(row["value"]) for row in ordered)
    return Cell(mean_interval(values, level), values, digits)


def leak_levels(cells: Sequence[Cell], direction: int) -> Callable[[Cell], Cell]:
    """Returns a function that sets a cell's leak: 0 for the least among `cells`, 1 for the largest.

    Args:
      cells: those of one column.
      direction: of the metric, as `Measure.leak`.
    """
    means = [cell.interval.mean for cell in cells]
    ranks = [direction * mean for mean in means if math.isfinite(mean)]
    low = min(ranks, default=0)
    spread = max(ranks, default=0) - low

    def place(cell: Cell) -> Cell:
        rank = direction * cell.interval.mean
        # Equal figures, or a metric without a direction, have no place.
        if not spread or not math.isfinite(rank):
            return cell._replace(leak=None)
        return cell._replace(leak=(rank - low) / spread)

    return place


def against(cell: Cell, other: Cell, direction: int) -> str | None:
    """Compares the leaks of two cells by their intervals.

    Args:
      cell: an arm's figure.
      other: the figure to compare it with.
      direction: of the metric, as `Measure.leak`.

    Returns:
      "more" or "less" for `cell` where the intervals are apart, "overlap" where they are not; None
      for a metric without a direction or a figure of one seed.
    """
    # A single seed has no interval, so its half width is NaN.
    if not direction or not math.isfinite(cell.interval.half_width + other.interval.half_width):
        return None
    if overlap(cell.interval, other.interval):
        return "overlap"
    if direction * (cell.interval.mean - other.interval.mean) > 0:
        return "more"
    return "less"


def number(value: float, digits: int) -> str:
    """`value` with `digits` decimals and a real minus sign; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """As `number`, with a plus sign where `value` is positive; 0 has none."""
    text = number(value, digits)
    # As shown: a value that rounds to 0 has no sign.
    if float(text.replace("−", "-")) > 0:
        return f"+{text}"
    return text
