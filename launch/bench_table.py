"""Measurements of a bench: rows, as lines of a table and as JSON."""

from typing import NamedTuple

FAILED = "FAILED"
"""How the note of a row ends whose value is outside its tolerance."""


class Row(NamedTuple):
    """One measurement, of xinv and of what is compared with it.

    Attributes:
      name: what was measured.
      dtype: of the computation.
      unit: of the measured values; of rates more is better, "error" is relative.
      xinv: the value, or None if there is none.
      torch: PyTorch's value, eager, or captum's.
      compiled: PyTorch's value by torch.compile.
      product: fraction of the measured rate of a large matrix product.
      copy: fraction of the measured rate of a large copy.
      mib: memory of xinv's compiled program, with arguments and results, in MiB.
      compile: seconds in which it was compiled.
      note: further facts; or why a value is missing.
    """

    name: str
    dtype: str = ""
    unit: str = ""
    xinv: float | None = None
    torch: float | None = None
    compiled: float | None = None
    product: float | None = None
    copy: float | None = None
    mib: float | None = None
    compile: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value of xinv over the best of PyTorch's."""
        others = [value for value in (self.torch, self.compiled) if value]
        if not others or self.xinv is None:
            return None
        return self.xinv / max(others)

    def line(self) -> str:
        """The row as a line of its own."""
        if self.xinv is None:
            return f"{self.name}: {self.note}"
        text = f"{self.name}, {self.dtype}: {self.unit}: xinv {number(self.xinv)}"
        # Leave out missing figures
        if self.torch:
            text += f"  torch {number(self.torch)}"
        if self.compiled:
            text += f"  torch.compile {number(self.compiled)}"
        if self.ratio:
            text += f"  ratio {self.ratio:.2f}"
        if self.product:
            text += f"  of a product's rate {self.product:.0%}"
        if self.copy:
            text += f"  of a copy's rate {self.copy:.0%}"
        if self.note:
            text += f"  ({self.note})"
        return text


HEADINGS = (
    "what",
    "dtype",
    "unit",
    "xinv",
    "torch",
    "torch.compile",
    "ratio",
    "of product",
    "of copy",
    "MiB",
    "compile, s",
    "note",
)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value is None:
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    if abs(value) >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.1e}"


def table(rows: list[Row]) -> str:
    """Rows as a table of Markdown, whose columns are aligned."""
    cells = [HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # Markdown needs a rule below the headings
    cells.insert(1, tuple("-" * width for width in widths))
    lines = []
    for line in cells:
        padded = []
        for cell, width in zip(line, widths, strict=True):
            padded.append(cell.ljust(width))
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    shares = [_share(value) for value in (row.product, row.copy)]
    return (
        row.name,
        row.dtype,
        row.unit,
        *map(number, (row.xinv, row.torch, row.compiled, row.ratio)),
        *shares,
        *map(number, (row.mib, row.compile)),
        row.note,
    )


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}"
