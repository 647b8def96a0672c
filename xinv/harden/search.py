"""The search for a release: generations of trials on one half of members and others.

    propose -> evaluate (a stage each) -> propose … -> choose

No image of the reported half is read here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.audit.run import each
from xinv.harden import trial
from xinv.harden.candidate import Candidate, candidate, space_of
from xinv.harden.maps import fits, searched
from xinv.harden.propose import Values, propose
from xinv.harden.subject import Subject
from xinv.harden.trial import Trial

LEAKS, NO_LEAK = "leaks", "no leak found, nothing to harden"
UNCHANGED = "no candidate keeps the utility and leaks less"
NONE_FITS = "no candidate of the search space fits the model and its images"


class Search(NamedTuple):
    """The result of a search.

    Attributes:
      unhardened: the explanation as it is.
      trials: the candidates, in the order of evaluation.
      chosen: one of the trials, or None.
      outcome: LEAKS, NO_LEAK, UNCHANGED or NONE_FITS.
    """

    unhardened: Trial
    trials: tuple[Trial, ...]
    chosen: Trial | None
    outcome: str


def search(subject: Subject, order: tuple[str, ...] = ()) -> Search:
    """Searches a release of an explanation with less leak, at a stated utility.

    If the explanation does not leak on the search's half, there is nothing to harden and no
    candidate is tried.

    Args:
      subject: the explanation.
      order: names of transforms to search, first to last; () are those of the config.
    """
    settings = subject.settings
    unhardened = trial.run(subject, 0, {}, subject.unhardened)
    if not _leaks(unhardened, settings["alpha"]):
        return Search(unhardened, (), None, NO_LEAK)

    # Propose each generation from all trials before it
    explainer = subject.unhardened.explainer
    transforms = order or searched_transforms(settings, explainer)
    space = space_of(explainer, transforms)
    deviation = _deviation(subject)

    def made(values: Values) -> Candidate:
        return candidate(explainer, transforms, values, deviation)

    def is_possible(values: Values) -> bool:
        return fits(subject, made(values))

    trials: list[Trial] = []
    for generation, count in enumerate(_generations(settings)):
        known = [(one.values, losses(one, settings)) for one in trials]
        purpose = "/".join([str(subject.seed), subject.name, *order, str(generation)])
        proposed = propose(space, known, purpose, count, settings["startup"], is_possible)
        # Other processes may try candidates of the same generation
        numbered = list(enumerate(proposed, len(trials) + 1))
        trials += each(numbered, lambda one: trial.run(subject, *one, made(one[1])))

    if not trials:
        return Search(unhardened, (), None, NONE_FITS)
    # Choose by the rule of the config, not by hand
    chosen = choose(trials, unhardened, settings)
    return Search(unhardened, tuple(trials), chosen, LEAKS if chosen else UNCHANGED)


def searched_transforms(
    settings: Mapping[str, Any], explainer: Mapping[str, Any]
) -> tuple[str, ...]:
    """Returns the transforms searched for an explainer.

    An explainer with a space of its own is searched in this space (DeepLeak, Algorithm 1), others
    through transforms (Algorithm 2). With `transform_all` every explainer has transforms.
    """
    if settings["transform_all"] or not space_of(explainer, ()):
        return tuple(settings["transforms"])
    return ()


def losses(one: Trial, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the leak beyond chance, and the loss of utility: both are to be small.

    A leak below chance is no better than chance. The loss of utility is 1 - Spearman's correlation
    with the unhardened map, or, as in the paper, the max-sensitivity.
    """
    # Chance differs by metric: 1/2 for the area, about the rate itself for a rate
    leak = max(one.leak.value - one.chance, 0.0)
    if settings["utility"] == "max_sensitivity":
        return leak, one.utility["max_sensitivity"]
    return leak, 1 - one.utility["spearman"]


def choose(
    trials: Sequence[Trial],
    unhardened: Trial,
    settings: Mapping[str, Any],
) -> Trial | None:
    """Returns the trial of the least leak among those with all floors of utility.

    Leaks within chance, by the search's own test, count as chance; among equals the utility
    decides.

    Returns:
      The trial; None if none keeps the floors, or none leaks less than the unhardened explanation.
    """

    def rank(one: Trial) -> tuple[float, float]:
        leak, loss = losses(one, settings)
        return (leak if _leaks(one, settings["alpha"]) else 0.0), loss

    kept = [one for one in trials if keeps(one, unhardened, settings["floors"])]
    best = min(kept, key=rank, default=None)
    # A candidate must improve on the explanation as it is
    if best is None or rank(best)[0] >= rank(unhardened)[0]:
        return None
    return best


def keeps(one: Trial, unhardened: Trial, floors: Mapping[str, float]) -> bool:
    """Tests if a candidate keeps every floor of utility.

    Floors are of the fidelity "spearman", and of the remaining faithfulness: the share of the
    unhardened "insertion" area, and the unhardened "deletion" area over the candidate's.
    """
    # Faithfulness is relative to the unhardened map's; 1e-9 keeps the shares finite
    shares = {
        "spearman": one.utility["spearman"],
        "insertion": one.utility["insertion"] / max(unhardened.utility["insertion"], 1e-9),
        "deletion": unhardened.utility["deletion"] / max(one.utility["deletion"], 1e-9),
    }
    return all(shares[name] >= floor for name, floor in floors.items())


def _leaks(one: Trial, alpha: float) -> bool:
    return one.leak.p is not None and one.leak.p <= alpha


def _generations(settings: Mapping[str, Any]) -> list[int]:
    """Returns the sizes of the generations."""
    # The first is random and has its own size
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
    # The shadow's images, so that scaled parameters do not depend on audited ones
    maps = searched(
        subject,
        subject.unhardened,
        subject.shadow,
        settings["roles"]["shadow"],
    )
    return float(np.std(maps, dtype=np.float64)) or 1.0
