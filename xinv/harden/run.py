"""A hardening in its order: from a config to searches, policies and results."""

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from xinv import leases, store
from xinv.audit import environment, results
from xinv.audit.results import Config
from xinv.audit.run import each, opened
from xinv.audit.stage import Noted, Stages, Watch, spent
from xinv.harden.candidate import Candidate
from xinv.harden.check import check
from xinv.harden.maps import applied, sections
from xinv.harden.result import policy, result
from xinv.harden.search import Search, search
from xinv.harden.subject import Subject
from xinv.harden.trial import Trial
from xinv.harden.ways import DEFENDED, RETRAINED, SEARCH, Way, retrained, ways
from xinv.store import Store
from xinv.types import InputError

RESULTS, TRIALS, COSTS = "hardened.jsonl", "trials.jsonl", "costs.jsonl"
_FILES = (RESULTS, TRIALS, COSTS, "harden.html", "environment.json", "policies", results.CONFIG)
"""Files in the order of their removal: first the results, the mark of a complete hardening."""


class _Hardened(NamedTuple):
    """The result of one explanation, way and seed.

    Attributes:
      line, trials, cost: lines of `hardened.jsonl`, `trials.jsonl` and `costs.jsonl`.
      subject, candidate: what is released; another training has a subject of its own.
    """

    line: dict[str, Any]
    trials: list[dict[str, Any]]
    cost: dict[str, Any]
    subject: Subject
    candidate: Candidate


def run(
    config: Config,
    workdir: Path,
    stages: Store,
    checkpoint_seconds: float = 30.0,
    watch: Watch = Watch(),  # noqa: B008 (immutable)
    beside: AbstractContextManager = contextlib.nullcontext(),  # noqa: B008 (holds nothing)
) -> list[dict[str, Any]]:
    """Hardens each explanation in `config["harden"]` in each way, and writes policies.

    Stages in the store are not computed again: a killed run continues, and ends with the same
    bytes. Work of another process is left for later.

    Files in `workdir`: `hardened.jsonl`, a line per explanation, way and seed; `trials.jsonl`, a
    line per trial; `policies/<explanation>-<seed>.json` of the search, and
    `policies/<way>/<explanation>-<seed>.json` of other ways; `costs.jsonl`, the seconds that each
    release took to find, which differ from run to run; `config.json`.

    Args:
      config: complete.
      workdir: the folder of the results.
      stages: the store.
      checkpoint_seconds: least time between two checkpoints of a training.
      watch: follows the stages, and may end the run.
      beside: is entered once all is checked, for example to start processes that `assist`.

    Returns:
      The lines of `hardened.jsonl`.

    Raises:
      InputError: a part of the config does not exist or does not fit.
      Stopped: `watch` has ended the run.
    """
    with leases.locked(workdir, stages.leases):
        started = time.monotonic()
        # Check everything before the first stage
        pieces = _pieces(config, Stages(stages, workdir, checkpoint_seconds, watch))
        results.begin(workdir, config, _FILES)
        with beside:
            found = each(pieces, lambda piece: _kept(_hardened(*piece), workdir))
        _write(workdir, found, time.monotonic() - started)
        return [one.line for one in found]


def assist(
    config: Config,
    workdir: Path,
    stages: Store,
    number: int,
    checkpoint_seconds: float = 30.0,
    watch: Watch = Watch(),  # noqa: B008 (immutable)
) -> None:
    """Computes stages of a hardening that another process runs, until none is left.

    Only the store and the curves of trainings are written to. Any number of processes may assist,
    on any machine that shares the store, and be killed at any moment: they take the explanations,
    and the trials of one search, that no other process is at.

    Args:
      config, workdir, stages, checkpoint_seconds, watch: as in `run`.
      number: processes of different numbers begin with different explanations, seeds or ways; that
        of `run` is 0.

    Raises:
      InputError: `workdir` has no hardening of this config; others as in `run`.
      Stopped: as in `run`.
    """
    # Without one, nobody would read what is computed
    if not results.is_begun(workdir, config):
        raise InputError(
            f"{workdir} has no hardening of this config to help: start the same command without"
            " --helper first"
        )
    pieces = _pieces(config, Stages(stages, workdir, checkpoint_seconds, watch))
    first = number % len(pieces)
    each(pieces[first:] + pieces[:first], lambda piece: _hardened(*piece))


def _pieces(config: Config, stages: Stages) -> list[tuple[Subject, Way]]:
    """Returns each explanation of each seed, to be hardened in each way, once all is checked."""
    service = opened(config, stages)
    check(service)
    pieces = []
    for seed in service.classifiers.seeds:
        for name in config["harden"]["explanations"]:
            for way in ways(config["harden"]):
                pieces.append((Subject(service, name, seed), way))
    return pieces


