"""Runs one audit: trains the target, computes explanations, attacks them, and reports what they
give away.

Example:
  python launch/run.py --config=configs/digits.py --workdir=runs/digits
  python launch/run.py --config=configs/digits.py:full --config.attack.train.epochs=3

The folder receives rows.jsonl, config.json, report.html and every stage's result. The same command
again continues a run that was stopped and re-uses all that is done; changing a part of the config
computes again only what depends on it. Ctrl-C leaves at once; SIGTERM and SIGUSR2 save the present
training first, and the exit status is 75.
"""

import datetime
import uuid
from collections.abc import Sequence
from pathlib import Path

import cli
import programs
from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file of configs/, with :size behind it."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go. Default: a new folder below runs/."
)
STORE = flags.DEFINE_string(
    "store", None, "Where stages are kept, to share them between runs. Default: WORKDIR/stages."
)

CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds", 30.0, "Seconds between checkpoints of a training.", 0.0
)


def run(argv: Sequence[str]) -> None:
    """Runs the audit of --config."""
    del argv
    from engines import here  # after the flags: this takes seconds, and a typo is reported at once

    from xinv import audit, report, store
    from xinv.audit.stage import Watch

    config = cli.audited(cli.config(CONFIG))
    workdir = Path(WORKDIR.value or _new_folder(config["unit"]))
    programs.keep()
    root = Path(STORE.value) if STORE.value else workdir / "stages"
    with here.leaving() as stop, store.opened(root, here.leave) as stages:
        audit.run(config, workdir, stages, CHECKPOINT_SECONDS.value, Watch(stop))
    page = report.render(workdir)
    print(report.table(workdir))
    print(f"\nReport: {page.absolute()}")


def _new_folder(unit: str) -> str:
    """A folder that no other run uses, though both start in the same second."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"runs/{unit}-{now}-{uuid.uuid4().hex[:6]}"


if __name__ == "__main__":
    cli.main(run)
