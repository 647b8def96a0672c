"""Runs every experiment of a config's sweep() that is not done.

Example:
  python launch/sweep.py --config=configs/digits.py --workdir=runs/widths
  python launch/sweep.py --config=configs/digits.py --workdir=runs/widths --launcher=local --jobs=2
  python launch/sweep.py --config=configs/digits.py --workdir=runs/widths --status
  python launch/sweep.py --config=… --workdir=/shared/runs --launcher=slurm --jobs=16 \\
      --slurm=partition=gpu,gpus_per_node=1
  python launch/sweep.py --config=… --workdir=/data/runs --launcher=k8s --jobs=16 \\
      --k8s=image=REGISTRY/xinv,claim=runs,gpus=1 | kubectl apply -f -

The config file defines `sweep(arg, config=None) -> list of {dotted key: value}`; a dict as value
replaces a whole section. `config` is the value of get_config(arg) with --config.a.b=…, so an
override holds in every unit; units with their own value of the key are named. Unit i runs in
WORKDIR/units/<i>; all share the stages in WORKDIR/stages (or --store), so each is computed once.

Without --launcher one worker runs in this process. --launcher=local starts one per accelerator of
this machine (or --jobs; --jobs=2 alone means it too), starts those again that die, and shows a
table. --launcher=slurm submits an array of workers and returns; --launcher=k8s prints a manifest
for kubectl apply. SLURM needs the extra `slurm`.

Any process may be killed at any moment: a piece that raises or kills its worker is tried three
times, then named, and the rest goes on; --retry tries it again. The folder must be on a file system
that processes can share: a local disk, NFS, Lustre, GPFS, not an object store.

Exit status: 0 all is done, 1 an experiment failed, 2 bad input, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
import programs
from absl import flags
from ml_collections import config_flags

from xinv.types import InputError

if TYPE_CHECKING:
    from xinv.sweep import Outcome, Sweep

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a file of configs/, with :size behind it.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the units and their shared stages go. Required.",
)
STORE = flags.DEFINE_string(
    "store",
    None,
    "Where stages are kept, to share them between sweeps and runs. Default: WORKDIR/stages.",
)
LAUNCHER = flags.DEFINE_string(
    "launcher",
    None,
    "Where workers run: local, slurm, or k8s, which prints a manifest. Default: one in this"
    " process.",
)
JOBS = flags.DEFINE_integer(
    "jobs",
    None,
    "Workers. Default: local one per accelerator, or per four cores; elsewhere 1.",
    1,
)
SLURM = flags.DEFINE_list(
    "slurm",
    [],
    "Of --launcher=slurm: parameters of submitit, as partition=gpu,time=240.",
)
K8S = flags.DEFINE_list(
    "k8s",
    [],
    "Of --launcher=k8s: image=…,claim=… and others; a wrong one names them all.",
)
TRIES = flags.DEFINE_integer(
    "tries",
    3,
    "Failed tries after which a piece is given up.",
    1,
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Only print what would be done, and its cost.",
)
STATUS = flags.DEFINE_bool(
    "status",
    False,
    "Only print the state of the sweep in WORKDIR.",
)
RETRY = flags.DEFINE_bool("retry", False, "Try pieces again that have failed.")

CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds",
    30.0,
    "Seconds between checkpoints of a training.",
    0.0,
)

_LAUNCHERS = ("local", "slurm", "k8s")


def run(argv: Sequence[str]) -> None:
    """Runs the sweep of --config."""
    del argv
    if WORKDIR.value is None:
        raise InputError("--workdir is missing: name the folder that the sweep's units go to")
    if LAUNCHER.value not in (None, *_LAUNCHERS):
        raise InputError(
            f"unknown launcher {LAUNCHER.value!r}: choose one of {', '.join(_LAUNCHERS)}"
        )
    from xinv import (
        leases,
        sweep,
    )  # after the flags: this takes seconds, and a typo is reported at once

    workdir = Path(WORKDIR.value)
    # Take no lock for a look: workers may be running
    if STATUS.value:
        found = sweep.Board(sweep.read(workdir), TRIES.value)
        print("\n".join(sweep.lines(found, width=10**6, height=10**6)))
        return
    # Configs are checked whole before a worker starts.
    manifest = sweep.describe(_configs(), Path(STORE.value) if STORE.value else None)
    # A manifest is rendered before anything is written, as its options may be wrong.
    if LAUNCHER.value == "k8s":
        text = _rendered(workdir)
        if not DRY_RUN.value:
            sweep.write(workdir, manifest)
        print(text, end="")
        return
    if DRY_RUN.value:
        found = sweep.Board(sweep.planned(workdir, manifest), TRIES.value)
        print("\n".join(sweep.plan(found)))
        return
    # One launcher at a time; its workers have leases of their own.
    with leases.locked(workdir):
        sweep.write(workdir, manifest)
        found = sweep.read(workdir)
        if RETRY.value:
            sweep.Board(found, TRIES.value).forget(failed=True)
        # SLURM's workers outlive this command, so there is nothing to report yet
        if LAUNCHER.value == "slurm":
            _submit(found)
            return
        if LAUNCHER.value or (JOBS.value or 1) > 1:
            outcome = _distributed(found)
        else:
            outcome = _here(found)
    _report(workdir, found)
    _end(found, outcome)


def _here(found: "Sweep") -> "Outcome":
    """Works on the sweep in this process."""
    from engines import here

    programs.keep()
    return here.work(
        found,
        0,
        TRIES.value,
        CHECKPOINT_SECONDS.value,
        lambda line: print(line, flush=True),
    )


def _distributed(found: "Sweep") -> "Outcome":
    """Works on the sweep by processes of this machine."""
    from engines import local

    return local.run(found, JOBS.value, TRIES.value, _arguments())


def _submit(found: "Sweep") -> None:
    """Submits workers to SLURM, and prints the commands to look after them."""
    from engines import slurm

    logs = [found.log(number) for number in range(JOBS.value or 1)]
    jobs = slurm.submit(found.workdir, logs, _arguments(), SLURM.value)
    print(f"submitted {', '.join(jobs)}; look with squeue, and with")
    print(f"  python launch/sweep.py --workdir={found.workdir} --status")
    print(f"  python launch/report.py --workdir={found.workdir}")


def _rendered(workdir: Path) -> str:
    """Returns the manifest of workers on Kubernetes."""
    from engines import k8s

    return k8s.render(
        workdir,
        JOBS.value or 1,
        _arguments(),
        K8S.value,
        TRIES.value,
    )


def _arguments() -> list[str]:
    """Returns the flags of all workers."""
    return [f"--tries={TRIES.value}", f"--checkpoint_seconds={CHECKPOINT_SECONDS.value}"]


def _configs() -> list[dict]:
    """Returns the complete configs of the sweep, with the names and sections of each checked."""
    # Overrides without an effect are named first: a check may end the program.
    configs = [cli.audited(config) for config in cli.units(CONFIG)]
    _name_overruled(configs, cli.config(CONFIG))
    if not configs:
        raise InputError("the sweep of this config has no experiments")
    cli.require_read(configs)
    return configs


def _report(workdir: Path, found: "Sweep") -> None:
    """Reports on the finished experiments, if there are any."""
    from xinv import report, sweep

    board = sweep.Board(found)
    # A report needs at least one finished experiment
    if any(board.is_finished(unit) for unit in found.units):
        page = report.render(workdir)
        print(report.table(workdir))
        print(f"\nReport: {page.absolute()}")


def _end(found: "Sweep", outcome: "Outcome") -> None:
    """Leaves with the sentences on pieces without a result."""
    if outcome.rejected:
        # Say a reason once, however many pieces have it
        reasons: dict[str, list[str]] = {}
        for told in outcome.rejected:
            piece, _, reason = told.partition(": ")
            reasons.setdefault(reason, []).append(piece)
        said = []
        for reason, (first, *others) in reasons.items():
            more = f" and {len(others)} more" if others else ""
            said.append(f"{first}{more}: {reason}")
        raise InputError("; ".join(said))
    # Other pieces are done, so the page above is of these.
    if outcome.failed:
        listed = "\n".join(f"  {sentence}" for sentence in outcome.failed)
        count = f"{len(outcome.failed)} of {len(found.pieces)} pieces"
        print(f"{count} have no result (--retry tries them again):\n{listed}", file=sys.stderr)
        sys.exit(1)


def _name_overruled(configs: Sequence[dict], base: dict) -> None:
    """Prints the units with a value of their own for an overridden key: that value holds."""
    for config in configs:
        for path in cli.overruled(config, base):
            print(
                f"unit {config['unit']} sets {path} itself: --config.{path} does not hold there",
                flush=True,
            )


if __name__ == "__main__":
    cli.main(run)
