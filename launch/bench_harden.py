"""`bench.py harden`: see there."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax

from configs import deepleak
from xinv import store
from xinv.audit.run import opened
from xinv.audit.stage import Stages
from xinv.harden import trial
from xinv.harden.candidate import candidate, space_of
from xinv.harden.maps import fitted, searched
from xinv.harden.propose import propose
from xinv.harden.search import searched_transforms
from xinv.harden.subject import Subject
from xinv.types import InputError

PUBLISHED = (1200, 100_000)
"""Seconds of 20 trials on two RTX 4090, the fastest and the slowest explainer (Figures 4 and 5)."""


def run(size: str, methods: Sequence[str] | None, rounds: int) -> None:
    """Prints seconds per trial of each explainer, and the shares of maps, attack and utility."""
    config = deepleak.get_config(size).to_dict()
    explainers = deepleak.LOCAL
    unknown = sorted(set(methods or ()) - set(explainers))
    if unknown:
        raise InputError(f"--methods has {unknown[0]!r}: choose among {', '.join(explainers)}")
    names = methods or list(explainers)
    config["explanations"] = {
        name: dict(name=name, normalise="none") | explainers[name] for name in names
    }
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {size}, {rounds} trials after"
        " one to compile"
    )
    with tempfile.TemporaryDirectory() as folder, store.opened(Path(folder) / "stages") as stages:
        # Share one service, and with it the trained models
        service = opened(config, Stages(stages, Path(folder)))
        for name in names:
            _measured(Subject(service, name, config["seed"]), rounds)
    print(f"published: {PUBLISHED[0]} to {PUBLISHED[1]} s for 20 trials on two RTX 4090")


def _measured(subject: Subject, rounds: int) -> None:
    settings = subject.settings
    explainer = subject.unhardened.explainer
    transforms = searched_transforms(settings, explainer)
    # Propose one more than is measured: the first compiles
    values = propose(space_of(explainer, transforms), [], subject.name, rounds + 1, rounds + 1)
    role = settings["roles"]["search"]
    shadow = settings["shadow"]
    # The kept maps that transforms change
    searched(subject, subject.unhardened, subject.target, role)
    searched(subject, subject.unhardened, shadow, settings["roles"]["shadow"])
    spent: dict[str, list[float]] = {"maps": [], "attack": [], "utility": []}
    for one in values:
        made = candidate(explainer, transforms, one, 1.0)
        with _timed(spent["maps"].append):
            shown = searched(subject, made, subject.target, role)
            learned = searched(subject, made, shadow, settings["roles"]["shadow"])
        with _timed(spent["attack"].append):
            section = settings["search_attack"]
            state = fitted(subject, made, section, shadow, lambda *_, maps=learned: maps)
            attack = subject.attack(section)
            attack.predict(state, subject.seen(attack, subject.target, role, shown))
        with _timed(spent["utility"].append):
            trial.utility(
                subject,
                role,
                searched(subject, subject.unhardened, subject.target, role),
                shown,
            )
    # The first compiles what all trials share
    medians = {}
    for part, times in spent.items():
        medians[part] = statistics.median(times[1:] or times)
    total = sum(medians.values())
    shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in medians.items())
    print(
        f"{subject.name:22s} {total:7.2f} s a trial ({shares}); 20 trials"
        f" {20 * total / 60:.1f} min",
        flush=True,
    )


@contextmanager
def _timed(note: Callable[[float], None]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    note(time.perf_counter() - started)
