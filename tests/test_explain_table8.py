"""Every parameter of DeepLeak's Table VIII exists and changes the map; the README's example and the page of methods."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinv import explain

ROOT = Path(__file__).resolve().parent.parent
IMAGE = np.random.default_rng(0).random((9, 9, 1)).astype(np.float32)
FEW = {"samples": 4}
IG, LIME, SHAP = {"steps": 3}, {"samples": 12, "segments": 6}, {"samples": 8, "segments": 6}
BASE = {"threshold": 0.6, "batch_size": 16, "coverage_samples": 20, "segments": 6, "max_rounds": 3, "baseline": 0.0}
REFERENCE = {"reference": np.random.default_rng(1).random((8, 9, 9, 1)).astype(np.float32), "prototypes": 3}
WAYS = ("gausslegendre", "riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid")
MODES = ("nearest", "area", "linear", "bicubic")
TABLE = [
    ("integrated_gradients", IG, "multiply_by_inputs", (True, False)),
    ("integrated_gradients", IG, "method", WAYS),
    ("smoothgrad", FEW, "stdev", (0.1, 1.0)),
    ("vargrad", FEW, "stdev", (0.1, 1.0)),
    ("gradcam", {"relu": False}, "upsample", MODES),
    ("gradcam", {"relu": False}, "of", ("output", "input")),
    ("gradcam_plus_plus", {"relu": False}, "upsample", MODES),
    ("gradcam_plus_plus", {"relu": False}, "of", ("output", "input")),
    ("occlusion", {"stride": 2}, "window", (3, 5)),
    ("occlusion", {"window": 5}, "stride", (2, 4)),
    ("kernel_shap", SHAP, "segments", (4, 9)),
    ("kernel_shap", SHAP, "compactness", (0.01, 10.0)),
    ("lime", LIME, "segments", (4, 9)),
    ("lime", LIME, "compactness", (0.01, 10.0)),
    ("protodash", REFERENCE, "sigma", (0.05, 2.0)),
    ("protodash", REFERENCE, "kernel", ("gaussian", "linear")),
    ("anchors", BASE, "segments", (4, 9)),
    ("anchors", BASE, "segmentation", ("slic", "felzenszwalb")),
    ("anchors", BASE, "segmentation", ("slic", "quickshift")),  # on so small an image the two on the host agree
    ("anchors", BASE | {"threshold": 0.9}, "p_sample", (0.1, 0.9)),
    ("anchors", BASE, "threshold", (0.1, 0.95)),
]


def model(variables, images):
    """Two layers, and a head that reacts to where things are."""
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(images, variables["conv"], (2, 2), "SAME", dimension_numbers=numbers)
    return jnp.tanh(jax.nn.relu(hidden).reshape(len(images), -1) @ variables["dense"])


def bright(variables, images):
    """Whether most of the light is there: a prediction that takes several superpixels to hold."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([mean, jnp.full_like(mean, 0.3)], -1)


def variables():
    random = np.random.default_rng(2)
    arrays = {"conv": random.normal(size=(3, 3, 1, 4)), "dense": random.normal(size=(100, 3)) / 5}
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


@pytest.mark.parametrize(("name", "hyper", "parameter", "values"), TABLE)
def test_a_parameter_changes_the_map(name, hyper, parameter, values):
    apply = bright if name == "anchors" else model
    label = jnp.argmax(apply(variables(), IMAGE[None]))
    maps = []
    for value in values:
        explainer = functools.partial(explain.build(name, **hyper | {parameter: value}), apply)
        maps.append(np.asarray(jax.jit(explainer)(variables(), IMAGE, label, jax.random.key(3))))
    for number, found in enumerate(maps):
        for other in maps[:number]:
            assert found.shape != other.shape or np.abs(found - other).max() > 1e-4 * np.abs(other).max()


def test_the_readme_explains_a_model_of_ones_own(capsys):
    text = (ROOT / "README.md").read_text().split("## Explain your own model")[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "(100, 32, 32, 1)"


def test_the_page_of_methods_lists_each_with_its_cost():
    rows = [line.split("|")[1:-1] for line in explain.__doc__.splitlines() if line.startswith("| ")]
    named = [name.strip() for row in rows[1:] for name in row[0].split(",")]
    assert sorted(named) == sorted(factory.__name__ for factory in explain.FACTORIES)
    assert all(cost.strip() for _, _, cost in rows)
