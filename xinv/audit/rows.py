"""The rows of a work unit: one per seed, stage, arm and metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xinv.audit.attacker import Arm
from xinv.audit.describe import NO_ARM, describe
from xinv.audit.evaluate import Value
from xinv.audit.results import Rows
from xinv.types import Estimate


def rows(
    about: Mapping[str, Any],
    values: Mapping[str, Value],
    count: int,
    arm: Arm | None = None,
    goal: str | None = None,
) -> Rows:
    """Returns one row per metric.

    Args:
      about: unit, seed and stage.
      values: by metric.
      count: number of examples of a statistic of the set.
      arm: the attack; None for a classifier.
      goal: by which an attack is judged; None for its own.

    Returns:
      Rows with the fields of `describe` and value, low, high (None without an interval), p and
        examples.
    """
    if not values:
        return []
    # Rows of all stages have the same fields
    described = NO_ARM
    if arm is not None:
        described = describe(arm)
    if goal is not None:
        described = described | {"goal": goal}
    return [
        {**about, **described, "metric": name, **_figure(value, count)}
        for name, value in values.items()
    ]


def _figure(value: Value, count: int) -> dict[str, Any]:
    # Of one value per example the mean is reported; a statistic is a number already
    figure = {"value": None, "low": None, "high": None, "p": None, "examples": count}
    if isinstance(value, Estimate):
        return figure | value._asdict()
    if np.ndim(value):
        figure["examples"] = len(value)
    figure["value"] = float(np.mean(value))
    return figure