def _kept(found: _Hardened, workdir: Path) -> _Hardened:
    """Writes the policy of a result, and names its file there."""
    line = found.line
    folder = Path("policies") if line["way"] == SEARCH else Path("policies") / line["way"]
    file = folder / f"{line['explanation']}-{line['seed']}.json"
    policy(found.subject, found.candidate, line).save(workdir / file)
    return found._replace(line=line | {"policy": str(file)})


def _hardened(subject: Subject, way: Way) -> _Hardened:
    """Returns the result of one way."""
    # Find the release
    noted = Noted(subject.service.stages.watch)
    subject = subject._replace(service=subject.service.watched(noted))
    searched, hardened, after = _found(subject, way)
    cost = _identity(subject, way) | {"seconds": _seconds(subject, list(noted.stages))}

    # Measure it; without one the policy releases the explanation as it is
    line = _line(subject, way, searched) | result(subject, hardened, after)
    candidate = after or subject.unhardened
    line["released"] = candidate.spec()
    line["released"]["transforms"] = list(sections(hardened, candidate))
    _tell(line)
    return _Hardened(line, _trials(subject, way, searched), cost, hardened, candidate)


def _found(subject: Subject, way: Way) -> tuple[Search | None, Subject, Candidate | None]:
    """Returns the search, if the way has one, and the release: its subject and candidate."""
    if way.defences:
        after = subject.unhardened._replace(defences=way.defences)
        applied(subject, after, subject.target)  # learns them
        return None, subject, after
    if way.training:
        hardened = subject._replace(service=retrained(subject.service, way.training))
        hardened.service.classifiers.identity(subject.target, subject.seed)  # trains it
        return None, hardened, subject.unhardened
    searched = search(subject, way.order)
    return searched, subject, searched.chosen.candidate if searched.chosen else None


def _seconds(subject: Subject, names: Sequence[str]) -> float:
    """Returns what the named stages took, without the training of the models as they are."""
    stages = subject.service.stages
    given = Noted(stages.watch)
    classifiers = subject.service.watched(given).classifiers
    for part in (subject.target, subject.shadow):
        classifiers.identity(part, subject.seed)
    return round(spent(stages.store.root, names, given.stages), 1)


def _identity(subject: Subject, way: Way) -> dict[str, Any]:
    return {
        "unit": subject.service.config["unit"],
        "seed": subject.seed,
        "explanation": subject.name,
        "way": way.name,
    }


def _line(subject: Subject, way: Way, found: Search | None) -> dict[str, Any]:
    line = _identity(subject, way) | {"objective": subject.settings["leak"]}
    # Without a search nothing is chosen
    if found is None:
        outcome = DEFENDED if way.defences else RETRAINED
        return line | {"outcome": outcome, "trials": 0, "chosen": None, "values": {}}
    # The search's own figures stay apart: the reported ones follow from the other half
    chosen = found.chosen
    return line | {
        "outcome": found.outcome,
        "trials": len(found.trials),
        "chosen": chosen.number if chosen else None,
        "values": dict(chosen.values) if chosen else {},
        "searched": {
            "before": found.unhardened.leak._asdict(),
            "after": chosen.leak._asdict() if chosen else None,
        },
    }


def _trials(subject: Subject, way: Way, found: Search | None) -> list[dict[str, Any]]:
    if found is None:
        return []

    # The unhardened explanation is trial 0
    def line(one: Trial) -> dict[str, Any]:
        return _identity(subject, way) | {
            "trial": one.number,
            "chosen": one is found.chosen,
            "values": dict(one.values),
            "leak": one.leak._asdict(),
            "chance": one.chance,
            **one.utility,
        }

    return [line(one) for one in (found.unhardened, *found.trials)]


def _tell(line: Mapping[str, Any]) -> None:
    # One line for people, on stderr as all progress
    leak = line["leak"]["auc"]
    figures = f"AUC {leak['before']['value']:.3f}"
    if "after" in leak:
        figures += f" -> {leak['after']['value']:.3f}"
    text = (
        f"{line['explanation']}, {line['way']}, seed {line['seed']}: {line['outcome']}, {figures}"
    )
    print(text, file=sys.stderr, flush=True)


def _write(workdir: Path, found: Sequence[_Hardened], total: float) -> None:
    if not (workdir / "environment.json").exists():
        used = environment.describe() | {"seconds": round(total, 1)}
        store.write_json(workdir / "environment.json", used)
    # Write the results last, as they mark the hardening as done
    trials = [line for one in found for line in one.trials]
    costs, lines = [one.cost for one in found], [one.line for one in found]
    for name, part in ((TRIALS, trials), (COSTS, costs), (RESULTS, lines)):
        store.write_text(workdir / name, "".join(json.dumps(line) + "\n" for line in part))
