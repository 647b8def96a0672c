"""The options of every explainer's factory: baselines, superpixels and numbers are right, or one
sentence says what is.

On a linear model z = Σ w·x what a baseline b adds to is w·(x - b).
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from door_zoo import GREY, HYPER, IMAGE, IMAGES, KEY, QUARTERS, SIDE, WEIGHTS, linear, sentence

from xinv import explain, plugins
from xinv.explain import door
from xinv.explain.perturbation import segment

MEAN = np.float32([0.5, 0.25])
BASELINES = {
    "number": 0.25,
    "whole number": 1,
    "per channel": (0.5, 0.25),
    "list": [0.5, 0.25],
    "array per channel": MEAN,
    "device array": jnp.asarray(MEAN),
    "image": IMAGES[1],
    "nested lists": IMAGES[1].tolist(),
    "grey image": GREY[1],
    "float64 image": IMAGES[1].astype(np.float64),
}


@pytest.mark.parametrize("case", BASELINES)
@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_baselines_of_gradients(name, case):
    """On a linear model both are w·(x - b), pixel by pixel."""
    baseline = BASELINES[case]
    found = np.asarray(explain.build(name, baseline=baseline)(linear, WEIGHTS, IMAGE, 1, KEY))
    np.testing.assert_allclose(
        found, WEIGHTS[..., 1] * (IMAGE - np.asarray(baseline)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", BASELINES)
@pytest.mark.parametrize("name", ["occlusion", "lime", "kernel_shap", "shapley_sampling"])
def test_baselines_of_superpixels(name, case):
    """On a linear model a superpixel, or a window, is worth the sum of its w·(x - b)."""
    baseline = BASELINES[case]
    parts = (WEIGHTS[..., 1] * (IMAGE - np.asarray(baseline))).sum(-1)
    values = np.bincount(QUARTERS.ravel(), parts.ravel())
    hyper = HYPER[name] | {"baseline": baseline}
    found = np.asarray(explain.build(name, **hyper)(linear, WEIGHTS, IMAGE, 1, KEY))
    np.testing.assert_allclose(found[..., 0], values[QUARTERS], rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_baseline_image_of_anchors():
    """With the image itself as baseline nothing changes when superpixels are replaced: the anchor
    is empty.
    """
    label = int(np.argmax(linear(WEIGHTS, IMAGES[:1])))
    kept = explain.anchors(**HYPER["anchors"] | {"baseline": IMAGE, "batch_size": 100})
    assert not np.asarray(kept(linear, WEIGHTS, IMAGE, label, KEY)).any()


BAD_BASELINES = [
    np.nan,
    np.inf,
    True,
    "black",
    None,
    [],
    [np.nan, 0.0],
    np.zeros((0,)),
    np.zeros((2, 2)),
]
BAD_BASELINES += [1j, {"a": 1}, [[1, 2], [3]], np.array(["a"]), object()]
WITH_BASELINE = [
    "anchors",
    "deeplift",
    "integrated_gradients",
    "kernel_shap",
    "lime",
    "occlusion",
    "shapley_sampling",
]
WITH_BASELINE += ["removal_trajectory"]


@pytest.mark.parametrize("name", WITH_BASELINE)
def test_bad_baselines(name):
    """What is no finite intensity is refused when the explainer is made; another size when it meets
    the image.
    """
    for bad in BAD_BASELINES:
        assert "baseline" in sentence(lambda bad=bad: explain.build(name, baseline=bad))
    for other in ((0.5,) * 5, np.zeros((SIDE, SIDE + 1, 2))):
        explainer = explain.build(name, **HYPER.get(name, {}) | {"baseline": other})
        text = sentence(lambda explainer=explainer: explainer(linear, WEIGHTS, IMAGE, 1, KEY))
        assert "the image [6, 6, 2]" in text


def test_superpixels_as_an_array():
    """A label map is an array, nested lists or tuples, and all are one explainer's argument."""
    spellings = [QUARTERS, QUARTERS.astype(np.uint8), QUARTERS.tolist(), jnp.asarray(QUARTERS)]
    maps = [
        np.asarray(explain.kernel_shap(None, segmentation=given)(linear, WEIGHTS, IMAGE, 1, KEY))
        for given in spellings
    ]
    for found in maps[1:]:
        np.testing.assert_array_equal(found, maps[0])
    for bad in (QUARTERS - 1, QUARTERS / 2, QUARTERS[None], QUARTERS[:0], [[0, 1], [2]], 3, None):
        assert "label map" in sentence(lambda bad=bad: explain.lime(segmentation=bad))


def test_one_object_for_one_argument():
    """The same arguments, however they are spelled, give the same object, so that nothing is
    compiled anew.
    """
    assert explain.occlusion([4, 4], 2) is explain.occlusion(stride=2, window=(4, 4))
    assert explain.occlusion() is explain.occlusion(8, 4, 0.0)
    assert explain.lime(np.int64(9)) is explain.lime(9)
    assert explain.lime(baseline=[0.1, 0.2]) is explain.lime(baseline=(0.1, 0.2))
    assert explain.lime(segmentation=QUARTERS) is explain.lime(segmentation=QUARTERS.copy())
    assert explain.deeplift(IMAGE) is explain.deeplift(jnp.asarray(IMAGE))
    assert explain.deeplift(IMAGE) is not explain.deeplift(IMAGE + 0.1)
    assert explain.deeplift(IMAGE) is not explain.deeplift(IMAGE.reshape(SIDE, -1, 1))
    assert explain.smoothgrad(base=explain.saliency()) is explain.smoothgrad(
        base=explain.saliency()
    )


