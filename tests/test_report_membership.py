"""The membership part of a report: verdicts, the league, ROC curves, causes and the sentence."""

import json

import numpy as np
import pytest
import scipy.stats
from html_page import Page
from work_unit import SSIM, make_scores, make_unit

from xinv import report
from xinv.metrics import roc as rates
from xinv.report import causes, folder, privacy, roc, verdict
from xinv.report.headline import headline
from xinv.report.summary import summarise
from xinv.types import InputError

PRIOR = "precision_at_prior_0.01"
LEAKING = {"saliency": (1.0, 0.0, 0.0)}


def read(path, shifts, seeds=1, ssim=None, **sizes):
    """A unit of these membership attacks, and its summary."""
    scores = make_scores(shifts, seeds, **sizes)
    unit = folder.read(
        make_unit(path / "unit", ssim or {}, seeds=seeds, examples=1, scores=scores)
    ).units[0]
    return unit, summarise(unit)


def render(unit):
    return Page(report.render(unit.path).read_text())


def rows_of(unit):
    return [json.loads(line) for line in (unit.path / "rows.jsonl").read_text().splitlines()]


def rewrite(unit, rows):
    (unit.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("shifts", "sizes", "verdict", "sentence"),
    [
        (
            (1.0, 0.0, 0.0),
            (1200, 1000),
            "leaks",
            "Explanations by saliency tell training images from others (AUC 0.7",
        ),
        (
            (1.0, 1.0, 0.0),
            (1200, 1000),
            "confounded",
            "No leak is shown: saliency can tell training images from others",
        ),
        (
            (1.0, 0.0, 1.0),
            (1200, 1000),
            "confounded",
            "but so can its control, so nothing shows that the model",
        ),
        (
            (1.0, None, None),
            (1200, 1000),
            "no control",
            "but has no control, so nothing tells a leak of the model",
        ),
        ((0.0, 0.0, 0.0), (1200, 1000), "not found", "and more than 0.55 is excluded."),
        ((0.0, 0.0, 0.0), (60, 60), "unresolved", "but 0.55 is not excluded."),
    ],
)
def test_verdicts(tmp_path, shifts, sizes, verdict, sentence):
    """Follow from the attack and its controls; what a control shows too never "leaks"."""
    unit, summary = read(tmp_path, {"saliency": shifts}, members=sizes[0], others=sizes[1])
    entry = summary.league.entries[0]
    assert entry.verdict == verdict
    assert sentence in headline(summary)
    assert ("Explanations by" in headline(summary)) == (verdict == "leaks")
    assert verdict in report.table(unit.path)
    assert f"{verdict} {entry.why}".strip() in render(unit).text


def test_p_over_seeds():
    """One seed's value; else twice the median, at most 1."""
    assert verdict.combined([0.03]) == 0.03
    assert verdict.combined([0.01, 0.5, 0.02]) == 0.04
    assert verdict.combined([0.6, 0.9]) == 1.0


def test_holm_over_attacks(tmp_path):
    """A p-value of 0.02 is significant alone, but not as the smallest of three; controls are
    counted apart.
    """
    names = ("saliency", "gradcam", "lime")
    unit, _ = read(tmp_path, dict.fromkeys(names, (0.0, 0.0, 0.0)))
    planted = {"saliency": 0.02, "gradcam": 0.3, "lime": 0.4, "saliency stranger": 0.01}
    rows = [
        row | {"p": planted.get(row["arm"], 0.5) if row["metric"] == "auc" else None}
        for row in rows_of(unit)
    ]
    rewrite(unit, rows)
    found = {
        entry.name: entry for entry in summarise(folder.read(unit.path).units[0]).league.entries
    }
    assert [found[name].p for name in names] == pytest.approx([0.06, 0.6, 0.6])
    assert found["saliency"].verdict != "leaks"
    stranger = next(
        control for control in found["saliency"].controls if control.model == "stranger"
    )
    assert stranger.p == pytest.approx(2 * 0.01)  # of its attack's two controls
    # Alone it is significant
    rewrite(unit, [row for row in rows if not row["arm"].startswith(("gradcam", "lime"))])
    entry = summarise(folder.read(unit.path).units[0]).league.entries[0]
    assert (entry.p, entry.verdict) == (0.02, "confounded")


