"""Rows to a page and a table; built from a workdir's files alone, so a run can be reported anywhere at any time."""

from pathlib import Path

from xinv.report import page
from xinv.report.folder import read
from xinv.report.terminal import text
from xinv.store import write_text

__all__ = ["render", "table"]


def render(workdir: str | Path, level: float = 0.90) -> Path:
    """Writes `workdir/report.html`, one self-contained page on a run or on all finished units of a sweep.

    Args:
      workdir: what launch/run.py or launch/sweep.py wrote.
      level: confidence level of the intervals, in (0,1).

    Returns:
      The page's path.

    Raises:
      InputError: a file of `workdir` is missing or damaged; names the file, and the line.
    """
    workdir = Path(workdir)
    write_text(workdir / "report.html", page.html(read(workdir), level, workdir))
    return workdir / "report.html"


def table(workdir: str | Path, level: float = 0.90, width: int = 100) -> str:
    """The same figures for a terminal: one row per attack, predictions alone first, in at most `width` columns.

    Raises:
      InputError: as `render`.
    """
    return text(read(Path(workdir)).units, level, width)
