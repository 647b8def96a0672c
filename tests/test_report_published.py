"""What papers state beside what was measured: the joined figures, their verdicts, and entries that
cannot be read.
"""

import json

import numpy as np
import pytest
from html_page import Page
from work_unit import METRICS, PUBLISHED, SSIM, make_unit

from xinv import report
from xinv.report import folder, published
from xinv.report.summary import summarise
from xinv.types import InputError

GRADIENT = "flatten_unet(gradient)"


def entry(value, spread=None, arm=GRADIENT, metric="ssim", **more):
    return dict(arm=arm, metric=metric, value=value, spread=spread, source="Table 1", **more)


def lines(path, entries):
    units = folder.read(make_unit(path / "unit", published=entries, examples=1)).units
    found = published.tables(units, [summarise(unit) for unit in units])
    return [line for table in found for group in table.groups for line in group]


def test_published_beside_measured(tmp_path):
    """Published figures stand beside measured ones."""
    unit = make_unit(tmp_path / "unit", published=PUBLISHED, examples=1)
    page, table = Page(report.render(unit).read_text()), report.table(unit)
    measured = np.mean([METRICS["ssim"](value) for value in SSIM[GRADIENT]])
    assert "Table 1: measured beside published 2 of 3 measured figures are within" in page.text
    assert "Table II: measured beside published 0 of 1 measured figures are within" in page.text
    for text in (
        "0.9065",
        f"{measured:.4f}",
        f"−{0.9065 - measured:.4f}",
        f"−{100 * (0.9065 - measured) / 0.9065:.1f}%",
    ):
        assert text in page.text
        assert text in table
    assert "0.4412 ± 0.0030" in page.text
    assert "flatten unet(lrp) SSIM 0.9767 – not measured" in page.text
    assert page.text.count("within") >= 2


@pytest.mark.parametrize(
    ("value", "spread", "measured", "same"),
    [
        (0.5, None, 0.5249, True),
        (0.5, None, 0.53, False),
        (0.5, 0.02, 0.5399, True),
        (0.5, 0.02, 0.541, False),
        (0.5, 0.001, 0.52, True),
        (-2.0, None, -2.099, True),
        (0.0, None, 0.001, False),
        (0.0, 0.001, 0.002, True),
    ],
)
def test_width_of_agreement(value, spread, measured, same):
    """A figure agrees within the larger of two deviations and five per cent."""
    assert published.within(measured, value, spread) is same


def test_verdicts(tmp_path):
    mean = np.mean(SSIM[GRADIENT])
    found = lines(
        tmp_path,
        [
            entry(mean / 1.2),
            entry(mean / 1.04),
            entry(0.0),
            entry(0.5, arm="target", metric="accuracy"),
            entry(0.5, metric="lpips"),
        ],
    )
    assert [line.verdict for line in found] == [
        "+20.0%",
        "within",
        f"+{mean:.4f}",
        "not measured",
        "+92.0%",
    ]
    assert found[3].measured is None
    assert found[4].arm == "target"  # an arm's figures stand together


def test_published_decimals(tmp_path):
    """Figures are shown with the published decimals."""
    assert [line.published for line in lines(tmp_path, [entry(0.25, 0.0031), entry(0.9065)])] == [
        "0.2500 ± 0.0031",
        "0.9065",
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "no list",
            r"config\.json has report\.published = 'no list': a list of objects is allowed",
        ),
        (
            [{"arm": "prediction"}],
            r"report\.published\[0\] has no 'metric': it needs arm, metric, value, spread, source",
        ),
        ([entry("high")], r"report\.published\[0\] has value = 'high': int or float is allowed"),
        ([entry(0.5), 7], r"report\.published\[1\] has no 'arm'"),
    ],
)
def test_entries_that_cannot_be_read(tmp_path, entries, message):
    unit = make_unit(tmp_path / "unit", examples=1)
    config = json.loads((unit / "config.json").read_text())
    (unit / "config.json").write_text(json.dumps(config | dict(report=dict(published=entries))))
    with pytest.raises(InputError, match=message):
        report.table(unit)
