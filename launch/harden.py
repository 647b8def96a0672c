"""Searches for ways to release explanations with less leak, and writes release policies.

Example:
  python launch/harden.py --config=configs/deepleak.py:quick --workdir=runs/harden
  python launch/harden.py --config=configs/deepleak.py:runlocal-cifar10 --unit=overfitted \\
      --explanations=saliency,gradcam --workdir=runs/overfitted

The folder receives policies/, hardened.jsonl, trials.jsonl, costs.jsonl and harden.html. The same
command again continues a search that was stopped, to the same bytes but for costs.jsonl.

--jobs=N starts N - 1 helpers on this machine, each on an accelerator or a share of the cores. They
take other explanations, seeds, ways and trials; their logs are in WORKDIR/workers. On another
machine that shares the folder the same command with --helper=K instead of --jobs is one more, once
the first has begun. Any may be killed at any moment.
"""

import sys
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
    "A file of configs/ with a section harden, with :size behind it.",
)
UNIT = flags.DEFINE_string(
    "unit",
    "",
    "Of the config's sweep, the unit to harden. Default: the config itself.",
)
EXPLANATIONS = flags.DEFINE_list(
    "explanations",
    [],
    "Harden these explanations alone. Default: all that the config or the unit names.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go.", required=True)
STORE = flags.DEFINE_string(
    "store",
    None,
    "Where stages are kept, to share them with an audit. Default: WORKDIR/stages.",
)
JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Processes on this machine.",
    1,
)
HELPER = flags.DEFINE_integer(
    "helper",
    None,
    "Only help the same command without this flag, and write no results. Helpers of different"
    " numbers begin at different places.",
    1,
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
    """Hardens the explanations of --config."""
    del argv
    # Before the slow imports: the parent may die meanwhile
    if PARENT.value:
        cli.die_with(PARENT.value)
    if HELPER.value and JOBS.value > 1:
        raise InputError(
            f"--helper={HELPER.value} is one process: leave out --jobs={JOBS.value}, and start"
            " another for each further number"
        )
    from engines import devices

    # One process alone has all devices
    first, *others = devices.slots(JOBS.value) if JOBS.value > 1 else [devices.Slot({})]
    devices.take(first)
    # After the flags: this takes seconds, and a typo is reported at once
    from engines import helpers, here

    from xinv import harden, report, store
    from xinv.audit.stage import Watch

    # The stages may be those of an audit, so that no target is trained twice.
    config = cli.unit(CONFIG, UNIT.value)
    if EXPLANATIONS.value and "harden" in config:  # a config without it is refused below
        config["harden"]["explanations"] = tuple(EXPLANATIONS.value)
    workdir = Path(WORKDIR.value)
    programs.keep()
    root = Path(STORE.value) if STORE.value else workdir / "stages"
    with here.leaving() as stop, store.opened(root, here.leave) as stages:
        how = CHECKPOINT_SECONDS.value, Watch(stop)
        if HELPER.value:
            harden.assist(config, workdir, stages, HELPER.value, *how)
            return
        # The last value of a flag holds
        own = [sys.executable, *sys.argv, "--jobs=1"]
        beside = helpers.beside(own, others, workdir / "workers")
        harden.run(config, workdir, stages, *how, beside)
    # From the files alone, as launch/report.py does for an audit
    page = report.hardened(workdir)
    print(report.hardened_table(workdir))
    print(f"\nReport: {page.absolute()}")


if __name__ == "__main__":
    cli.main(run)
