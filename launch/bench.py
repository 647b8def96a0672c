"""Measures xinv's speed beside other libraries, on the same machine in one run.

Example:
  python launch/bench.py training

`training`: images per second of a training step of Zhao's MNIST target and decoders at the paper's width, against the
same networks in PyTorch where that is installed. Rounds alternate and the medians are reported. On an accelerator also
in bfloat16, and always with the fraction of the rate that a large matrix product reaches in this run.
"""

import sys
from collections.abc import Callable, Sequence

import cli
from absl import flags

from xinv.types import InputError

BATCH = flags.DEFINE_integer("batch_size", 64, "Images per training step.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Alternating measurements of each network.", 1)
STEPS = flags.DEFINE_integer("steps", None, "Training steps per round. Default: 2 on CPU, 128 on an accelerator.", 1)


def training() -> None:
    """Training steps against PyTorch."""
    import bench_training  # after the flags: this takes seconds, and a typo is told at once

    bench_training.run(BATCH.value, ROUNDS.value, STEPS.value)


COMMANDS: dict[str, Callable[[], None]] = {"training": training}


def main() -> None:
    """Takes the subcommand off the arguments, and leaves the flags to absl."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None

    def run(argv: Sequence[str]) -> None:
        del argv
        if name not in COMMANDS:
            raise InputError(f"unknown benchmark {name!r}: choose one of {', '.join(COMMANDS)}")
        COMMANDS[name]()

    cli.main(run)


if __name__ == "__main__":
    main()
