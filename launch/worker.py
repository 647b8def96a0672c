"""A worker of a sweep: takes pieces of WORKDIR/manifest.json until none is left.

Example:
  python launch/worker.py --workdir=runs/widths
  gcloud compute tpus tpu-vm ssh NAME --worker=all \\
      --command="cd xinv && .venv/bin/python launch/worker.py --workdir=/shared/runs"

launch/sweep.py writes the manifest, and with --launcher=… starts workers. More may be started by
hand, anywhere that shares the folder, one per device. SIGTERM and SIGUSR2 let a worker save its
training and leave. Exit status: 0 nothing is left, 1 an experiment failed, 2 bad input, 75 it left
on a signal: start it again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cli
import programs
from absl import flags

from xinv.types import InputError

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a sweep. Required.")
NUMBER = flags.DEFINE_integer(
    "number",
    0,
    "Workers of different numbers begin with different pieces.",
    0,
)
TRIES = flags.DEFINE_integer(
    "tries",
    3,
    "Failed tries after which a piece is given up.",
    1,
)
CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds",
    30.0,
    "Seconds between checkpoints of a training.",
    0.0,
)
PARENT = flags.DEFINE_integer(
    "parent",
    0,
    "The process that has started this one, and takes it along when it dies.",
    0,
)


def run(argv: Sequence[str]) -> None:
    """Works on --workdir."""
    del argv
    # Before the slow imports: the parent may die meanwhile
    if PARENT.value:
        cli.die_with(PARENT.value)
    from engines import here

    from xinv import sweep

    if WORKDIR.value is None:
        raise InputError("--workdir is missing: name the folder of a sweep")
    found = sweep.read(Path(WORKDIR.value))
    programs.keep()
    outcome = here.work(
        found,
        NUMBER.value,
        TRIES.value,
        CHECKPOINT_SECONDS.value,
        _say,
    )
    # Failures come last, so that they end the log
    for sentence in outcome.failed:
        _say(f"failed: {sentence}")
    if outcome.rejected:
        sys.exit(2)  # each was said when it was found
    sys.exit(1 if outcome.failed else 0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.main(run)
