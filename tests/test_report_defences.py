"""Defended arms in the report: what is compared with what, the share that a defence closes,
diagrams, and sweeps.
"""

import json

import numpy as np
import pytest
import scipy.stats
from html_page import Page
from work_unit import DEFENDED, DISTORTION, PUBLISHED, SSIM, describe, make_factors, make_unit

from xinv import report
from xinv.metrics.stats import mean_interval
from xinv.report import defences, folder, plots, sweep, tradeoffs
from xinv.report.cells import number
from xinv.report.headline import defended, headline
from xinv.report.summary import colours, summarise

GRADIENT, GNIME = "flatten_unet(gradient)", "flatten_unet(gradient)@gnime"


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    return make_unit(tmp_path_factory.mktemp("report") / "unit", DEFENDED, factors=True, examples=2)


@pytest.fixture(scope="module")
def page(unit):
    return Page(report.render(unit).read_text())


def interval(values, digits):
    half = scipy.stats.t.ppf(0.95, len(values) - 1) * scipy.stats.sem(values)
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def shares(arm):
    """Percent of the way from the undefended arm to predictions alone, seed by seed."""
    pairs = zip(SSIM[GRADIENT], DEFENDED[arm], SSIM["prediction"], strict=True)
    return [100 * (undefended - value) / (undefended - alone) for undefended, value, alone in pairs]


def summary(path):
    return summarise(folder.read(path).units[0])


def test_best_defence_and_its_distance(unit, page):
    """The best defence is named with the distance that it closes."""
    said = (
        f"The best defence, gnime, brings that to {interval(DEFENDED[GNIME], 3)},"
        f" {interval(shares(GNIME), 0)}%"
    )
    assert f"{said} of the way to predictions alone." in page.text
    assert said in " ".join(report.table(unit).split())


def test_cost_beside_leak(unit, page):
    """The table has what a defence costs beside what leaks."""
    group = defences.groups(summary(unit))[0]
    assert group.names == ("no defence", "rnd", "ond", "gnime")
    assert [arm.name for arm in group.arms] == [
        GRADIENT,
        *(f"{GRADIENT}@{name}" for name in DISTORTION),
    ]
    for name, values in DISTORTION.items():
        assert group.arms[group.names.index(name)].release["distortion"].text == interval(values, 4)
        assert interval(values, 4) in report.table(unit)
    assert [arm.cells["ssim"].against for arm in group.arms] == [None, "overlap", "less", "less"]
    assert "Distance closed" in page.text
    assert page.text.count("no defence") >= 2  # one row per explanation that is defended


@pytest.mark.parametrize(
    ("gnime", "sentence"),
    [
        (
            (0.71, 0.70, 0.69),
            "No defence is known to help: under the best, gnime, it is 0.700 ± 0.017, and the",
        ),
        ((0.81, 0.82, 0.80), "No defence helps: under the best, gnime, it is 0.810 ± 0.017."),
        (
            (0.30, 0.31, 0.30),
            (
                "brings that to 0.303 ± 0.010, which leaves the attacker no better off than"
                " predictions"
            ),
        ),
    ],
)
def test_praise_within_intervals(tmp_path, gnime, sentence):
    """Defences are praised no more than the intervals allow."""
    arms = SSIM | {GNIME: gnime}
    assert sentence in defended(summary(make_unit(tmp_path / "unit", arms, examples=1)))


def test_best_defence_certainly_helps(tmp_path):
    """The best defence is one that is known to help.

    And not one of a lesser mean, but with an interval as wide as what it does.
    """
    arms = SSIM | {GNIME: (0.2, 0.8, 0.4), f"{GRADIENT}@ond": (0.6, 0.61, 0.6)}
    assert defended(summary(make_unit(tmp_path / "unit", arms, examples=1))).startswith(
        "The best defence, ond, brings"
    )


def test_one_seed(tmp_path):
    """One seed gives no verdict on a defence."""
    arms = SSIM | {GNIME: (0.5,)}
    found = summary(make_unit(tmp_path / "unit", arms, seeds=1, examples=1))
    assert defended(found) == "Under the best defence, gnime, it is 0.500."
    assert defences.groups(found)[0].closed == (None, None)


def test_defended_predictions(tmp_path):
    """A defence of predictions is no baseline."""
    arms = {
        "prediction": (0.4, 0.41, 0.4),
        "none@rnd": (0.3, 0.31, 0.3),
        "fredrikson": (0.2, 0.21, 0.2),
    }
    found = summary(make_unit(tmp_path / "unit", arms, examples=1))
    assert found.baseline.name == "prediction"
    assert [arm.label for arm in found.arms] == [
        "predictions alone",
        "predictions alone with rnd",
        "fredrikson",
    ]
    said = (
        "Of 3 attacks, predictions alone can rebuild inputs best on average: SSIM 0.403 ± 0.010;"
        " the least successful"
    )
    assert headline(found).startswith(said)


