"""The report of a synthetic work unit: figures, honesty of the sentence, escaping,
self-containment, damaged files.
"""

import base64
import inspect
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from html_page import Page
from launched import launch
from PIL import Image
from work_unit import CLASSES, METRICS, SSIM, make_examples, make_unit

from xinv import audit, report, store
from xinv.report import pictures, plots
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent


def render(path):
    return Page(report.render(path).read_text())


def changed(values):
    """Rows in which the gradient arm has these SSIMs."""
    return SSIM | {
        name: values if "(gradient)" in name else (0.2, 0.21, 0.2) for name in SSIM if "(" in name
    }


def pixels(uri):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    )


def test_means_and_intervals(tmp_path):
    """Figures are means with Student's intervals."""
    page, table = render(make_unit(tmp_path / "unit")), report.table(tmp_path / "unit")
    for arm, values in SSIM.items():
        for metric, digits in (("ssim", 3), ("mse", 4), ("psnr", 2)):
            seeds = [METRICS[metric](value) for value in values]
            half = scipy.stats.t.ppf(0.95, 2) * scipy.stats.sem(seeds)
            text = f"{np.mean(seeds):.{digits}f} ± {half:.{digits}f}"
            assert text in page.text, (arm, metric)
            assert text in table, (arm, metric)
    assert "target accuracy 0.960 ± 0.017" in table
    assert (
        "Mean over 3 seeds; ± is Student’s 90% confidence interval; 360 test images per seed"
        in page.text
    )


def test_clear_difference(tmp_path):
    """A clear difference has its headline and its verdicts."""
    page = render(make_unit(tmp_path / "unit"))
    assert (
        "Releasing gradient explanations lets an attacker rebuild inputs at SSIM 0.707 ± 0.026, "
        "against 0.432 ± 0.013 from predictions alone." in page.text
    )
    assert "2 of 3 explanations leak more than predictions alone, intervals apart" in page.text
    assert "1 of 3 explanations cannot be told from predictions alone" in page.text
    assert page.text.count("▲") == 2 * len(METRICS) + 1  # two arms, every metric, and the legend
    most = page.all("td", **{"class": "most"})
    assert len(most) == len(METRICS)
    assert {cell["title"] for cell in most} >= {
        "by seed: 0.710, 0.720, 0.690",
        "by seed: 0.0261, 0.0252, 0.0279",
    }


@pytest.mark.parametrize(
    ("ssim", "seeds", "headline"),
    [
        (
            changed((0.44, 0.40, 0.48)),
            3,
            "No difference is established: gradient explanations reach SSIM 0.440",
        ),
        (
            changed((0.31, 0.32, 0.30)),
            3,
            "No explanation helped the attacker: the best, gradient, reaches SSIM 0.310",
        ),
        (
            SSIM,
            1,
            (
                "In one run gradient explanations reach SSIM 0.710, against 0.430 from predictions"
                " alone; a single"
            ),
        ),
        (
            {"flatten_unet(gradient)": (0.7, 0.7, 0.7)},
            3,
            "From gradient explanations an attacker can rebuild inputs at",
        ),
        (
            {"prediction": (0.4, 0.41, 0.4)},
            3,
            "From predictions alone an attacker can rebuild inputs at SSIM 0.403",
        ),
        ({}, 3, "This run attacked no explanation."),
    ],
)
def test_headline_within_intervals(tmp_path, ssim, seeds, headline):
    """The headline claims no more than the intervals allow."""
    page = render(make_unit(tmp_path / "unit", ssim, seeds=seeds))
    assert headline in page.text
    assert ("±" in page.text) == (seeds > 1)
    assert headline.split(":")[0] in " ".join(report.table(tmp_path / "unit").split())