def test_league_figures(tmp_path):
    """Sorted by AUC; intervals are the seeds', averaged, and Student's over seeds."""
    unit, summary = read(tmp_path, {"gradcam": (0.3, 0.0, 0.0), **LEAKING}, seeds=3)
    first = summary.league.entries[0]
    assert [entry.name for entry in summary.league.entries] == ["saliency", "gradcam"]
    mine = [row for row in rows_of(unit) if (row["arm"], row["metric"]) == ("saliency", "auc")]
    values = [row["value"] for row in mine]
    assert first.auc.low == pytest.approx(np.mean([row["low"] for row in mine]))
    assert first.auc.high == pytest.approx(np.mean([row["high"] for row in mine]))
    half = scipy.stats.t.ppf(0.95, 2) * scipy.stats.sem(values)
    assert first.text == f"{np.mean(values):.3f} ± {half:.3f}"
    text = render(unit).text
    assert f"{first.text} {first.auc.ends}" in text
    # What a real attacker has: rates at the shadow's threshold, and what a member is worth at a
    # prior
    (mine,) = [
        row
        for row in rows_of(unit)
        if (row["arm"], row["seed"], row["metric"]) == ("saliency", 0, PRIOR)
    ]
    assert first.carried[PRIOR].values[0] == mine["value"]
    assert f"{first.carried[PRIOR].text} {first.carried[PRIOR].ends}" in text
    assert "Precision at a prior of 1%" in text
    assert [control.model for control in first.controls] == ["untrained", "stranger"]
    for control in first.controls:
        assert f"{control.auc.text} {control.auc.ends}" in text
        assert control.auc.text in report.table(unit.path)


def test_unresolved_rates(tmp_path):
    """With 1,000 others 1 % is resolved; 0.1 % stands with the interval of the true rate, of
    Beta(2, 999).
    """
    unit, summary = read(tmp_path, LEAKING)
    rate = summary.league.entries[0].rates
    assert (rate["tpr_at_0.001"].resolved, rate["tpr_at_0.01"].resolved) == (False, True)
    low, high = scipy.stats.beta(2, 999).ppf([0.025, 0.975])
    assert summary.league.unresolved == [("0.1%", f"{100 * low:.2g}% to {100 * high:.2g}%")]
    page = render(unit)
    assert len(page.all("td", **{"class": "open"})) == 1
    assert (
        f"at 0.1% the true rate of false positives lies within {100 * low:.2g}% to"
        f" {100 * high:.2g}%." in page.text
    )
    assert f"{rate['tpr_at_0.001'].tpr.text}?" in report.table(unit.path)


def test_curves_are_the_scores(tmp_path):
    """Each drawn point is the last operating point at most at its rate."""
    unit, summary = read(tmp_path, LEAKING)
    line = roc._curve(unit, 0, "saliency", "c1", thin=False)
    score, member = (unit.members[f"0/saliency/{kind}"] for kind in ("score", "member"))
    for fpr, tpr in zip(line.fpr[1:-1], line.tpr[1:-1], strict=True):
        point = rates.point(rates.ranked(member, score), fpr)
        assert (point.allowed, point.true) == (round(fpr * 1000), round(tpr * 1200))
    assert (line.fpr[0], line.tpr[-1]) == (0, 1)
    drawn = roc.diagram(unit, summary.league)
    assert (drawn.members, drawn.others, drawn.controls, drawn.unresolved) == (1200, 1000, 2, "1%")
    assert "var(--c1)" in drawn.svg
    assert (
        len(render(unit).all("svg", **{"aria-label": "true-positive rate by false-positive rate"}))
        == 1
    )


def test_curves_of_many_attacks(tmp_path):
    """Six are drawn, with their controls, and the others are in the table alone."""
    shifts = {f"method_{number}": (0.2 * number, 0.0, 0.0) for number in range(8)}
    unit, summary = read(tmp_path, shifts, seeds=2, members=120, others=100)
    drawn = roc.diagram(unit, summary.league)
    assert list(drawn.colours) == [entry.name for entry in summary.league.entries[:6]]
    assert (drawn.total, drawn.controls) == (8, 12)
    page = render(unit)
    assert "The 6 highest of 8 attacks in seed 0, other seeds thin" in page.text
    assert len((unit.path / "report.html").read_text()) < 600_000


def test_pure_membership(tmp_path):
    """Without an attack that rebuilds images there is no empty section of such."""
    unit, summary = read(tmp_path, LEAKING, seeds=2)
    assert (summary.arms, summary.metrics) == ((), ())
    text = render(unit).text
    for title in (
        "What the attacker recovers",
        "Reconstructions",
        "Defences",
        "This run attacked no explanation",
    ):
        assert title not in text
    order = [
        text.index(title)
        for title in ("Who was in", "ROC curves", "What may make", "The classifiers")
    ]
    assert order == sorted(order)
    assert "SSIM" not in report.table(unit.path)


