"""A workdir's tables as Markdown."""

import re

from launched import launch
from work_unit import DEFENDED, PUBLISHED, SSIM, make_scores, make_unit

from xinv import report


def rows(text):
    """The tables of Markdown as lists of rows; every row has the cells of its heading."""
    tables = []
    for block in re.findall(r"(?m)(?:^\|.*\|\n?)+", text):
        cells = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in block.splitlines()]
        assert len({len(row) for row in cells}) == 1
        assert set("".join(cells.pop(1))) <= set("-:")
        tables.append(cells)
    return tables


def test_tables(tmp_path):
    """Figures are those of the terminal, arm by arm; published ones stand beside them."""
    unit = make_unit(tmp_path / "unit", published=PUBLISHED, examples=1)
    table = report.table(unit, width=1000)
    attacks, first, second = rows(report.markdown(unit))
    assert len(attacks) == 1 + len(SSIM)
    for row in attacks:
        assert re.search(r"\s+".join(map(re.escape, row)), table)
    assert first[0] == ["Table 1", "published", "measured", "difference", "verdict"]
    assert second[1][:2] == ["target, Accuracy", "0.900 ± 0.010"]


def test_defences_and_membership(tmp_path):
    """Each kind of table has every one of its arms."""
    unit = make_unit(tmp_path / "unit", DEFENDED, scores=make_scores(), examples=1)
    attacks, league, released = rows(report.markdown(unit))
    assert len(attacks) == 1 + len(DEFENDED)
    assert league[0][:3] == ["attacker sees", "verdict", "AUC"]
    assert released[0][0] == "released"
    assert released[0][-1] == "distance closed"
    assert len(released) == 1 + sum("@" in name for name in DEFENDED)


def test_signs_are_escaped(tmp_path):
    """A name of a unit is text, whatever signs it has."""
    unit = make_unit(tmp_path / "unit", examples=1, name="a|b_*c*")
    assert report.markdown(unit).startswith("### a\\|b\\_\\*c\\*\n")


def test_launcher(tmp_path):
    """It prints the Markdown alone, so that it can be written to a page."""
    unit = make_unit(tmp_path / "unit", examples=1)
    result = launch("report.py", f"--workdir={unit}", "--markdown")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == report.markdown(unit)
    assert not (unit / "report.html").exists()
