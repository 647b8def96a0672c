"""A hardening in its order: from a config to searches, policies and results."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

RESULTS, TRIALS, COSTS = "hardened.jsonl", "trials.jsonl", "costs.jsonl"
_FILES = (RESULTS, TRIALS, COSTS, "harden.html", "environment.json", "policies", results.CONFIG)
"""Files in the order of their removal: first the results, the mark of a complete hardening."""


def run(
    config: Config,
    workdir: Path,
    stages: Store,
    checkpoint_seconds: float = 30.0,
    watch: Watch = Watch(),  # noqa: B008 (immutable)
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

    Returns:
      The lines of `hardened.jsonl`.

    Raises:
      InputError: a part of the config does not exist or does not fit.
      Stopped: `watch` has ended the run.
    """
    with leases.locked(workdir, stages.leases):
        # Check everything before the first stage
        started = time.monotonic()
        service = opened(config, Stages(stages, workdir, checkpoint_seconds, watch))
        check(service)
        results.begin(workdir, config, _FILES)

        # Harden each explanation of each seed in each way
        pieces = []
        for seed in service.classifiers.seeds:
            for name in config["harden"]["explanations"]:
                for way in ways(config["harden"]):
                    pieces.append((Subject(service, name, seed), way))
        found = each(pieces, lambda piece: _hardened(*piece, workdir))

        lines = [line for line, _, _ in found]
        trials = [line for _, several, _ in found for line in several]
        costs = [line for _, _, line in found]
        _write(workdir, lines, trials, costs, time.monotonic() - started)
        return lines


def _hardened(
    subject: Subject,
    way: Way,
    workdir: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Returns the result of one way, its trials and its cost, and writes the policy."""
    # Find the release
    noted = Noted(subject.service.stages.watch)
    subject = subject._replace(service=subject.service.watched(noted))
    searched, hardened, after = _found(subject, way)
    cost = _identity(subject, way) | {"seconds": _seconds(subject, list(noted.stages))}

    # Measure it, and keep it; without one the policy releases the explanation as it is
    line = _line(subject, way, searched) | result(subject, hardened, after)
    candidate = after or subject.unhardened
    line["released"] = candidate.spec()
    line["released"]["transforms"] = list(sections(hardened, candidate))
    folder = Path("policies") if way.name == SEARCH else Path("policies") / way.name
    file = folder / f"{subject.name}-{subject.seed}.json"
    policy(hardened, candidate, line).save(workdir / file)
    _tell(line)
    return line | {"policy": str(file)}, _trials(subject, way, searched), cost


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


def _write(
    workdir: Path,
    lines: list[dict[str, Any]],
    trials: list[dict[str, Any]],
    costs: list[dict[str, Any]],
    total: float,
) -> None:
    if not (workdir / "environment.json").exists():
        used = environment.describe() | {"seconds": round(total, 1)}
        store.write_json(workdir / "environment.json", used)
    # Write the results last, as they mark the hardening as done
    for name, part in ((TRIALS, trials), (COSTS, costs), (RESULTS, lines)):
        store.write_text(workdir / name, "".join(json.dumps(line) + "\n" for line in part))
