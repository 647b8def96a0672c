"""Runs one audit: trains the target, computes explanations, attacks them, and reports what they
give away.

Example:
  python launch/run.py --config=configs/digits.py --workdir=runs/digits
  python launch/run.py --config=configs/digits.py:full --config.attack.train.epochs=3
  python launch/run.py --config=configs/yang.py:runlocal --unit=optimised --workdir=runs/optimised
  python launch/run.py --config=configs/digits.py --workdir=runs/digits --processes=2
  srun -N4 python launch/run.py --config=configs/gnime.py --workdir=runs/gnime --multiprocess

The folder receives rows.jsonl, config.json, report.html and every stage's result. The same command
again continues a run that was stopped and re-uses all that is done; changing a part of the config
computes again only what depends on it. Ctrl-C leaves at once; SIGTERM and SIGUSR2 save the present
training first, and the exit status is 75.

Several processes compute one run together: batches are divided among all their devices, and the
rows are those of one process with as many. --processes=N starts them here, each with its share of
the GPUs, or else of the cores; --multiprocess joins those that SLURM, Open MPI, Cloud TPU or
Kubernetes has started, which share --workdir; nothing is detected unasked. For another engine, give
each process --processes=N, --coordinator_address=HOST:PORT and --process_id=K. Under SLURM a task
takes the GPU of its number; JAX_LOCAL_DEVICE_IDS=0,1 gives it several. A lost process ends the run
with status 75, and the same command continues it, also with another number of processes.
"""

import datetime
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import cli
import programs
from absl import flags
from ml_collections import config_flags

from xinv.types import InputError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a file of configs/, with :size behind it.",
)
UNIT = flags.DEFINE_string(
    "unit",
    "",
    "Of the config's sweep, the unit to run. Default: the config itself.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where results go. Default: a new folder below runs/.",
)
STORE = flags.DEFINE_string(
    "store",
    None,
    "Where stages are kept, to share them between runs. Default: WORKDIR/stages.",
)
PROCESSES = flags.DEFINE_integer(
    "processes",
    1,
    "Processes of this machine that compute the run together.",
    1,
)
MULTIPROCESS = flags.DEFINE_bool(
    "multiprocess",
    False,
    "This is one of several processes that an engine has started.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Where process 0 of --processes listens, if started by hand.",
)
NUMBER = flags.DEFINE_integer(
    "process_id",
    None,
    "Which of --processes this one is, if started by hand.",
    0,
)
PARENT = flags.DEFINE_integer(
    "parent",
    0,
    "The process that has started this one, and takes it along when it dies.",
    0,
)

CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds",
    30.0,
    "Seconds between checkpoints of a training.",
    0.0,
)


def run(argv: Sequence[str]) -> None:
    """Runs the audit of --config, in this process or in several."""
    # Before the slow imports: the parent may die meanwhile
    if PARENT.value:
        cli.die_with(PARENT.value)
    config = cli.audited(cli.unit(CONFIG, UNIT.value))
    _check_flags()
    # Be one of several, the parent of several, or alone
    if MULTIPROCESS.value or COORDINATOR.value:
        _join(config)
    elif PROCESSES.value > 1:
        from engines import peers

        sys.exit(peers.run(PROCESSES.value, [sys.executable, *sys.argv]))
    else:
        _audit(config)


def _check_flags() -> None:
    """Raises InputError for flags of several processes that contradict each other."""
    # An engine knows the number of processes and their places
    if MULTIPROCESS.value and (PROCESSES.value > 1 or COORDINATOR.value):
        raise InputError(
            "--multiprocess asks the engine which process this is: leave out --processes and"
            " --coordinator_address"
        )
    # Started by hand, a process needs both address and number
    if (COORDINATOR.value is None) != (NUMBER.value is None):
        raise InputError(
            "--coordinator_address=HOST:PORT and --process_id=K belong together: give both, or"
            " neither and --processes=N starts all processes here"
        )
    if COORDINATOR.value and not re.fullmatch(r".+:\d+", COORDINATOR.value):
        raise InputError(
            f"--coordinator_address={COORDINATOR.value} is no HOST:PORT: give it as node1:1234"
        )
    if COORDINATOR.value and NUMBER.value >= PROCESSES.value:
        raise InputError(
            f"--process_id={NUMBER.value} is none of --processes={PROCESSES.value}: they count"
            " from 0"
        )


def _join(config: dict) -> None:
    """Runs the audit as one of several processes."""
    from engines import member

    from xinv.processes import Place

    # Without a place, ask the engine
    place = None
    if COORDINATOR.value:
        place = Place(COORDINATOR.value, PROCESSES.value, NUMBER.value)
    with member.joined(place):
        _audit(config)


def _audit(config: dict) -> None:
    from engines import here  # after the flags: this takes seconds, and a typo is reported at once

    from xinv import audit, processes, report, store
    from xinv.audit.stage import Watch

    cli.require_read([config])
    # Process 0 names the folder, so that all use the same one
    workdir = Path(processes.led(lambda: WORKDIR.value or _new_folder(config["unit"])))
    programs.keep()
    root = Path(STORE.value) if STORE.value else workdir / "stages"
    with here.leaving() as stop, store.opened(root, here.leave) as stages:
        audit.run(config, workdir, stages, CHECKPOINT_SECONDS.value, Watch(stop))

    def show() -> None:
        page = report.render(workdir)
        print(report.table(workdir))
        print(f"\nReport: {page.absolute()}")

    # The others wait for its end
    processes.led(show)


def _new_folder(unit: str) -> str:
    """A folder that no other run uses, though both start in the same second."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"runs/{unit}-{now}-{uuid.uuid4().hex[:6]}"


if __name__ == "__main__":
    cli.main(run)
