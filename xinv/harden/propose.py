"""Proposals of the next candidates: a pure function of the space and of the trials so far.

Optuna's study lives in memory and for one call. A killed search proposes the same again, since it
depends on its arguments alone; the store alone keeps results.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from xinv.space import Choice, Fixed, Number, Space

Values = Mapping[str, Any]
"""A value for each searched parameter."""
_ASKED = 20  # proposals per wanted one, after which a small space counts as exhausted


def propose(
    space: Space,
    trials: Sequence[tuple[Values, tuple[float, float]]],
    purpose: str,
    count: int,
    startup: int,
    fits: Callable[[Values], bool] = lambda values: True,
) -> list[dict[str, Any]]:
    """Returns new values to try.

    The sampler is Optuna's multi-objective TPE (Ozaki 2022); before `startup` trials it is random.

    Args:
      space: of each parameter.
      trials: the values tried so far, in order, with their two losses, both to be small.
      purpose: seeds the random numbers, for example by seed, explainer and generation.
      count: number of proposals; fewer are returned if the space has no more that fit.
      startup: number of random trials.
      fits: tells if values can be tried: those of a space may not suit a model or its images.
    """
    # Rebuild the study from the trials so far
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = {}
    for name, part in space.items():
        if not isinstance(part, Fixed):
            searched[name] = part
    distributions = {name: _distribution(part) for name, part in searched.items()}
    sampler = optuna.samplers.TPESampler(
        seed=zlib.crc32(purpose.encode()), n_startup_trials=startup
    )
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for values, losses in trials:
        found = optuna.trial.create_trial(
            params=dict(values),
            distributions=distributions,
            values=list(losses),
        )
        study.add_trial(found)

    # The sampler may repeat itself in a small space: drop values tried before
    known = [dict(values) for values, _ in trials]
    proposals: list[dict[str, Any]] = []
    for _ in range(_ASKED * count):
        if len(proposals) == count:
            break
        values = study.ask(distributions).params
        if values not in known:
            known.append(values)
            if fits(values):
                proposals.append(values)
    return proposals


def _distribution(part: Number | Choice) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution(part.values)
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)