def test_arguments_are_copied():
    """An array that its owner changes later changes no explainer."""
    baseline = np.zeros_like(IMAGE)
    explainer = explain.deeplift(baseline)
    baseline += 1
    found = np.asarray(explainer(linear, WEIGHTS, IMAGE, 0, KEY))
    np.testing.assert_allclose(found, WEIGHTS[..., 0] * IMAGE, rtol=1e-5, atol=1e-6)


class Lazy:
    """An array of another library: no hash, and a short name."""

    __hash__ = None

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __repr__(self):
        return "Lazy(...)"


def test_arrays_of_other_libraries():
    """They differ by what they hold, not by how they print."""
    factory = plugins.cached(lambda value: np.asarray(value).sum())
    assert [factory(Lazy([1, 2])), factory(Lazy([3, 4])), factory(Lazy([1, 2]))] == [3, 7, 3]


def test_traced_arguments():
    """An explainer is made of fixed values; a traced one is one sentence."""
    assert "traced" in sentence(
        lambda: jax.jit(lambda b: explain.deeplift(b)(linear, WEIGHTS, IMAGE, 0, KEY))(0.5)
    )


BAD = [
    np.nan,
    np.inf,
    -np.inf,
    -1,
    -0.5,
    "text",
    "",
    True,
    1j,
    b"x",
    (),
    [],
    {"a": 1},
    {1},
    object(),
    len,
]
BAD += [np.full(3, np.nan), np.zeros(0), np.array(["a"]), [[1, 2], [3]], [np.nan] * 3]
MINE = (
    "anchors",
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "kernel_shap",
    "lime",
    "normalise",
)
MINE += ("occlusion", "protodash", "removal_trajectory", "saliency", "shapley_sampling")
MINE += ("smoothgrad", "vargrad")
FINE = {
    "baseline": (-1, -0.5),
    "multiply_by_inputs": (True,),
    "draw_baseline_from_distrib": (True,),
    "base": (len,),
    "explainer": (len,),
}
NEEDED = {"protodash": HYPER["protodash"], "normalise": {"explainer": explain.gradient()}}
FACTORIES = [getattr(explain, name) for name in MINE] + [
    segment.slic,
    segment.felzenszwalb,
    segment.quickshift,
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_every_parameter_is_checked(factory):
    """NaN, infinity, text, flags, containers: each is one sentence when the factory is called."""
    needed = NEEDED.get(factory.__name__, {})
    for parameter in inspect.signature(factory).parameters:
        fine = FINE.get(parameter, ())
        for bad in BAD:
            if any(bad is value for value in fine):
                continue
            assert sentence(
                lambda bad=bad, parameter=parameter: factory(**needed | {parameter: bad})
            ), parameter


def test_names_that_are_none():
    """A list of names is no name."""
    assert "unknown explainer ['gradient']" in sentence(lambda: explain.build(["gradient"]))


def test_guided_gradcam_is_upsampled():
    """Its two factors have one size."""
    assert "choose upsample" in sentence(lambda: explain.guided_gradcam(upsample=None))


BOXES = {
    "other lengths": (
        "epsilon_gamma_box",
        {"low": (0, 0), "high": (1, 1, 1)},
        "low=(0, 0) and high=(1, 1, 1)",
    ),
    "an image": ("epsilon_gamma_box", {"low": np.zeros((50, 50, 3))}, "low=float64 [50, 50, 3]"),
    "high below low": ("epsilon_gamma_box", {"low": 2.0}, "low <= high"),
    "above 0": ("zbox", {"low": 0.5}, "leave out 0"),
    "below 0": ("zbox", {"low": -1, "high": -0.5}, "leave out 0"),
    "per channel": ("zbox", {"low": (0, 0)}, "per channel"),
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes(case):
    """A box of the image is any range; one of all layers holds 0, which most of them read."""
    rule, ends, words = BOXES[case]
    assert words in sentence(lambda: explain.lrp(rule, **ends))
    assert callable(explain.lrp("epsilon_gamma_box", low=0.5))


@pytest.mark.parametrize("rule", ["flat", "zbox"])
def test_bias_of_rules_without(rule):
    """These rules read no layer's bias, but a position embedding is one for them, too."""
    placed = lambda v, x: linear(v, jax.nn.relu(x + v[..., 0]))
    maps = [
        np.asarray(explain.lrp(rule, bias=bias)(placed, WEIGHTS, IMAGE, 1, KEY))
        for bias in (True, False)
    ]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3


def test_zero_is_no_count():
    """Nothing is sampled 0 times, and no width is 0."""
    for name, parameters in {
        "anchors": ("batch_size", "beam_size", "delta", "segments", "max_size", "compactness"),
        "integrated_gradients": ("steps",),
        "kernel_shap": ("samples", "segments"),
        "lime": ("samples", "kernel_width", "segments"),
        "occlusion": ("window", "stride"),
        "shapley_sampling": ("samples",),
        "smoothgrad": ("samples",),
    }.items():
        for parameter in parameters:
            assert "0" in sentence(
                lambda name=name, parameter=parameter: explain.build(name, **{parameter: 0})
            )


def test_explainers_that_are_none():
    """A name, or a factory that was not called, is named."""
    call = lambda explainer: explain.batch(explainer, linear, WEIGHTS, IMAGES, None, KEY)
    assert "explain.build('lrp')" in sentence(lambda: call("lrp"))
    assert "give lrp()" in sentence(lambda: call(explain.lrp))
    assert "give lrp()" in sentence(lambda: explain.normalise(explain.lrp))
    assert "give lrp()" in sentence(lambda: explain.smoothgrad(base=explain.lrp))


def test_described_values_are_short():
    """A sentence does not print an array."""
    assert "float64 [50, 50, 50]" in sentence(lambda: door.baseline(np.full((50, 50, 50), np.nan)))