def test_direction_of_the_leak(tmp_path):
    """With MSE alone the smallest error leaks most."""
    unit = make_unit(tmp_path / "unit")
    rows = [json.loads(line) for line in (unit / "rows.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["stage"] != "attack" or row["metric"] == "mse"]
    (unit / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert (
        "Releasing gradient explanations lets an attacker rebuild inputs at MSE 0.0264"
        in render(unit).text
    )


def test_page_needs_nothing_else(tmp_path):
    page = render(make_unit(tmp_path / "unit"))
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert all(a["href"].startswith("#") for a in page.all("a"))
    html = (tmp_path / "unit" / "report.html").read_text()
    assert "url(" not in html
    assert "@import" not in html
    assert len(html) < 400_000
    assert len({a["id"] for _, a in page.tags if "id" in a}) == sum("id" in a for _, a in page.tags)


def test_same_files_same_page(tmp_path):
    unit = make_unit(tmp_path / "unit")
    assert report.render(unit).read_bytes() == report.render(unit).read_bytes()


def test_names_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    classes = [evil, '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}", *CLASSES[3:]]
    page = render(make_unit(tmp_path / "unit", name="<b onclick=alert(3)>", classes=classes))
    assert page.all("script") == []
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert evil in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "<b onclick=alert(3)>" in page.text


def test_pictures_are_the_arrays(tmp_path):
    page = render(make_unit(tmp_path / "unit", examples=3))
    arrays = make_examples(SSIM, 3)
    originals = page.all("img", alt="Original")
    assert len(originals) == 3
    for picture, image in zip(originals, arrays["images"], strict=True):
        np.testing.assert_array_equal(pixels(picture["src"]), image[..., 0])
    rebuilt = page.all("img", alt="Reconstruction from gradcam")
    expected = arrays["reconstruction/flatten_unet(gradcam)"][..., 0]
    np.testing.assert_allclose(pixels(rebuilt[1]["src"]) / 255, expected[1], atol=0.5 / 255 + 1e-6)
    score = f"{arrays['ssim/flatten_unet(gradcam)'][1]:.2f}"
    assert score in page.text


def test_gallery_without_attack(tmp_path):
    """One row per image, one column per method, each map the stored array's picture."""
    unit = make_unit(tmp_path / "unit", ssim={})
    page = Page(report.render(unit).read_text())
    assert "Each map explains the class that the target predicts" in page.text
    maps = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    examples = np.load(unit / "examples.npz")
    methods = ("gradient", "input_x_gradient", "gradcam")
    columns = [[pictures.picture(image) for image in examples["images"]]]
    columns += [pictures.heatmaps(examples[f"explanation/{name}"]) for name in methods]
    assert maps == [picture for row in zip(*columns, strict=True) for picture in row]


def test_colour_images_and_large_ones():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(pixels(pictures.picture(image)), image)
    assert pixels(pictures.picture(np.zeros((600, 300, 1), np.float32))).shape == (192, 96)


def test_heatmaps():
    """Heatmaps tell signs apart and survive constant maps."""
    signed = np.array([[[-1.0], [0.0], [1.0]]])[None]
    red, white, blue = pixels(pictures.heatmaps(signed)[0])[0][::-1].astype(int)
    assert red[0] > red[2] + 50
    assert white.min() > 230
    assert blue[2] > blue[0] + 50
    flat = pixels(pictures.heatmaps(np.zeros((1, 4, 4, 1)))[0])
    assert (flat == flat[0, 0]).all()
    assert pictures.heatmaps(np.zeros((0, 4, 4, 1))) == []


@pytest.mark.parametrize("losses", [(1.0, 0.1), (0.7, 0.69), (1.0, -0.1), (1.0, math.nan)])
@pytest.mark.parametrize("validation", [None, 0.2])
def test_curves_of_any_losses(losses, validation):
    lines = [
        dict(seed=seed, stage="attack", arm="a", epoch=epoch, loss=loss, validation_loss=validation)
        for seed in range(2)
        for epoch, loss in enumerate(losses)
    ]
    svg = plots.curves(lines, plots.limits(lines))
    assert svg.count("var(--arm)") == (4 if validation else 2)
    assert svg.count("<text") >= 5  # an axis label, and ticks on both axes
    Page(svg)


def test_galleries_of_same_images(tmp_path):
    """Stand side by side: a row per method, a group per unit, a dash for what a unit lacks."""
    folders = [make_unit(tmp_path / "units" / f"{number}", ssim={}) for number in range(2)]
    examples = dict(np.load(folders[1] / "examples.npz"))
    del examples["explanation/gradcam"]
    np.savez(folders[1] / "examples.npz", **examples)
    page = Page(report.render(tmp_path).read_text())
    assert "The same images, explained in every unit" in page.text
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    originals = [pictures.picture(image) for image in examples["images"][:6]]
    assert shown[:12] == originals * 2
    signed = examples["explanation/gradient"].mean(-1).min() < 0
    assert shown[12:24] == pictures.heatmaps(examples["explanation/gradient"][:6], signed) * 2
    assert len(page.all("td", **{"class": "strip missing"})) == 1
    # Of other images, nothing is to be compared.
    np.savez(folders[1] / "examples.npz", **examples | {"images": examples["images"][::-1]})
    assert "explained in every unit" not in Page(report.render(tmp_path).read_text()).text


def test_sweep_compares_its_units(tmp_path):
    for number, width in enumerate((0.125, 0.25)):
        ssim = {
            arm: tuple(value + 0.1 * number for value in values) for arm, values in SSIM.items()
        }
        make_unit(
            tmp_path / "units" / f"{number:04d}",
            ssim,
            name=f"width-{width}",
            width=width,
            examples=2,
        )
    (tmp_path / "units" / "0002").mkdir()
    page, table = render(tmp_path), report.table(tmp_path)
    assert (
        "Across 2 audits an attacker gets furthest in width-0.25: SSIM 0.807 ± 0.026 from gradient."
        in page.text
    )
    assert "target.model.width = 0.25" in page.text
    assert "attack.train.epochs =" not in page.text
    assert "Not finished, so left out: 0002." in page.text
    for text in ("0.707 ± 0.026", "0.807 ± 0.026"):
        assert text in table
        assert page.text.count(text) >= 3  # comparison, chart and table of the unit
    assert [a["href"] for a in page.all("a")] == ["#unit-1", "#unit-2"]
    assert [a["id"] for a in page.all("section")] == ["unit-1", "unit-2"]
    (tmp_path / "units" / "0001" / "rows.jsonl").unlink()
    assert "Not finished, so left out: 0001, 0002." in render(tmp_path).text


def test_labels_of_similar_arms(tmp_path):
    """Arms that differ in their inputs have labels of their own."""
    arms = {
        "prediction": (0.4, 0.41, 0.4),
        "flatten(gradient)": (0.5, 0.5, 0.51),
        "unet(gradient)": (0.6, 0.6, 0.61),
    }
    table = report.table(make_unit(tmp_path / "unit", arms))
    for label in ("gradient, flatten", "gradient, unet", "predictions alone"):
        assert f"\n{label} " in table


def test_table_fits_its_width(tmp_path):
    table = report.table(make_unit(tmp_path / "unit"), width=72)
    assert max(map(len, table.splitlines())) <= 72
    for label in (
        "SSIM",
        "MSE",
        "1 − MSE",
        "PSNR, dB",
        "Attack accuracy",
        "Embedding similarity",
        "DeePSiM",
    ):
        assert label in table


def test_reproduction_calls(tmp_path):
    """The lines that reproduce a result call what the pipeline offers."""
    page = render(make_unit(tmp_path / "unit", examples=1))
    code = next(text for text in page.words if "import audit" in text)
    compile(code, "page", "exec")
    assert repr(str(tmp_path / "unit" / "config.json")) in code
    assert list(inspect.signature(audit.run).parameters)[:3] == ["config", "workdir", "stages"]
    assert callable(store.opened)


def truncate(path, keep=0.6):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def append(path, line):
    path.write_text(path.read_text() + line + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda unit: truncate(unit / "rows.jsonl"), r"rows.jsonl line \d+ is cut off or damaged"),
        (lambda unit: truncate(unit / "rows.jsonl", 0), "rows.jsonl is empty"),
        (lambda unit: (unit / "rows.jsonl").unlink(), "has no rows.jsonl: the run is not finished"),
        (
            lambda unit: append(unit / "rows.jsonl", '{"unit": "a"}'),
            "rows.jsonl line 91 has no 'seed'",
        ),
        (lambda unit: append(unit / "rows.jsonl", "[]"), "rows.jsonl line 91 has no 'unit'"),
        (
            lambda unit: append(
                unit / "rows.jsonl", (unit / "rows.jsonl").read_text().splitlines()[4]
            ),
            r"rows.jsonl line 91 repeats line 5 \(psnr, seed 0\)",
        ),
        (
            lambda unit: (unit / "rows.jsonl").write_text(
                (unit / "rows.jsonl").read_text().replace("0.43,", '"x",')
            ),
            "rows.jsonl line 6 has value = 'x': int or float is allowed",
        ),
        (
            lambda unit: append(unit / "curves.jsonl", '{"seed": 0'),
            r"curves.jsonl line \d+ is cut off",
        ),
        (lambda unit: truncate(unit / "examples.npz"), "examples.npz is damaged"),
        (lambda unit: (unit / "examples.npz").unlink(), "examples.npz is missing"),
        (
            lambda unit: np.savez(unit / "examples.npz", images=np.zeros(3)),
            "has no array 'explanation/grad",
        ),
        (
            lambda unit: np.savez(
                unit / "examples.npz", **make_examples(SSIM, 2) | {"labels": np.zeros(3, int)}
            ),
            "has 3 of 'labels' for 2 images",
        ),
        (
            lambda unit: np.savez(
                unit / "examples.npz", **make_examples(SSIM, 1) | {"labels": np.array([10])}
            ),
            "have no names in dataset.json",
        ),
        (lambda unit: truncate(unit / "config.json"), "config.json line 1 is not JSON"),
        (
            lambda unit: (unit / "dataset.json").write_text("[]"),
            "dataset.json does not hold a JSON object",
        ),
        (lambda unit: (unit / "environment.json").unlink(), "environment.json is missing"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    """Damaged folders are named in one sentence."""
    unit = make_unit(tmp_path / "unit", examples=2)
    damage(unit)
    with pytest.raises(InputError, match=message) as error:
        report.render(unit)
    assert "\n" not in str(error.value)
    assert not (unit / "report.html").exists()


def test_folders_without_a_run(tmp_path):
    with pytest.raises(InputError, match="nothing' is not a folder"):
        report.render(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no rows\.jsonl"):
        report.table(tmp_path)
    (tmp_path / "units" / "0000").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no unit of .* has a rows\.jsonl"):
        report.render(tmp_path)
    with pytest.raises(InputError, match=r"confidence level 1\.5"):
        report.render(make_unit(tmp_path / "unit", examples=1), level=1.5)


def test_launcher(tmp_path):
    unit = make_unit(tmp_path / "unit", examples=1)

    good = launch("report.py", f"--workdir={unit}")
    assert good.returncode == 0, good.stderr
    assert "0.707 ± 0.026" in good.stdout
    assert good.stdout.rstrip().endswith(f"Report: {unit / 'report.html'}")
    truncate(unit / "rows.jsonl")
    bad = launch("report.py", f"--workdir={unit}")
    assert bad.returncode == 2
    assert "rows.jsonl line" in bad.stderr
    assert len(bad.stderr.strip().splitlines()) == 1, bad.stderr
