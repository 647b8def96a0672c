"""Pages, tables and Markdown of a run, built from the files of its workdir alone.

| file | step |
|---|---|
| `folder.py` | files of a workdir -> `Unit`, checked |
| `summary.py` | rows -> arms, their labels and cells over seeds |
| `ranking.py`, `league.py`, `roc.py`, `verdict.py` | membership: attacks ranked beside controls |
| `columns.py` | tables as columns, for `terminal.py` and `markdown.py` |
| `page.py` | everything on one HTML page, a module per section |
| `hardened.py`, `ways.py`, `trials.py` | the page of launch/harden.py; its rows; its diagrams |

Its `Arm` is an attack as reported; the attack itself is `audit.attacker.Arm`.
"""

from pathlib import Path

from xinv.report import hardened as hardening
from xinv.report import markdown as marked
from xinv.report import page
from xinv.report.folder import read
from xinv.report.terminal import text
from xinv.store import write_text

__all__ = ["hardened", "hardened_table", "markdown", "render", "table"]


def render(workdir: str | Path, level: float = 0.90) -> Path:
    """Writes `workdir/report.html`, a self-contained page on a run or a sweep's finished units.

    Args:
      workdir: a folder of launch/run.py or launch/sweep.py.
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
    """Returns the same figures for a terminal: one row per attack, predictions alone first.

    Args:
      workdir: as in `render`.
      level: as in `render`.
      width: columns of the terminal; a wider table continues below.

    Raises:
      InputError: as `render`.
    """
    return text(read(Path(workdir)).units, level, width)


def markdown(workdir: str | Path, level: float = 0.90) -> str:
    """Returns the same figures as Markdown: tables per unit, and measured beside published.

    Args:
      workdir: as in `render`.
      level: as in `render`.

    Raises:
      InputError: as `render`.
    """
    return marked.text(read(Path(workdir)).units, level)


def hardened(workdir: str | Path) -> Path:
    """Writes `workdir/harden.html`, a self-contained page on a hardening.

    Args:
      workdir: a folder of launch/harden.py.

    Returns:
      The page's path.

    Raises:
      InputError: the hardening is not finished, or a file is damaged.
    """
    workdir = Path(workdir)
    write_text(workdir / "harden.html", hardening.html(workdir))
    return workdir / "harden.html"


def hardened_table(workdir: str | Path) -> str:
    """Returns the same figures for a terminal: one line per explanation.

    Args:
      workdir: as in `hardened`.

    Raises:
      InputError: as `hardened`.
    """
    return hardening.text(Path(workdir))
