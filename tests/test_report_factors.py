"""What the report shows beside attacks: factors of an image, confusion matrices, grids of pictures,
and their files.
"""

import numpy as np
import pytest
import sklearn.metrics
from html_page import Page
from work_unit import DEFENDED, SSIM, make_confusion, make_examples, make_factors, make_unit

from xinv import report
from xinv.report import confusion, folder, grids, pictures, trends
from xinv.report.summary import summarise
from xinv.types import InputError


def read(path):
    unit = folder.read(path).units[0]
    return unit, summarise(unit)


def test_factors_against_metrics(tmp_path):
    """Every factor is drawn against every kept metric."""
    unit = make_unit(tmp_path / "unit", DEFENDED, factors=True, examples=1)
    page = Page(report.render(unit).read_text())
    for factor in ("relevance", "typicalness", "target accuracy"):
        for metric in ("SSIM", "Attack accuracy"):
            assert len(page.all("svg", **{"aria-label": f"{metric} by {factor}"})) == 1


def test_dots_are_group_means():
    """Dots are means of equally large groups."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.normal(size=40)
    order = np.argsort(x).reshape(10, 4)
    np.testing.assert_allclose(trends.binned(x, y), (x[order].mean(axis=1), y[order].mean(axis=1)))
    right = np.array([1.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(trends.binned(right, np.arange(4.0)), ([0, 1], [1, (0 + 2 + 3) / 3]))


def test_constant_factors_left_out(tmp_path):
    """Factors that do not vary are left out."""
    unit = make_unit(tmp_path / "unit", examples=1)
    arrays = make_factors(SSIM)
    arrays["relevance"][:] = 0.5
    arrays["typicalness"][3] = np.nan  # an image without it is left out, not the factor
    np.savez(unit / "factors.npz", **arrays)
    found = trends.factors(*read(unit), dict.fromkeys(SSIM, "c1"))
    assert [panel.title for panel in found.panels] == [
        f"{metric} by {factor}"
        for factor in ("typicalness", "target accuracy")
        for metric in ("SSIM", "Attack accuracy")
    ]


@pytest.mark.parametrize("classes", [10, 40])
def test_confusions_state_accuracy_and_f1(tmp_path, classes):
    names = [f"class {number}" for number in range(classes)]
    unit = make_unit(tmp_path / "unit", examples=1, confusion=classes, classes=names)
    counts = make_confusion(classes)
    truth, guess = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    found = confusion.confusions(read(unit)[0])[0]
    assert found.title == "target"
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    assert found.weighted_f1 == pytest.approx(
        sklearn.metrics.f1_score(truth, guess, average="weighted")
    )
    wrong = counts * (1 - np.eye(classes, dtype=int))
    assert f"({wrong.max()} times)" in found.confused[0]
    assert (found.counts is None) == (classes == 40) == (found.picture is not None)
    page = Page(report.render(unit).read_text())
    assert (
        f"target : accuracy {found.accuracy:.3f}, weighted F1 {found.weighted_f1:.3f}" in page.text
    )


def test_grids_fit_the_page(tmp_path):
    """Grids hold a page width of columns and lose none."""
    arms = {"prediction": (0.4, 0.4, 0.4)}
    arms |= {
        f"{inputs}({name})": (0.5, 0.5, 0.5)
        for name in ("gradient", "gradcam")
        for inputs in "abcdefghijkl"
    }
    found = grids.grids(*read(make_unit(tmp_path / "unit", arms, examples=1)))
    columns = [
        [column.heading for strip in grid.strips for column in strip.columns] for grid in found
    ]
    assert max(map(len, columns)) == 10
    expected = ["rebuilt", *2 * ["explanation", *"abcdefghijkl"]]
    assert [heading for row in columns for heading in row] == expected


def test_one_grid_per_defended_explanation(tmp_path):
    unit, summary = read(make_unit(tmp_path / "unit", DEFENDED, examples=1))
    found = grids.grids(unit, summary)
    assert [grid.title for grid in found] == ["", "gradient", "input x gradient"]
    assert [strip.title for strip in found[1].strips] == ["no defence", "rnd", "ond", "gnime"]
    headings = [[column.heading for column in strip.columns] for strip in found[1].strips]
    assert headings == [["explanation", "rebuilt"], *3 * [["released", "rebuilt"]]]
    stored = make_examples(DEFENDED, 1)
    released = pictures.heatmaps(stored["release/flatten_unet(gradient)@gnime"], signed=False)
    assert found[1].strips[3].columns[0].pictures == released


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda unit: (unit / "factors.npz").write_bytes(b"PK"), "factors.npz is damaged"),
        (
            lambda unit: np.savez(
                unit / "factors.npz", relevance=np.zeros(3), typicalness=np.zeros(4)
            ),
            r"factors.npz has 'typicalness' of shape \(4,\): all need one dimension and one length",
        ),
        (
            lambda unit: np.savez(unit / "factors.npz", relevance=np.zeros((3, 2))),
            r"'relevance' of shape \(3, 2\)",
        ),
        (
            lambda unit: np.savez(
                unit / "examples.npz", **make_examples(SSIM, 2), **{"confusion/a": np.zeros((2, 3))}
            ),
            r"examples.npz has 'confusion/a' of shape \(2, 3\): a square is allowed",
        ),
        (
            lambda unit: np.savez(
                unit / "examples.npz",
                **make_examples(SSIM, 2),
                **{"release/a": np.zeros((3, 4, 4, 1))},
            ),
            "examples.npz has 3 of 'release/a' for 2 images",
        ),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    """Damaged files are named in one sentence."""
    unit = make_unit(tmp_path / "unit", examples=2)
    damage(unit)
    with pytest.raises(InputError, match=message) as error:
        report.table(unit)
    assert "\n" not in str(error.value)