def test_both_goals(tmp_path):
    """One page states both leaks, and no membership arm is among the others."""
    unit, summary = read(tmp_path, LEAKING, seeds=3, ssim=SSIM)
    assert {arm.name for arm in summary.arms} == set(SSIM)
    assert "auc" not in summary.metrics
    page, table = render(unit), report.table(unit.path)
    for text in (page.text, " ".join(table.split())):
        assert (
            "Releasing gradient explanations lets an attacker rebuild inputs at SSIM 0.707" in text
        )
        assert "Explanations by saliency tell training images from others (AUC" in text
    assert "What the attacker recovers" in page.text
    assert "Who was in the training set" in page.text


def test_one_seed(tmp_path):
    """The interval within the seed counts, so that a leak is no chance for want of seeds."""
    unit, summary = read(tmp_path, LEAKING, seeds=1)
    entry = summary.league.entries[0]
    assert entry.spread.half == ""
    assert f"(AUC {entry.auc.text} [{entry.auc.ends}]); neither control does." in headline(summary)
    assert "±" not in render(unit).text


def test_sentence_counts(tmp_path):
    """The verdicts of all attacks, and the controls that leak."""
    shifts = {
        "saliency": (1.0, 0.0, 0.0),
        "gradcam": (0.8, 0.0, 0.0),
        "lime": (0.9, 0.9, 0.0),
        "occlusion": (0.0, 0.0, 0.0),
    }
    _, summary = read(tmp_path, shifts)
    assert headline(summary).startswith(
        "Explanations by saliency and gradcam tell training images from others (best: "
    )
    end = "; of 4 explainers 2 leak, 1 confounded, 1 not found); a control of 1 other does so too."
    assert headline(summary).endswith(end)


def test_sentence_of_predictions(tmp_path):
    """Predictions that leak are not called explanations, and the best explanation is not theirs."""
    unit, _ = read(tmp_path, {"saliency": (0.7, 0.0, 0.0), "confidence": (1.0, 0.0, 0.0)})

    def said(unit):
        return headline(summarise(folder.read(unit.path).units[0]))

    rows = rows_of(unit)
    rows = [
        row | {"explainer": None} if str(row["arm"]).startswith("confidence") else row
        for row in rows
    ]
    rewrite(unit, rows)
    entries = {
        entry.name: entry for entry in summarise(folder.read(unit.path).units[0]).league.entries
    }
    assert said(unit).startswith(
        f"Explanations by saliency tell training images from others (AUC {entries['saliency'].text}"
    )
    # Without the leak of explanations
    rewrite(unit, [row | {"p": 0.9} if row["arm"] == "saliency" else row for row in rows])
    start = "Predictions tell training images from others, explanations are not known to (AUC "
    assert said(unit).startswith(start + entries["confidence"].text)


def test_causes(tmp_path):
    """Correlations over at least five explainers are SciPy's."""
    shifts = {f"method_{number}": (1.0 - 0.2 * number, 0.0, 0.0) for number in range(5)}
    unit, summary = read(tmp_path, shifts)
    found = causes.table(unit, summary.league)
    assert [line.label for line in found.lines] == [f"method {number}" for number in range(5)]
    assert [cell.text for cell in found.lines[0].cells] == [
        "0.600",
        "0.500",
        "4.10",
        "4.10",
        "0.00123",
        "0.00456",
        "0.300",
        "0.300",
    ]
    # Gini falls with the AUC; sensitivity is 0.3 and 0.4 by turns; L2 does not vary
    areas = [line.entry.auc.value for line in found.lines]
    rank, p = scipy.stats.spearmanr([0.3, 0.4, 0.3, 0.4, 0.3], areas)
    assert found.correlations[1].startswith("Gini of members minus others: ρ = 1.00, p = ")
    said = f"ρ = {rank:.2f}, p = {p:.2g}, 5 explainers".replace("-", "−")
    assert found.correlations[-2:] == [
        f"Max sensitivity: {said}",
        f"Max sensitivity of members minus others: {said}",
    ]
    assert not any("L2" in sentence for sentence in found.correlations)
    assert "on 99.8% of its training images and on 77.1% of others" in found.target
    assert found.target.endswith("a balanced accuracy of 0.614.")
    assert "Spearman’s correlation" in render(unit).text


def test_causes_of_few(tmp_path):
    """With fewer than five explainers no correlation is stated."""
    unit, summary = read(tmp_path, LEAKING)
    assert causes.table(unit, summary.league).correlations == []
    assert "Spearman" not in render(unit).text