def with_rows(unit, changes):
    """The unit with other fields in the rows of some arms."""
    rows = [json.loads(line) for line in (unit / "rows.jsonl").read_text().splitlines()]
    changed = [row | changes.get(row["arm"], {}) for row in rows]
    (unit / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    return summary(unit)


def test_averaging_attackers(tmp_path):
    """Attackers who average queries weaken their defence.

    A defence is as good as its most successful attack says; attacks of another kind are not
    compared.
    """
    more, other = f"{GRADIENT}@ond", f"{GRADIENT}@rnd"
    arms = SSIM | {GNIME: (0.5, 0.51, 0.5), more: (0.69, 0.7, 0.69), other: (0.6, 0.61, 0.6)}
    unit = make_unit(tmp_path / "unit", arms, examples=1)
    found = with_rows(unit, {more: dict(defence="gnime", queries=16)})
    assert defended(found).startswith("The best defence, rnd, brings that to 0.603")
    labels = {a.name: a.label for a in found.arms}
    assert (labels[GNIME], labels[more]) == (
        "gradient with gnime",
        "gradient with gnime (averages 16)",
    )
    (group,) = defences.groups(found)
    assert sorted(group.names) == ["gnime", "gnime (averages 16)", "no defence", "rnd"]
    apart = with_rows(unit, {other: dict(attack="another")})
    assert [group.title for group in defences.groups(apart)] == ["gradient", "gradient"]


def test_order_of_numbered_names(tmp_path, monkeypatch):
    """Names that differ in a number go by its value."""
    names = ("rnd16", "rnd4", "clip")
    for name in names:
        monkeypatch.setitem(DISTORTION, name, DISTORTION["rnd"])
    arms = SSIM | {f"{GRADIENT}@{name}": (0.5, 0.51, 0.5) for name in names}
    found = summary(make_unit(tmp_path / "unit", arms, examples=1))
    assert [arm.defence for arm in found.arms if arm.defence] == ["rnd4", "rnd16", "clip"]


def test_colours_of_defended_arms(unit):
    """Defended arms share the colour of the undefended one."""
    found = colours([summary(unit)])
    assert found["prediction"] == "c0"
    assert found[GNIME] == found[GRADIENT]
    assert len(set(found.values())) == 4  # grey, and one per explanation


def test_diagrams_place_every_arm(page):
    """Diagrams place every arm and the bound."""
    panels = page.all("svg", **{"aria-label": "SSIM by "})
    assert [p["aria-label"] for p in panels][:2] == [
        "SSIM by Distortion, MSE",
        "SSIM by Masked DeePSiM",
    ]
    points = [
        plots.Point("c1", "■", mean_interval((x, x + 0.1)), mean_interval((y, y + 0.1)))
        for x, y in ((1, 2), (3, 4))
    ]
    svg = plots.tradeoff([points], [mean_interval((1.5, 1.6))], "x", "y")
    assert svg.count("translate(") == 2  # marks
    assert svg.count("var(--c0)") >= 2  # the bound's line and band
    assert "<use" not in svg
    Page(svg)


def test_histograms_of_distortions(page):
    """Histograms state mean and quantile of the stored distortions."""
    values = make_factors(DEFENDED)[f"distortion/{GNIME}"]
    assert (
        f"gradient with gnime: mean {values.mean():.4f}, 95% below {np.quantile(values, 0.95):.4f}"
        in page.text
    )
    assert len(page.all("svg", **{"aria-label": "images by distortion"})) == 6


def test_pictures_of_every_defence(unit, page):
    """Pictures show release and reconstruction of every defence."""
    for name in DISTORTION:
        assert len(page.all("img", alt=f"Released: gradient with {name}")) == 2
        assert len(page.all("img", alt=f"Reconstruction from gradient with {name}")) == 2
    stored = np.load(unit / "examples.npz")
    assert number(float(stored[f"ssim/{GNIME}"][0]), 2) in page.text


def make_sweep(path):
    for place, lam in enumerate((10.0, 100.0, 1000.0)):
        arms = SSIM | {GNIME: tuple(value - 0.05 * place for value in (0.6, 0.61, 0.6))}
        settings = dict(gnime=dict(name="gnime", lam=lam))
        folder = path / "units" / f"{place:04d}"
        make_unit(
            folder, arms, f"lam-{lam:g}", examples=1, defences=settings, factor=2 - 0.5 * place
        )
    return path


def test_units_over_a_number(tmp_path):
    """Units that differ in one number are drawn over it."""
    page = Page(report.render(make_sweep(tmp_path)).read_text())
    assert "By defences.gnime.lam" in page.text
    assert page.all("svg", **{"aria-label": "SSIM by defences.gnime.lam"})
    assert page.all("svg", **{"aria-label": "target accuracy by defences.gnime.lam"})
    assert (
        len(page.all("svg", **{"aria-label": "SSIM by Distortion"})) == 1 + 3
    )  # the sweep's, and each unit's


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ([{"a": "1"}, {"a": "2"}], [("a", [0, 1], [1, 2])]),
        (
            [{"a": "1", "b": "1"}, {"a": "2", "b": "2"}],
            [("a", [0, 1], [1, 2])],
        ),  # they change together
        (
            [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}],
            [("a", [0, 1], [1, 2])],
        ),
        ([{"a": "x"}, {"a": "y"}], []),
        ([{"a": "true"}, {"a": "false"}], []),
        ([{"a": "1", "b": "3"}, {"a": "2", "b": "4"}], []),
        (
            [{"a": "1", "report.published": "[]"}, {"a": "2", "report.published": "[1]"}],
            [("a", [0, 1], [1, 2])],
        ),
    ],
)
def test_axes(changes, axes):
    assert [tuple(axis) for axis in sweep.axes(changes)] == axes


