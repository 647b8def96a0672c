"""Runs every unit of a config's sweep(), one after another; units that are done are not run again.

Example:
  python launch/sweep.py --config=configs/digits.py --workdir=runs/widths

The config file defines `sweep(arg, config=None) -> list of {dotted key: value}`; a dict as value replaces a whole
section. `config` is what get_config(arg) returns, as overridden by --config.a.b=…, so that an override holds in every
unit; a unit that sets that very key is named. Unit i runs in WORKDIR/units/<i>; all share the stages in WORKDIR/stages,
so that what they have in common is computed once.
"""

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cli
from absl import flags
from ml_collections import config_flags

from xinv.types import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/, with :size behind it.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the units and their shared stages go. Required.")

CHECKPOINT_SECONDS = flags.DEFINE_float("checkpoint_seconds", 30.0, "Seconds between checkpoints of a training.", 0.0)


def run(argv: Sequence[str]) -> None:
    """Runs the sweep of --config."""
    del argv
    from xinv import audit, report, store, train
    from xinv.audit import results

    if WORKDIR.value is None:
        raise InputError("--workdir is missing: name the folder that the sweep's units go to")
    configs = cli.units(CONFIG)
    _name_overruled(configs, cli.config(CONFIG), cli.overridden(sys.argv))
    workdir = Path(WORKDIR.value)
    diverged = []
    with store.opened(workdir / "stages") as stages:
        for number, config in enumerate(configs):
            folder = workdir / "units" / f"{number:04d}"
            done = results.is_done(folder, config)
            print(f"unit {number + 1} of {len(configs)}: {config['unit']} {'is done' if done else ''}", flush=True)
            try:
                if not done:
                    audit.run(config, folder, stages, CHECKPOINT_SECONDS.value)
            except train.Diverged as error:  # a finding about that unit; the others go on
                diverged.append(f"unit {config['unit']} diverged: {error}")
                print(diverged[-1], flush=True)
    page = report.render(workdir)
    print(report.table(workdir))
    print(f"\nReport: {page.absolute()}")
    if diverged:
        raise InputError(f"{len(diverged)} of {len(configs)} units have no result: {'; '.join(diverged)}")


def _name_overruled(configs: Sequence[dict], base: dict, overrides: Iterable[str]) -> None:
    """Prints which units set what the command line sets too: there the unit's value holds."""
    for config, path in itertools.product(configs, overrides):
        if _at(config, path) != _at(base, path):
            print(f"unit {config['unit']} sets {path} itself: --config.{path} does not hold there", flush=True)


def _at(config: dict, path: str) -> object:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


if __name__ == "__main__":
    cli.main(run)
