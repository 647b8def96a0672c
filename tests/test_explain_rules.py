"""DeepLIFT, guided backpropagation and class activation maps against their equations, and what is
refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, KEY, NAMES, call, case, images

from xinv import explain
from xinv.explain.engine.graph import one
from xinv.types import InputError

IMAGE = jnp.zeros((4, 5, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw"])
def test_contributions_sum_to_the_change(name):
    """DeepLIFT and integrated gradients sum to the change.

    Rounding of DeepLIFT is that of float32; IG's error is that of 64 points on a function with
    kinks.
    """
    apply, variables = case(name)
    image = images(1)[0]
    change = (apply(variables, image[None]) - apply(variables, jnp.full_like(image, 0.3)[None]))[
        0, 1
    ]
    maps = call(explain.deeplift(baseline=0.3), apply, variables, image)
    np.testing.assert_allclose(maps.sum(), change, rtol=1e-4, atol=1e-5)
    integral = call(explain.integrated_gradients(steps=64, baseline=0.3), apply, variables, image)
    np.testing.assert_allclose(integral.sum(), change, rtol=2e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.silu(x) * jnp.tanh(x),
        lambda x: jax.nn.softmax(3 * x),
        lambda x: jnp.where(x > 0.5, x, 0.1 * x) ** 2,
        lambda x: jax.nn.gelu(x @ jnp.ones((4, 4))) * x,
        lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3),
    ],
    ids=["product", "softmax", "leaky", "gate", "layer norm"],
)
def test_deeplift_of_several_values(function):
    """DeepLIFT is complete on functions of several values."""
    with jax.enable_x64(True):
        apply = lambda v, x: function(x.reshape(len(x), -1)) @ v
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
        image, start = (
            jnp.array([0.9, -0.4, 0.2, 1.3]).reshape(2, 2, 1),
            jnp.full((1, 2, 2, 1), 0.1),
        )
        change = (apply(matrix, image[None]) - apply(matrix, start))[0, 1]
        np.testing.assert_allclose(
            call(explain.deeplift(0.1), apply, matrix, image).sum(), change, rtol=1e-9
        )


def test_deeplift_of_a_change_by_rounding():
    """A change of exp by its last digit alone tells no slope: 0 or 1e-7, divided by 1e-9."""
    image = np.random.default_rng(3).uniform(0.5, 1, (4, 4, 1)).astype(np.float32)

    def apply(scale, x):
        return jnp.stack([jnp.exp(scale * x).sum((1, 2, 3)), x.sum((1, 2, 3))], -1)

    maps = call(explain.deeplift(), apply, jnp.float32(1e-9), image, 0)
    np.testing.assert_allclose(maps, np.expm1(1e-9 * image.astype(np.float64)), rtol=1e-5)


@pytest.mark.slow
def test_every_kind_of_relu():
    """Nothing is silently a plain gradient: raw functions, jax.nn, one ReLU used twice, ReLU6 by
    minimum and clamp.
    """
    matrix = jnp.array([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-1.0, 4.0, 1.0]])
    image = jnp.array([0.5, 2.0, -1.0]).reshape(3, 1, 1)
    relus = {
        "maximum": (lambda x: jnp.maximum(x, 0), np.inf),
        "zeros": (lambda x: jnp.maximum(jnp.zeros_like(x), x), np.inf),
        "relu": (jax.nn.relu, np.inf),
        "relu6": (jax.nn.relu6, 6),
        "raw relu6": (lambda x: jnp.minimum(jnp.maximum(x, 0.0), 6.0), 6),
        "clip": (lambda x: jnp.clip(x, 0, 6), 6),
        "clamp": (lambda x: jax.lax.clamp(0.0, x, 6.0), 6),
        "where": (lambda x: jnp.where(x > 0, x, 0), np.inf),
        "where not": (lambda x: jnp.where(x <= 0, 0.0, x), np.inf),
        "where6": (lambda x: jnp.where((x := jnp.where(x < 0, 0, x)) > 6, 6, x), 6),
        "where6 first": (lambda x: jax.nn.relu(jnp.where(x < 6, x, 6)), 6),
        "gate": (lambda x: x * (x > 0), np.inf),
    }
    for name, (relu, bound) in relus.items():
        apply = lambda v, x, relu=relu: relu(relu(x.reshape(len(x), -1) @ v) @ v) @ v
        first = image.ravel() @ matrix
        second = np.clip(first, 0, bound) @ matrix
        for explainer, masked in (
            (explain.guided_backprop(), True),
            (explain.deconvolution(), False),
        ):
            signal = matrix[:, 1]
            for value in second, first:
                mask = ((value > 0) & (value < bound)) if masked else 1
                signal = matrix @ (np.maximum(signal, 0) * mask)
            np.testing.assert_allclose(
                call(explainer, apply, matrix, image).ravel(), signal, err_msg=name
            )


@pytest.mark.parametrize("size", [8, 300])
def test_handwritten_relu(size):
    """A ReLU by hand is guided beside one of JAX.

    300 x 300 zeros are too many to be evaluated at trace time.
    """
    image = jnp.asarray(np.random.default_rng(0).normal(size=(size, size, 1)), jnp.float32)
    maps = []
    for relu in (
        jax.nn.relu,
        lambda x: jnp.where(x > 0, x, 0),
        lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    ):
        apply = lambda v, x, relu=relu: (jax.nn.relu(relu(x) - 0.3) @ v).sum((1, 2))
        maps.append(call(explain.guided_backprop(), apply, jnp.array([[1.0, 2.0]]), image))
    assert (maps[0] > 0).any()
    np.testing.assert_array_equal(maps[1], maps[0])
    np.testing.assert_array_equal(maps[2], maps[0])


@pytest.mark.slow
def test_guided_keeps_other_derivatives():
    """Guided backpropagation leaves other functions their derivative.

    Leaky ReLUs and smooth functions; softplus too, which has a maximum and is no ReLU.
    """
    x, matrix = jnp.array([-1.5, -0.2, 0.4, 2.0]), jnp.array([[1.0, -2.0]])
    for function in (
        jax.nn.leaky_relu,
        jax.nn.elu,
        jax.nn.softplus,
        jnp.tanh,
        lambda x: jnp.minimum(x, 0.3),
        jnp.abs,
    ):
        apply = lambda v, x, f=function: jax.nn.relu((f(x) * f(-x)).reshape(1, -1, 1) @ v).sum(1)
        found = call(explain.guided_backprop(), apply, matrix, x.reshape(2, 2, 1), 0)
        inner = lambda x, f=function: f(x) * f(-x)
        expected = (inner(x) > 0) * jax.vmap(jax.grad(inner))(x)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-7)


def test_gradcam_plus_plus_equations():
    """Grad-CAM++ reads as its equations."""
    apply, variables = case("residual")
    activation, rest = explain.cut(one(apply, variables), images(1)[0])
    slope = np.float64(jax.grad(lambda a: rest(a)[1])(activation))[0]
    activation = np.float64(activation)[0]
    weight = np.zeros(activation.shape[-1])
    for k in range(len(weight)):
        for i, j in np.ndindex(*slope.shape[:2]):
            g = slope[i, j, k]
            below = 2 * g**2 + activation[..., k].sum() * g**3
            weight[k] += g**2 / below * max(g, 0) if below else 0
    expected = np.maximum(activation @ weight, 0)[..., None]
    np.testing.assert_allclose(
        call(explain.gradcam_plus_plus(), apply, variables, images(1)[0]), expected, rtol=1e-4
    )


def test_cams_of_classes_and_channels():
    """CAMs of classes and channels are those of Grad-CAM."""
    apply, variables = case("marked")
    image = images(1)[0]
    single = [call(explain.gradcam(), apply, variables, image, label) for label in range(CLASSES)]
    np.testing.assert_allclose(
        call(explain.class_cams(), apply, variables, image), np.concatenate(single, -1), rtol=1e-4
    )
    terms = call(explain.constituent_cams(), apply, variables, image)
    expected = call(explain.gradcam(relu=False), apply, variables, image)
    np.testing.assert_allclose(terms.sum(-1, keepdims=True), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "relu",
    [
        lambda x: (x + jnp.abs(x)) / 2,
        lambda x: jnp.fmax(x, 0),
        lambda x: jnp.where(x > 0, 1.0, 0.0) * x,
        lambda x: x * jnp.heaviside(x, 0.0),
        lambda x: jnp.where(jnp.logical_not(x < 0), x, 0),
        lambda x: jnp.select([x > 0], [x], 0.0),
        lambda x: jnp.piecewise(x, [x > 0], [lambda x: x, 0.0]),
        lambda x: jnp.stack([x, jnp.zeros_like(x)]).max(0),
        lambda x: jnp.sort(jnp.stack([x, jnp.zeros_like(x)], -1))[..., 1],
    ],
)
@pytest.mark.parametrize("explainer", [explain.guided_backprop(), explain.deconvolution()])
def test_respelled_relu_refused(explainer, relu):
    """A ReLU in other words is refused, also beside known ones."""
    with pytest.raises(
        InputError, match=r"has no rule for the ReLU that .* computes here: write it as jax.nn.relu"
    ):
        jax.eval_shape(
            lambda x: explainer(lambda _, x: jax.nn.relu(relu(x) - 0.3).sum((1, 2)), {}, x, 0, KEY),
            IMAGE,
        )


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.silu,
        jax.nn.gelu,
        jax.nn.leaky_relu,
        jax.nn.hard_swish,
        lambda x: jax.nn.relu(x) + x,
        lambda x: jnp.stack([jax.nn.relu(x), jnp.zeros_like(x)]).max(0),
        lambda x: jnp.stack([x, jnp.ones_like(x)]).max(0),
        lambda x: jnp.select([x > 0], [x], -1.0),
    ],
)
def test_other_functions_accepted(function):
    """A function that is no ReLU is not refused."""
    explainer = explain.guided_backprop()
    found = jax.eval_shape(
        lambda x: explainer(lambda _, x: jax.nn.relu(function(x)).sum((1, 2)), {}, x, 0, KEY), IMAGE
    )
    assert found.shape == IMAGE.shape


@pytest.mark.parametrize("minus", [lambda x: 0 - x, lambda x: -1 * x, jnp.negative])
def test_mirrored_minimum_is_relu(minus):
    """A minimum between two changes of sign is a ReLU."""
    matrix = jnp.array([[1.0, -2.0], [0.5, 1.0], [-1.0, 1.0]])
    maps = [
        call(
            explain.guided_backprop(),
            lambda v, x, f=f: (f(f(x - 0.5) @ v) ** 2).sum((1, 2)),
            matrix,
            images(1)[0],
            0,
        )
        for f in (jax.nn.relu, lambda x: minus(jnp.minimum(minus(x), 0)))
    ]
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-6)


@jax.custom_jvp
def own_relu(x):
    return jnp.where(x > 0, x, 0)


own_relu.defjvp(lambda x, t: (own_relu(*x), (x[0] > 0) * t[0]))


@pytest.mark.parametrize(
    ("explainer", "apply", "message"),
    [
        (
            explain.lrp(),
            lambda v, x: jnp.cumprod(x.reshape(1, -1), 1),
            "lrp has no rule for 'cumprod'",
        ),
        (
            explain.lrp(),
            lambda v, x: jnp.fft.fft(x.reshape(1, -1)).real,
            "lrp has no rule for 'fft'",
        ),
        (
            explain.deeplift(),
            lambda v, x: jnp.cumprod(x.reshape(1, -1), 1),
            "deeplift has no rule for 'cumprod'",
        ),
        (explain.deeplift(), case("raw").apply, "of integers that depend on the image"),
        (
            explain.guided_backprop(),
            lambda v, x: jnp.tanh(x.reshape(1, -1)),
            "guided_backprop .* the model has none",
        ),
        (
            explain.deconvolution(),
            lambda v, x: own_relu(x.reshape(1, -1)),
            "cannot apply it inside 'custom_jvp_call'",
        ),
        (
            explain.guided_backprop(),
            lambda v, x: jax.lax.map(jax.nn.relu, x.reshape(-1, 1)).T,
            "guided_backprop has a rule for ReLUs and cannot apply it inside 'scan'",
        ),
    ],
)
def test_operations_without_rule_are_named(explainer, apply, message):
    with pytest.raises(InputError, match=message):
        explainer(apply, case("raw").variables, images(1)[0], 0, KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: explain.lrp("z+"), "rule='z\\+'.*epsilon_plus"),
        (lambda: explain.lrp(pool="max"), "pool='max'.*winner, average"),
        (lambda: explain.lrp(start="all"), "start='all'.*class, logits"),
        (lambda: explain.lrp("alpha_beta", alpha=0.5), "alpha is 0.5"),
        (lambda: explain.lrp(alpha=3.0), "alpha is 3.0 but LRP's alpha_beta alone reads it"),
        (lambda: explain.lrp(high=3), "high is 3 but LRP's zbox alone reads it"),
        (lambda: explain.lrp("epsilon_gamma_box", low=[0, [1]]), "give finite numbers"),
        (lambda: explain.lrp({"epsilon": 1}), "is no LRP rule"),
        (lambda: explain.lrp(gates=np.ones(2)), "is unknown to lrp"),
        (lambda: explain.integrated_gradients(method="simpson"), "method='simpson'.*riemann_left"),
        (lambda: explain.integrated_gradients(steps=0), "steps is 0"),
        (lambda: explain.integrated_gradients(baseline="normal"), "baseline='normal'.*'uniform'"),
        (lambda: explain.smoothgrad(samples=0), "samples=0"),
        (lambda: explain.build("smoothgrad", base="gradients"), "unknown explainer 'gradients'"),
    ],
)
def test_bad_hyper_parameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