def test_bounded_beside_unbounded_defence(tmp_path):
    """A bounded defence is drawn with the one whose state it applies.

    As a mark of its kind, joined with it.
    """
    settings = dict(
        gnime=dict(name="gnime"), ond=dict(reuse_state_of="gnime"), rnd=dict(name="gaussian")
    )
    unit = folder.read(make_unit(tmp_path / "unit", DEFENDED, examples=1, defences=settings)).units[
        0
    ]
    diagrams = tradeoffs.tradeoffs([unit], [summarise(unit)], colours([summarise(unit)]))
    assert [label for _, label in diagrams.marks] == ["no defence", "gaussian", "gnime"]


def test_curves_of_defences(tmp_path, monkeypatch):
    """A curve is of one unit's defences, or of one defence over units.

    γ in a unit, λ through the units: two lines, not one.
    """
    drawn = []
    monkeypatch.setattr(tradeoffs.plots, "tradeoff", lambda series, *rest: drawn.append(series))
    monkeypatch.setitem(DISTORTION, "tight", (0.001, 0.0011, 0.001))
    bounded = DEFENDED | {f"{GRADIENT}@tight": (0.6, 0.61, 0.6)}
    for place, arms in enumerate((bounded, DEFENDED, DEFENDED)):
        gnime = dict(name="gnime", lam=10.0**place)
        settings = dict(
            gnime=gnime,
            tight=dict(reuse_state_of="gnime"),
            rnd=dict(name="gaussian"),
            ond=dict(name="pgd"),
        )
        folder_ = tmp_path / "units" / f"{place:04d}"
        make_unit(
            folder_, arms, f"unit {place}", examples=1, defences=settings, factor=1 + 0.1 * place
        )
    units = folder.read(tmp_path).units
    summaries = [summarise(unit) for unit in units]
    tradeoffs.tradeoffs(units, summaries, colours(summaries))
    marks = plots.marks([(), ("gaussian",), ("pgd",), ("gnime",)], none=())
    mine = [len(points) for points in drawn[0] if {p.mark for p in points} == {marks[("gnime",)]}]
    assert sorted(mine) == [2, 2, 3]  # the first unit's two; both explanations' over the units


def test_diverged_defence(tmp_path):
    """A defence that diverged is not praised without saying so."""
    path = make_unit(tmp_path / "unit", DEFENDED, examples=1)
    with (path / "rows.jsonl").open("a") as file:
        for seed in range(3):
            row = dict(
                unit="digits", seed=seed, stage="defence", arm=GNIME, metric="diverged"
            ) | describe(GNIME)
            row |= dict(value=float(seed == 1), low=None, high=None, p=None, examples=1)
            file.write(json.dumps(row) + "\n")
    assert "The best defence, gnime (whose training diverged in 1 of 3 seeds), brings" in defended(
        summary(path)
    )
    assert "0.33 ±" in report.table(path)


def test_attackers_out_of_distribution(tmp_path):
    """Attackers out of distribution are not joined with others."""
    for place, roles in enumerate(("attack_train", "auxiliary", "attack_train")):
        path = make_unit(
            tmp_path / "units" / f"{place:04d}", DEFENDED, name=f"unit {place}", examples=1
        )
        with_rows(path, {name: dict(roles=roles) for name in DEFENDED})
    units = folder.read(tmp_path).units
    assert sweep.defended_alike(units, [{} for _ in units]) == [0, 2]


def test_objectives_of_adversaries(tmp_path):
    """An adversarial training is drawn by the objective of each network."""
    unit = make_unit(tmp_path / "unit", examples=1)
    line = dict(seed=0, stage="defence", arm="gnime(gradient)", validation_loss=None)
    rounds = [
        line | dict(epoch=epoch, loss=-3.0 / epoch, distortion=0.3 / epoch) for epoch in (1, 2, 3)
    ]
    with (unit / "curves.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in rounds)
    page = Page(report.render(unit).read_text())
    assert "defence: gnime(gradient), distortion" in page.text


def test_published_figures_of_sweep(tmp_path):
    """Published figures of a sweep are joined."""
    for place, name in enumerate(("one", "two")):
        make_unit(
            tmp_path / "units" / f"{place:04d}",
            name=name,
            examples=1,
            published=PUBLISHED[:1],
            width=place + 1.0,
        )
    page = Page(report.render(tmp_path).read_text())
    assert page.text.count("Table 1: measured beside published") == 1
    assert "one: predictions alone, SSIM" in report.table(tmp_path)
