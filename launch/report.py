"""Writes report.html from the folder of a run or a sweep, and prints its table.

Example:
  python launch/report.py --workdir=runs/digits
  python launch/report.py --workdir=runs/digits --markdown    # for the page of a paper
"""

from collections.abc import Sequence
from pathlib import Path

import cli
from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run or of a sweep.")
MARKDOWN = flags.DEFINE_bool(
    "markdown",
    False,
    "Print the tables as Markdown, and no more.",
)
LEVEL = flags.DEFINE_float(
    "level",
    0.90,
    "Confidence level of the intervals, between 0 and 1.",
)


def run(argv: Sequence[str]) -> None:
    """Reports on --workdir."""
    del argv
    from xinv import report  # after the flags: this takes seconds, and a typo is reported at once
    from xinv.types import InputError

    if WORKDIR.value is None:
        raise InputError(
            "--workdir is missing: name the folder that launch/run.py or launch/sweep.py wrote"
        )
    # Markdown goes to a file of its own, so nothing else is printed.
    if MARKDOWN.value:
        print(report.markdown(Path(WORKDIR.value), LEVEL.value))
        return
    page = report.render(Path(WORKDIR.value), LEVEL.value)
    print(report.table(Path(WORKDIR.value), LEVEL.value))
    print(f"\nReport: {page.absolute()}")


if __name__ == "__main__":
    cli.main(run)