def test_published_by_chance(tmp_path):
    """A published rate within its own band of chance is marked; one above it is not."""
    entry = dict(arm="saliency", metric="tpr_at_0.01", spread=None, source="Table III")
    other = dict(arm="gradcam", value=0.05, band=0.0028, note="of another code")
    published = [entry | dict(value=0.0013, band=0.0028), entry | other]
    scores = make_scores(LEAKING, 1)
    unit = folder.read(
        make_unit(tmp_path / "unit", {}, seeds=1, scores=scores, published=published)
    ).units[0]
    text = render(unit).text
    assert "saliency TPR at 1% FPR 0.0013* " in text
    assert "gradcam TPR at 1% FPR 0.0500 –" in text
    for shown in (text, report.table(unit.path)):
        assert "*: within chance" in shown
        assert "gradcam: of another code" in shown
    config = json.loads((unit.path / "config.json").read_text())
    config["report"]["published"][0]["band"] = "low"
    (unit.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"published\[0\] has band = 'low': int or float or null is allowed"
    ):
        report.table(unit.path)


def test_sweep_of_leagues(tmp_path):
    """Units are compared by AUC."""
    for number in range(2):
        scores = make_scores({"saliency": (0.5 + number, 0.0, 0.0)}, 1)
        make_unit(
            tmp_path / "units" / f"{number}",
            {},
            name=f"unit-{number}",
            seeds=1,
            examples=1,
            scores=scores,
        )
    page = Page(report.render(tmp_path).read_text())
    assert "Across 2 audits an attacker gets furthest in unit-1: AUC 0.8" in page.text
    assert "AUC of membership attacks, by unit" in page.text
    assert page.text.count("Who was in the training set") == 2


@pytest.mark.parametrize(
    ("shifts", "sentence"),
    [
        ({"saliency": (1.0, 0.0, 0.0), "lime": (0.0, 0.0, 0.0)}, "leaks: saliency has AUC 0.7"),
        ({"saliency": (0.0, 0.0, 0.0)}, "is not known to leak, although it must"),
        ({"saliency": (1.0, 1.0, 0.0)}, "is not known to leak, although it must"),
    ],
)
def test_positive_control(tmp_path, shifts, sentence):
    """A sweep says if its positive control leaks, and does not take its leak for the finding."""
    make_unit(
        tmp_path / "units" / "0",
        {},
        name="audit",
        seeds=1,
        examples=1,
        scores=make_scores(LEAKING, 1),
    )
    path = tmp_path / "units" / "1"
    scores = make_scores(shifts | {"gradcam": (2.0, 2.0, 0.0)}, 1)
    make_unit(
        path, {}, name="overfitted", seeds=1, examples=1, scores=scores, positive_control=True
    )
    page = Page(report.render(tmp_path).read_text())
    assert f"The positive control overfitted {sentence}" in page.text
    assert "an attacker gets furthest in audit" in page.text
    assert f"The positive control overfitted {sentence}" in " ".join(report.table(tmp_path).split())
    assert "positive control" not in Page(report.render(tmp_path / "units" / "0").read_text()).text


