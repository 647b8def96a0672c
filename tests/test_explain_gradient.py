"""Gradients, class activation maps, scales and streaming, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, SHAPE, case, images

from xinv import explain
from xinv.explain.engine.graph import one
from xinv.types import InputError

KEY = jax.random.key(0)


def call(explainer, name, label=1):
    return jax.jit(explainer, static_argnums=0)(
        case(name).apply, case(name).variables, images(1)[0], label, KEY
    )


@pytest.mark.parametrize("of", ["logit", "probability"])
def test_gradient_is_a_central_difference(of):
    """On a smooth function in float64; the truncation error is of the step squared, 1e-8."""
    with jax.enable_x64(True):
        a = jnp.asarray(np.random.default_rng(0).normal(size=(12, CLASSES)))
        apply = lambda variables, x: jnp.tanh(x.reshape(len(x), -1) @ variables)
        image = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 2, 3)))
        found = explain.gradient(of)(apply, a, image, 2, KEY)

        def score(x):
            logits = np.tanh(x.ravel() @ a)
            return logits[2] if of == "logit" else np.exp(logits[2]) / np.exp(logits).sum()

        steps = 1e-4 * np.eye(12).reshape(12, 2, 2, 3)
        expected = [(score(image + step) - score(image - step)) / 2e-4 for step in steps]
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-7)
        product = explain.input_x_gradient(of)(apply, a, image, 2, KEY)
        np.testing.assert_allclose(product.ravel(), image.ravel() * np.array(expected), atol=1e-7)


@pytest.mark.slow
def test_baselines_of_copies():
    """Copies share one baseline or draw their own.

    Without noise the copies differ by their baselines alone.
    """
    base = explain.integrated_gradients(3, baseline="uniform")
    variances = [call(explain.vargrad(0.0, 4, base, anew), "plain") for anew in (False, True)]
    assert variances[0].max() < 1e-9 * variances[1].max()
    np.testing.assert_allclose(
        call(explain.smoothgrad(0.0, 1, base, False), "plain"), call(base, "plain"), rtol=1e-5
    )


@pytest.mark.slow
def test_path_from_drawn_baseline():
    """A drawn baseline is where the path starts."""
    apply, image = lambda a, x: jnp.sin(x.reshape(len(x), -1) @ a), images(1)[0]
    a = jnp.asarray(np.random.default_rng(0).normal(size=(image.size, CLASSES)) / 10)
    explanation = explain.integrated_gradients(20, baseline="uniform")(apply, a, image, 1, KEY)
    scores = apply(a, jnp.stack([image, jax.random.uniform(KEY, image.shape)]))[:, 1]
    np.testing.assert_allclose(explanation.sum(), scores[0] - scores[1], rtol=1e-4)


@pytest.mark.slow
def test_gradcam_by_hand():
    """The last map of `residual` enters the logits by its mean and a matrix, so that alpha is W /
    (6·6).
    """
    apply, variables = case("residual")
    weights = variables["params"]["Dense_0"]["kernel"][:, 1]
    activation = explain.cut(one(apply, variables), images(1)[0])[0][0]
    expected = (activation * weights / 36).sum(-1, keepdims=True)
    assert expected.min() < 0 or expected.max() > 0
    np.testing.assert_allclose(
        call(explain.gradcam(relu=False), "residual"), expected, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        call(explain.gradcam(), "residual"), np.maximum(expected, 0), rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_gradcam_layers_sizes_and_upsampling():
    assert call(explain.gradcam(), "marked").shape == (6, 6, 1)
    assert call(explain.gradcam(layer=0), "marked").shape == (12, 12, 1)
    assert call(explain.gradcam(layer="joined", of="input"), "depthwise").shape == (12, 12, 1)
    small, large = (
        call(explain.gradcam(), "marked"),
        call(explain.gradcam(upsample="nearest"), "marked"),
    )
    np.testing.assert_array_equal(large, np.repeat(np.repeat(small, 2, 0), 2, 1))
    assert call(explain.gradcam(upsample="bilinear"), "plain").shape == (12, 12, 1)


def test_cut_without_spatial_axes():
    """A cut without spatial axes is named."""
    apply = lambda variables, x: jax.ad_checkpoint.checkpoint_name(x.reshape(len(x), -1), "cam")
    with pytest.raises(
        InputError, match=r"needs a tensor \[1,h,w,c\], but the default layer is \[1, 432\]"
    ):
        explain.gradcam()(apply, {}, images(1)[0], 0, KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: explain.gradient(of="loss"), "of='loss'.*logit, probability"),
        (lambda: explain.gradcam(upsample="areal"), "upsample='areal'.*nearest"),
        (lambda: explain.normalise(explain.gradient(), "max"), "how='max'.*absolute_minmax"),
        (lambda: explain.build("gradcan"), "unknown explainer 'gradcan': choose one of"),
        (lambda: explain.build("gradcam", layers=1), "no parameter 'layers'"),
    ],
)
def test_bad_hyper_parameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_equal_parameters_same_object():
    """Equal hyper-parameters give the same object."""
    assert explain.build("gradcam", layer=-1) is explain.gradcam(layer=-1)
    assert explain.normalise(explain.gradient()) is explain.normalise(explain.build("gradient"))


@pytest.mark.slow
def test_scales():
    raw = np.asarray(call(explain.gradient(), "plain"))
    scaled = {
        how: call(explain.normalise(explain.gradient(), how), "plain") for how in explain.SCALES
    }
    np.testing.assert_array_equal(scaled["none"], raw)
    np.testing.assert_array_equal(scaled["absolute"], np.abs(raw))
    np.testing.assert_allclose(
        scaled["minmax"], (raw - raw.min()) / np.ptp(raw), rtol=1e-5, atol=1e-7
    )
    magnitude = np.abs(raw)
    expected = (magnitude - magnitude.min()) / np.ptp(magnitude)
    np.testing.assert_allclose(scaled["absolute_minmax"], expected, rtol=1e-5, atol=1e-7)


def test_constant_map():
    """A constant map is scaled to zero."""
    apply = lambda variables, x: jnp.stack([x.sum((1, 2, 3))] * CLASSES, -1)
    scaled = explain.normalise(explain.gradient())(apply, {}, images(1)[0], 0, KEY)
    np.testing.assert_array_equal(scaled, np.zeros(SHAPE))


@pytest.mark.slow
def test_batch_is_one_by_one():
    """For labels given and predicted, uint8 and float; a last partial batch; into a given array."""
    apply, variables = case("marked")
    pixels = np.asarray(jnp.round(images(5) * 255), np.uint8)
    floats = pixels.astype(np.float32) / 255
    predicted = np.argmax(apply(variables, floats), -1)
    explainer = explain.gradient("probability")
    expected = np.stack(
        [explainer(apply, variables, x, y, KEY) for x, y in zip(floats, predicted, strict=True)]
    )
    out = np.empty((5, *SHAPE), np.float32)
    results = [
        explain.batch(explainer, apply, variables, pixels, predicted, KEY, 2),
        explain.batch(explainer, apply, variables, floats, None, KEY, 3),
        explain.batch(explainer, apply, variables, pixels, None, KEY, 64, out=out),
    ]
    assert results[2] is out
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_batch_compiles_once():
    traces, maps = [], []
    apply, variables = case("plain")

    def counted(variables, x):
        traces.append(x.shape)
        return apply(variables, x)

    def explainer(*given):
        maps.append(given)
        return explain.gradient()(*given)

    images_, labels = np.asarray(images(5)), np.array([0, 1, 2, 3, 0])
    explain.batch(explainer, counted, variables, images_, labels, KEY)
    assert len(maps) == 1
    first = len(traces)
    explain.batch(
        explainer, counted, jax.tree.map(lambda leaf: leaf * 2, variables), images_, labels, KEY
    )
    assert len(maps) == 1
    assert len(traces) == first  # of what fits into memory and the number of classes, too


def test_batch_keeps_no_precision():
    """A trace is of one default precision of products: another traces anew."""
    traces = []

    def apply(variables, x):
        traces.append(jax.config.jax_default_matmul_precision)
        return x.reshape(len(x), -1)[:, :2] @ variables

    for precision in ("highest", "default", "highest"):
        with jax.default_matmul_precision(precision):
            explain.batch(explain.gradient(), apply, jnp.eye(2), np.asarray(images(2)), [0, 1], KEY)
    assert {"highest", "default"} <= set(traces)


def test_labels_without_class():
    """`batch` refuses labels that are no class."""
    apply, variables = case("plain")
    with pytest.raises(InputError, match="label 4 is no class of a model with classes 0 to 3"):
        explain.batch(explain.gradient(), apply, variables, images(2), np.array([0, 4]), KEY)
    with pytest.raises(InputError, match=r"labels are \[2\], one for each image, not \[1\]"):
        explain.batch(
            explain.gradient(), apply, variables, np.asarray(images(2)), np.array([0]), KEY
        )
