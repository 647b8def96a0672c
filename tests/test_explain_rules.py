"""Rules on the backward pass against slow readings of their definitions, from explicit Jacobians in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, NAMES, SHAPE, case, fill, images

from xinv import explain
from xinv.explain.graph import one
from xinv.explain.lrp import RULES
from xinv.types import InputError

KEY = jax.random.key(0)
EPSILON = 1e-3


def call(explainer, apply, variables, image, label=1):
    return np.asarray(jax.jit(explainer, static_argnums=0)(apply, variables, image, label, KEY))


def stabilised(z):
    return z + EPSILON * np.where(z < 0, -1, 1)


def shares(terms, bias, relevance):
    """Relevance [n] of `terms` [m,n] of z [m] = Σ terms + bias."""
    return (terms * (relevance / stabilised(terms.sum(1) + bias))[:, None]).sum(0)


def read_rule(rule, jacobian, bias, x, relevance):
    """One layer z = J·x + b, literally (Montavon et al. 2019, table 10.1; gamma as generalised in zennit)."""
    terms, up, down = jacobian * x, np.maximum, np.minimum
    if rule == "alpha_beta":
        positive = shares(up(terms, 0), up(bias, 0), relevance)
        return 3 * positive - 2 * shares(down(terms, 0), down(bias, 0), relevance)
    if rule == "gamma":
        z, result = terms.sum(1) + bias, 0
        for part, chosen in (up, z > 0), (down, z < 0):
            result += shares(terms + 0.5 * part(terms, 0), bias + 0.5 * part(bias, 0), relevance * chosen)
        return result
    if rule == "zbox":
        return shares(terms + 1 * up(jacobian, 0) - 2 * down(jacobian, 0), 0, relevance)
    return {
        "epsilon": lambda: shares(terms, bias, relevance),
        "zplus": lambda: shares(up(terms, 0), up(bias, 0), relevance),
        "flat": lambda: shares((jacobian != 0).astype(float), 0, relevance),
        "w2": lambda: shares(jacobian**2, bias**2, relevance),
    }[rule]()


def conv(variables, x, **how):
    return jax.lax.conv_general_dilated(x, variables, **how, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_norm(x, v):
    return (x - v["mean"]) * (jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"]) + v["shift"]


def stages(v):
    """Affine stages with others between: strides, dilation, groups, BatchNorm of either sign, overlapping pooling."""
    return [
        lambda x: conv(v["a"], x, window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 2)) + v["bias"],
        lambda x: jnp.minimum(jnp.maximum(x, 0), 6.0),
        lambda x: batch_norm(conv(v["b"], x, window_strides=(2, 1), padding="VALID", feature_group_count=4), v),
        jax.nn.relu,
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 2, 1), "VALID"),
        lambda x: x.reshape(len(x), -1) @ v["c"] + v["last"],
    ]


@pytest.fixture(scope="module")
def weights():
    random = np.random.default_rng(0)
    shapes = {
        "a": (3, 3, 2, 4),
        "b": (2, 2, 1, 8),
        "c": (32, 3),
        "bias": (4,),
        "last": (3,),
        "mean": (8,),
        "shift": (8,),
    }
    v = {name: random.normal(size=shape) / 2 for name, shape in shapes.items()}
    return v | {"var": random.uniform(0.5, 2, 8), "scale": random.normal(size=8)}


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "alpha_beta", "gamma", "flat", "w2", "zbox"])
def test_lrp_reads_as_its_definition(rule, weights):
    """Every affine stage by its Jacobian; max-pooling by the winner; other stages pass. zbox for [-1, 2]."""
    image = np.random.default_rng(1).uniform(-1, 2, size=(6, 5, 2))
    parameters = {"alpha_beta": {"alpha": 3.0}, "gamma": {"gamma": 0.5}, "zbox": {"low": -1.0, "high": 2.0}}
    with jax.enable_x64(True):

        def apply(v, x):
            for stage in stages(v):
                x = stage(x)
            return x

        found = call(explain.lrp(rule, EPSILON, **parameters.get(rule, {})), apply, weights, jnp.asarray(image))
        values = [jnp.asarray(image)[None]]
        for stage in stages(weights):
            values.append(stage(values[-1]))
        relevance = np.asarray(values[-1]).ravel() * np.eye(3)[1]
        for number, stage in reversed(list(enumerate(stages(weights)))):
            if number in (1, 3):
                continue
            x = np.asarray(values[number]).ravel()
            flat = lambda x, stage=stage, shape=values[number].shape: stage(x.reshape(shape)).ravel()  # noqa: E731
            jacobian = np.asarray(jax.jit(jax.jacobian(flat))(x))
            if number == 4:
                relevance = jacobian.T @ relevance
            else:
                bias = np.asarray(values[number + 1]).ravel() - jacobian @ x
                relevance = read_rule(rule, jacobian, bias, x, relevance)
    np.testing.assert_allclose(found.ravel(), relevance, rtol=1e-9, atol=1e-12 * np.abs(relevance).max())


def test_gnime_reads_as_its_released_code():
    """z⁺ without biases, an input of ones, max-pooling as a sum, all logits (FACTS: GNIME)."""
    random = np.random.default_rng(2)
    kernel, dense = random.normal(size=(3, 3, 1, 4)), random.normal(size=(16, 3))
    image = random.uniform(size=(4, 4, 1))
    with jax.enable_x64(True):
        conv_ = lambda x: conv(kernel, x, window_strides=(1, 1), padding="SAME")  # noqa: E731
        pool = lambda x: x.reshape(1, 2, 2, 2, 2, 4).max((2, 4))  # noqa: E731
        apply = lambda v, x: pool(jax.nn.relu(conv_(x) + 0.1)).reshape(1, -1) @ dense + 0.3  # noqa: E731
        found = call(explain.lrp("gnime"), apply, {}, jnp.asarray(image))
        activation = jax.nn.relu(conv_(image[None]) + 0.1)
        relevance = np.asarray(apply({}, image[None]))[0]
        x = np.asarray(pool(activation)).ravel()
        positive = np.maximum(dense.T * x, 0)
        relevance = (positive * (relevance / (positive.sum(1) + 1e-9))[:, None]).sum(0)
        members = jax.jacobian(lambda a: a.reshape(1, 2, 2, 2, 2, 4).sum((2, 4)).ravel())(activation.ravel())
        terms = np.asarray(members) * np.asarray(activation).ravel()
        relevance = (terms * (relevance / (terms.sum(1) + 1e-9))[:, None]).sum(0)
        terms = np.maximum(jax.jacobian(lambda x: conv_(x.reshape(1, 4, 4, 1)).ravel())(image.ravel()), 0)
        relevance = (terms * (relevance / (terms.sum(1) + 1e-9))[:, None]).sum(0)
    np.testing.assert_allclose(found.ravel(), relevance, rtol=1e-6)


class Normed(nn.Module):
    folded: bool

    @nn.compact
    def __call__(self, x):
        for features in 6, 8:
            x = nn.Conv(features, (3, 3), 2, use_bias=self.folded)(x)
            x = x if self.folded else nn.BatchNorm(use_running_average=True)(x)
            x = nn.relu(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box", "w2", "gnime"])
def test_lrp_is_the_same_with_batch_norm_folded(rule):
    variables = fill(jax.eval_shape(Normed(False).init, jax.random.key(0), jnp.zeros((1, *SHAPE))))
    variables["params"]["BatchNorm_0"]["scale"] *= jnp.array([1, -1, 1, -1, 1, 1])
    folded = {"Dense_0": variables["params"]["Dense_0"]}
    for number in 0, 1:
        norm = variables["params"][f"BatchNorm_{number}"] | variables["batch_stats"][f"BatchNorm_{number}"]
        scale = norm["scale"] / jnp.sqrt(norm["var"] + 1e-5)
        kernel = variables["params"][f"Conv_{number}"]["kernel"] * scale
        folded[f"Conv_{number}"] = {"kernel": kernel, "bias": norm["bias"] - norm["mean"] * scale}
    plain = call(explain.lrp(rule), Normed(False).apply, variables, images(1)[0])
    merged = call(explain.lrp(rule), Normed(True).apply, {"params": folded}, images(1)[0])
    np.testing.assert_allclose(plain, merged, atol=2e-4 * np.abs(merged).max())


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "flat", "w2"])
def test_lrp_conserves_relevance_without_biases(rule):
    """As epsilon vanishes; residual sums, depthwise, strided and dilated convolutions, concatenation, all pooling."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        k = [jnp.asarray(random.uniform(0.1, 1, size=s)) for s in [(3, 3, 3, 6), (3, 3, 1, 6), (1, 1, 12, 5), (5, 4)]]
        same = {"window_strides": (1, 1), "padding": "SAME"}

        def apply(v, x):
            x = jax.nn.relu(conv(v[0], x, window_strides=(2, 2), padding="SAME"))
            y = jax.nn.relu(conv(v[1], x, feature_group_count=6, rhs_dilation=(2, 2), **same)) + x
            x = conv(v[2], jnp.concatenate([x, y], -1), **same)
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME") / 4
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
            return jax.nn.silu(x.mean((1, 2)) @ v[3])

        image = jnp.asarray(random.uniform(0.1, 1, SHAPE))
        relevance = call(explain.lrp(rule, 1e-12), apply, k, image)
        np.testing.assert_allclose(relevance.sum(), apply(k, image[None])[0, 1], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw"])
def test_deeplift_and_integrated_gradients_sum_to_the_change(name):
    """Rounding of DeepLIFT is that of float32; IG's error is that of 64 points on a function with kinks."""
    apply, variables = case(name)
    image = images(1)[0]
    change = (apply(variables, image[None]) - apply(variables, jnp.full_like(image, 0.3)[None]))[0, 1]
    maps = call(explain.deeplift(baseline=0.3), apply, variables, image)
    np.testing.assert_allclose(maps.sum(), change, rtol=1e-4, atol=1e-5)
    integral = call(explain.integrated_gradients(steps=64, baseline=0.3), apply, variables, image)
    np.testing.assert_allclose(integral.sum(), change, rtol=2e-2, atol=1e-3)


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
def test_deeplift_is_complete_on_functions_of_several_values(function):
    with jax.enable_x64(True):
        apply = lambda v, x: function(x.reshape(len(x), -1)) @ v  # noqa: E731
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
        image, start = jnp.array([0.9, -0.4, 0.2, 1.3]).reshape(2, 2, 1), jnp.full((1, 2, 2, 1), 0.1)
        change = (apply(matrix, image[None]) - apply(matrix, start))[0, 1]
        np.testing.assert_allclose(call(explain.deeplift(0.1), apply, matrix, image).sum(), change, rtol=1e-9)


def test_guided_and_deconvolution_see_every_kind_of_relu():
    """Nothing is silently a plain gradient: raw functions, jax.nn, one ReLU used twice, ReLU6 by minimum and clamp."""
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
        apply = lambda v, x, relu=relu: relu(relu(x.reshape(len(x), -1) @ v) @ v) @ v  # noqa: E731
        first = image.ravel() @ matrix
        second = np.clip(first, 0, bound) @ matrix
        for explainer, masked in (explain.guided_backprop(), True), (explain.deconvolution(), False):
            signal = matrix[:, 1]
            for value in second, first:
                mask = ((value > 0) & (value < bound)) if masked else 1
                signal = matrix @ (np.maximum(signal, 0) * mask)
            np.testing.assert_allclose(call(explainer, apply, matrix, image).ravel(), signal, err_msg=name)


@pytest.mark.parametrize("size", [8, 300])
def test_a_relu_by_hand_is_guided_beside_one_of_jax(size):
    """300 x 300 zeros are too many to be evaluated at trace time."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(size, size, 1)), jnp.float32)
    maps = []
    for relu in jax.nn.relu, lambda x: jnp.where(x > 0, x, 0), lambda x: jnp.maximum(x, jnp.zeros_like(x)):
        apply = lambda v, x, relu=relu: (jax.nn.relu(relu(x) - 0.3) @ v).sum((1, 2))  # noqa: E731
        maps.append(call(explain.guided_backprop(), apply, jnp.array([[1.0, 2.0]]), image))
    assert (maps[0] > 0).any()
    np.testing.assert_array_equal(maps[1], maps[0])
    np.testing.assert_array_equal(maps[2], maps[0])


def test_guided_leaves_other_functions_their_derivative():
    """Leaky ReLUs and smooth functions, softplus too, which computes with a maximum and is no ReLU."""
    x, matrix = jnp.array([-1.5, -0.2, 0.4, 2.0]), jnp.array([[1.0, -2.0]])
    for function in jax.nn.leaky_relu, jax.nn.elu, jax.nn.softplus, jnp.tanh, lambda x: jnp.minimum(x, 0.3), jnp.abs:
        apply = lambda v, x, f=function: jax.nn.relu((f(x) * f(-x)).reshape(1, -1, 1) @ v).sum(1)  # noqa: E731
        found = call(explain.guided_backprop(), apply, matrix, x.reshape(2, 2, 1), 0)
        inner = lambda x, f=function: f(x) * f(-x)  # noqa: E731
        expected = (inner(x) > 0) * jax.vmap(jax.grad(inner))(x)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-7)


def test_gradcam_plus_plus_reads_as_its_equations():
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
    np.testing.assert_allclose(call(explain.gradcam_plus_plus(), apply, variables, images(1)[0]), expected, rtol=1e-4)


def test_cams_of_classes_and_channels_are_those_of_gradcam():
    apply, variables = case("marked")
    image = images(1)[0]
    single = [call(explain.gradcam(), apply, variables, image, label) for label in range(CLASSES)]
    np.testing.assert_allclose(
        call(explain.class_cams(), apply, variables, image), np.concatenate(single, -1), rtol=1e-4
    )
    terms = call(explain.constituent_cams(), apply, variables, image)
    expected = call(explain.gradcam(relu=False), apply, variables, image)
    np.testing.assert_allclose(terms.sum(-1, keepdims=True), expected, rtol=1e-4, atol=1e-6)


@jax.custom_jvp
def own_relu(x):
    return jnp.where(x > 0, x, 0)


own_relu.defjvp(lambda x, t: (own_relu(*x), (x[0] > 0) * t[0]))


@pytest.mark.parametrize(
    ("explainer", "apply", "message"),
    [
        (explain.lrp(), case("raw").apply, "lrp has no rule for 'mul'"),
        (explain.lrp(), lambda v, x: jax.nn.softmax(x.reshape(1, -1)), "lrp has no rule for 'div'"),
        (explain.lrp(), lambda v, x: jax.lax.map(jnp.tanh, x.reshape(1, -1)), "lrp has no rule for 'scan'"),
        (explain.lrp(), lambda v, x: x.reshape(4, -1) @ x.reshape(-1, 4), "lrp has no rule for 'dot_general' of two"),
        (explain.deeplift(), lambda v, x: jnp.sort(x.reshape(1, -1)), "deeplift has no rule for 'sort'"),
        (explain.deeplift(), case("raw").apply, "of integers that depend on the image"),
        (explain.guided_backprop(), lambda v, x: jnp.tanh(x.reshape(1, -1)), "guided_backprop .* the model has none"),
        (explain.deconvolution(), lambda v, x: own_relu(x.reshape(1, -1)), "cannot apply it inside 'custom_jvp_call'"),
        (
            explain.guided_backprop(),
            lambda v, x: jax.lax.map(jax.nn.relu, x.reshape(1, -1)),
            "guided_backprop has a rule for ReLUs and cannot apply it inside 'scan'",
        ),
    ],
)
def test_what_has_no_sound_rule_is_named(explainer, apply, message):
    with pytest.raises(InputError, match=message):
        explainer(apply, case("raw").variables, images(1)[0], 0, KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: explain.lrp("z+"), "rule='z\\+'.*epsilon_plus"),
        (lambda: explain.lrp(pool="max"), "pool='max'.*winner, average"),
        (lambda: explain.lrp(start="all"), "start='all'.*class, logits"),
        (lambda: explain.lrp(alpha=0.5), "alpha >= 1.*got 0.5"),
        (lambda: explain.integrated_gradients(method="simpson"), "method='simpson'.*riemann_left"),
        (lambda: explain.integrated_gradients(steps=0), "steps=0"),
        (lambda: explain.smoothgrad(samples=0), "samples=0"),
        (lambda: explain.build("smoothgrad", base="gradients"), "unknown explainer 'gradients'"),
    ],
)
def test_bad_hyper_parameters_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("name", ["residual", "depthwise", "nnx"])
def test_every_composite_treats_every_model(name):
    """Traced only."""
    apply, variables = case(name)
    for rule in RULES:
        explainer = partial(explain.lrp(rule), apply, variables)
        assert jax.eval_shape(explainer, images(1)[0], jnp.int32(1), KEY).shape == SHAPE