def test_curves_of_groups(tmp_path):
    """The band of chance, and what is unresolved, count groups as one example each."""
    group = np.concatenate([np.arange(1200) // 10, 1000 + np.arange(1000) // 10])
    scores = make_scores({"saliency": (1.0, 0.0, 0.0)}, 1)
    path = make_unit(tmp_path / "unit", {}, seeds=1, examples=1, scores=scores, group=group)
    unit = folder.read(path).units[0]
    drawn = roc.diagram(unit, summarise(unit).league)
    assert (drawn.members, drawn.others, drawn.independent, drawn.unresolved) == (
        1200,
        1000,
        "120 and 100",
        "10%",
    )
    assert (
        "for 1,200 members and 1,000 others, which come in groups and count as 120 and 100."
        in render(unit).text
    )
    damaged(path, **{"0/saliency/group": None})
    with pytest.raises(InputError, match="has no array '0/saliency/group'"):
        folder.read(path)


def test_restarts_beside_the_mean(tmp_path):
    """The AUC of the single networks of an attack stands in the table, lowest to highest."""
    unit, _ = read(tmp_path, LEAKING)
    rows = rows_of(unit)
    (auc,) = [row for row in rows if (row["arm"], row["metric"]) == ("saliency", "auc")]
    single = dict(metric="auc_of_restarts", value=0.7, low=0.61, high=0.79, p=None)
    rewrite(unit, [*rows, auc | single])
    text = render(unit).text
    assert "single 0.610–0.790" in text
    assert "the lowest and the highest AUC of the networks whose scores an attack averages" in text
    assert "0.610–0.790" in report.table(unit.path)


def test_privacy_of_trainings(tmp_path):
    """Units with noise stand beside the first one without: ε, accuracy, what attacks find."""
    for number, noise in enumerate((None, None, 0.5, 2.0)):
        scores = make_scores({"saliency": (1.0 - 0.3 * number, 0.0, 0.0)}, 1)
        path = make_unit(
            tmp_path / "units" / f"{number}",
            {},
            name=f"unit-{number}",
            seeds=1,
            examples=1,
            scores=scores,
        )
        (unit,) = folder.read(path).units
        target = next(row for row in rows_of(unit) if row["stage"] == "target")
        if noise:
            figures = dict(noise=noise, epsilon=20 / noise, delta=1e-5)
            rewrite(
                unit,
                rows_of(unit)
                + [target | dict(metric=name, value=figures[name]) for name in figures],
            )
    units = folder.read(tmp_path).units
    table = privacy.table(units, [summarise(unit) for unit in units], 0.9)
    assert [(line.unit, line.private) for line in table.lines] == [
        ("unit-0", False),
        ("unit-2", True),
        ("unit-3", True),
    ]
    assert table.columns == ["noise", "epsilon", "accuracy", "generalisation_gap"]
    assert [line.cells[1] and line.cells[1].text for line in table.lines] == [
        None,
        "40.00",
        "10.00",
    ]
    assert [line.entries[1].label for line in table.lines] == ["saliency"] * 3
    bounds = [line.bound.figures["epsilon_lower_bound"].value for line in table.lines]
    assert bounds == sorted(bounds, reverse=True)
    page = render(units[0]._replace(path=tmp_path))
    assert "Privacy of the training" in page.text
    assert "upper bound at δ = 1e-05" in page.text
    assert privacy.table(units[:2], [summarise(unit) for unit in units[:2]], 0.9) is None


def damaged(unit, **changes):
    arrays = dict(np.load(unit / "members.npz"))
    arrays |= {name: array for name, array in changes.items() if array is not None}
    kept = {name: array for name, array in arrays.items() if changes.get(name, array) is not None}
    np.savez(unit / "members.npz", **kept)


def without(unit, metric):
    lines = (unit / "rows.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["metric"] != metric]
    (unit / "rows.jsonl").write_text("".join(line + "\n" for line in kept))


def orphaned(unit):
    text = (unit / "rows.jsonl").read_text()
    (unit / "rows.jsonl").write_text(
        text.replace('"control_of": "saliency"', '"control_of": "nothing"')
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda unit: (unit / "members.npz").unlink(),
            "members.npz is missing: the run is not finished",
        ),
        (lambda unit: (unit / "members.npz").write_bytes(b"PK"), "members.npz is damaged"),
        (
            lambda unit: damaged(unit, **{"0/saliency/score": None}),
            "members.npz has no array '0/saliency/score'",
        ),
        (
            lambda unit: damaged(unit, **{"0/saliency/score": np.zeros(3)}),
            "there are 3 scores for 2200 members",
        ),
        (
            lambda unit: damaged(unit, **{"0/saliency/member": np.ones(2200)}),
            "needs members and non-members, got 2200",
        ),
        (
            lambda unit: without(unit, "auc"),
            "has no auc of arm 'saliency', seed 0, with low, high and p",
        ),
        (orphaned, "has arm 'saliency untrained' as control of 'nothing', which is not there"),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    """One sentence names the file and what is wrong."""
    unit = make_unit(tmp_path / "unit", {}, seeds=1, examples=1, scores=make_scores(LEAKING, 1))
    damage(unit)
    with pytest.raises(InputError, match=message) as error:
        report.render(unit)
    assert "\n" not in str(error.value)
    assert not (unit / "report.html").exists()


def test_leak_at_low_rates(tmp_path):
    """A resolved rate above chance is a leak, whatever the AUC."""
    unit, _ = read(tmp_path, {"saliency": (0.0, 0.0, 0.0)})
    rows = []
    for row in rows_of(unit):
        if row["metric"] == "auc" or row["metric"].startswith("tpr_at_"):
            row["p"] = 0.5
        if (row["arm"], row["metric"]) == ("saliency", "tpr_at_0.01"):
            row["p"] = 1e-6
        if row["metric"] == "resolved_at_0.01":
            row["value"] = 1.0
        rows.append(row)
    rewrite(unit, rows)
    (entry,) = summarise(folder.read(unit.path).units[0]).league.entries
    assert (entry.verdict, entry.p) == ("leaks", pytest.approx(1e-6 * len(entry.rates), rel=0.5))
