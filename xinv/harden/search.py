"""The search for a release: generations of trials on one half of members and others.

    propose -> evaluate (a stage each) -> propose … -> choose

Nothing here reads an image of the half that is reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.harden import trial
from xinv.harden.candidate import candidate, space_of
from xinv.harden.propose import propose
from xinv.harden.subject import Subject
from xinv.harden.trial import Trial

LEAKS, NO_LEAK = "leaks", "no leak found, nothing to harden"
UNCHANGED = "no candidate keeps the utility and leaks less"


class Search(NamedTuple):
    """What a search found.

    Attributes:
      unhardened: the explanation as it is.
      trials: the candidates, in the order of evaluation.
      chosen: one of the trials; None if there is none to choose.
      outcome: LEAKS, NO_LEAK or UNCHANGED.
    """

    unhardened: Trial
    trials: tuple[Trial, ...]
    chosen: Trial | None
    outcome: str


def search(subject: Subject) -> Search:
    """Searches a release of an explanation that leaks less at a stated utility.

    An explanation that does not leak on the search's half has nothing to harden, and no candidate
    is tried.
    """
    settings = subject.settings
    unhardened = trial.run(subject, 0, {}, subject.unhardened)
    if not _leaks(unhardened, settings["alpha"]):
        return Search(unhardened, (), None, NO_LEAK)

    # One generation after the other; each is proposed by all trials before it
    explainer = subject.unhardened.explainer
    transforms = searched_transforms(settings, explainer)
    space = space_of(explainer, transforms)
    deviation = _deviation(subject)
    trials: list[Trial] = []
    for generation, count in enumerate(_generations(settings)):
        known = [(one.values, losses(one, settings)) for one in trials]
        purpose = f"{subject.seed}/{subject.name}/{generation}"
        for values in propose(space, known, purpose, count, settings["startup"]):
            made = candidate(explainer, transforms, values, deviation)
            trials.append(trial.run(subject, len(trials) + 1, values, made))

    # By the rule of the config, not by hand
    chosen = choose(trials, unhardened, settings)
    return Search(unhardened, tuple(trials), chosen, LEAKS if chosen else UNCHANGED)


def searched_transforms(
    settings: Mapping[str, Any], explainer: Mapping[str, Any]
) -> tuple[str, ...]:
    """Returns the transforms that are searched for an explainer.

    An explainer with a space of its own is searched in that (DeepLeak, Algorithm 1), others through
    transforms (Algorithm 2); with `transform_all` transforms are searched for every explainer.
    """
    if settings["transform_all"] or not space_of(explainer, ()):
        return tuple(settings["transforms"])
    return ()


def losses(one: Trial, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the leak beyond chance, and the loss of utility: both are to be small.

    A leak below chance is no better than chance. The loss of utility is 1 - Spearman's correlation
    with the unhardened map, or, as in the paper, the max-sensitivity.
    """
    leak = max(one.leak.value - one.chance, 0.0)
    if settings["utility"] == "max_sensitivity":
        return leak, one.utility["max_sensitivity"]
    return leak, 1 - one.utility["spearman"]


def choose(
    trials: Sequence[Trial],
    unhardened: Trial,
    settings: Mapping[str, Any],
) -> Trial | None:
    """Returns the trial of the least leak among those that keep the floors of utility.

    Leaks that the search cannot tell from chance count as chance; among equals the utility decides.

    Returns:
      None if no trial keeps the floors, or none leaks less than the unhardened explanation.
    """

    def rank(one: Trial) -> tuple[float, float]:
        leak, loss = losses(one, settings)
        return (leak if _leaks(one, settings["alpha"]) else 0.0), loss

    kept = [one for one in trials if keeps(one, unhardened, settings["floors"])]
    best = min(kept, key=rank, default=None)
    if best is None or rank(best)[0] >= rank(unhardened)[0]:
        return None
    return best


def keeps(one: Trial, unhardened: Trial, floors: Mapping[str, float]) -> bool:
    """Tells if a candidate keeps every floor of utility.

    Floors are of the fidelity "spearman", and of the faithfulness that is left: the share of the
    unhardened "insertion" area, and the unhardened "deletion" area over the candidate's.
    """
    shares = {
        "spearman": one.utility["spearman"],
        "insertion": one.utility["insertion"] / max(unhardened.utility["insertion"], 1e-9),
        "deletion": unhardened.utility["deletion"] / max(one.utility["deletion"], 1e-9),
    }
    return all(shares[name] >= floor for name, floor in floors.items())


def _leaks(one: Trial, alpha: float) -> bool:
    return one.leak.p is not None and one.leak.p <= alpha


def _generations(settings: Mapping[str, Any]) -> list[int]:
    """Returns the numbers of candidates of the generations."""
    left = settings["trials"]
    sizes = []
    size = settings["startup"]
    while left > 0:
        sizes.append(min(size, left))
        left -= sizes[-1]
        size = settings["generation"]
    return sizes


def _deviation(subject: Subject) -> float:
    """Returns the standard deviation of the unhardened maps of the shadow's images, or 1."""
    settings = subject.settings
    maps = subject.maps(
        subject.unhardened,
        settings["shadow"],
        settings["roles"]["shadow"],
    )
    return float(np.std(maps, dtype=np.float64)) or 1.0
