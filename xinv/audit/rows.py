"""The rows of a work unit: one per seed, stage, arm and metric.

`stage` is the kind of a row, not a stage of the store: scores of `attack` rows are kept in stages
"metrics".


| field | contents |
|---|---|
| `unit`, `seed`, `stage`, `arm` | stage: `attack`, `defence` (its cost), `cause`, or a classifier |
| `goal`, `verb` | the aim of an attack: `reconstruction`, `attribute`, `membership`; in words |
| `inputs`, `explainer` | what it reads; what of it the service released |
| `encoder` | how it reads an explanation, or the name of its method |
| `defence`, `adaptive` | the defences that it meets; whether it learned from their releases |
| `queries`, `releases` | releases of an image that it averages; that it learned from |
| `roles` | whose images it learned from |
| `attack`, `baseline` | a hash without defences; whether others are compared with it |
| `control_of`, `model` | the arm that it is the control of; the classifier that it is tested on |
| `metric`, `value` | the mean over examples, or a statistic of the set |
| `low`, `high`, `p` | of a statistic: its 95 % interval, and p against chance |
| `examples` | number of images, on none of which the attack was trained |

`cause` rows compare maps of members and others. A classifier that is trained with differential
privacy has the metrics `noise`, `epsilon`, `delta`, and `epsilon_of_group` if images are dealt in
groups. `held_out_distortion` and `prediction_distortion` are of images that the defender holds
back, by which noise is matched to another defence.
"""

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
