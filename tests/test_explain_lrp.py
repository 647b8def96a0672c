"""LRP against slow readings of its rules' definitions, from explicit Jacobians in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, KEY, SHAPE, call, case, fill, images

from xinv import explain
from xinv.explain.lrp import COMPOSITES

EPSILON = 1e-3


def stabilised(z):
    return z + EPSILON * np.where(z < 0, -1, 1)


def redistribute(terms, bias, relevance):
    """Returns the relevance [n] of `terms` [m,n] of z [m] = Σ terms + bias."""
    return (terms * (relevance / stabilised(terms.sum(1) + bias))[:, None]).sum(0)


def read_rule(rule, jacobian, bias, x, relevance):
    """One layer z = J·x + b, literally (Montavon et al. 2019, table 10.1; gamma as generalised in
    zennit).
    """
    terms, up, down = jacobian * x, np.maximum, np.minimum
    if rule == "alpha_beta":
        positive = redistribute(up(terms, 0), up(bias, 0), relevance)
        return 3 * positive - 2 * redistribute(down(terms, 0), down(bias, 0), relevance)
    if rule == "gamma":
        z, result = terms.sum(1) + bias, 0
        for part, chosen in (up, z > 0), (down, z < 0):
            result += redistribute(
                terms + 0.5 * part(terms, 0), bias + 0.5 * part(bias, 0), relevance * chosen
            )
        return result
    if rule == "zbox":
        return redistribute(terms + 1 * up(jacobian, 0) - 2 * down(jacobian, 0), 0, relevance)
    return {
        "epsilon": lambda: redistribute(terms, bias, relevance),
        "zplus": lambda: redistribute(up(terms, 0), up(bias, 0), relevance),
        "flat": lambda: redistribute((jacobian != 0).astype(float), 0, relevance),
        "w2": lambda: redistribute(jacobian**2, bias**2, relevance),
    }[rule]()


def conv(variables, x, **how):
    return jax.lax.conv_general_dilated(
        x, variables, **how, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def batch_norm(x, v):
    return (x - v["mean"]) * (jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"]) + v["shift"]


def stages(v):
    """Affine stages with others between: strides, dilation, groups, BatchNorm of either sign,
    overlapping pooling.
    """
    return [
        lambda x: (
            conv(v["a"], x, window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 2)) + v["bias"]
        ),
        lambda x: jnp.minimum(jnp.maximum(x, 0), 6.0),
        lambda x: batch_norm(
            conv(v["b"], x, window_strides=(2, 1), padding="VALID", feature_group_count=4), v
        ),
        jax.nn.relu,
        lambda x: jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 2, 1), "VALID"
        ),
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


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["epsilon", "zplus", "alpha_beta", "gamma", "flat", "w2", "zbox"])
def test_lrp_reads_as_its_definition(rule, weights):
    """Every affine stage by its Jacobian; max-pooling by the winner; other stages pass. zbox for
    [-1, 2].
    """
    image = np.random.default_rng(1).uniform(-1, 2, size=(6, 5, 2))
    parameters = {
        "alpha_beta": {"alpha": 3.0},
        "gamma": {"gamma": 0.5},
        "zbox": {"low": -1.0, "high": 2.0},
    }
    with jax.enable_x64(True):

        def apply(v, x):
            for stage in stages(v):
                x = stage(x)
            return x

        found = call(
            explain.lrp(rule, EPSILON, **parameters.get(rule, {})),
            apply,
            weights,
            jnp.asarray(image),
        )
        values = [jnp.asarray(image)[None]]
        for stage in stages(weights):
            values.append(stage(values[-1]))
        relevance = np.asarray(values[-1]).ravel() * np.eye(3)[1]
        for number, stage in reversed(list(enumerate(stages(weights)))):
            if number in (1, 3):
                continue
            x = np.asarray(values[number]).ravel()
            flat = lambda x, stage=stage, shape=values[number].shape: stage(
                x.reshape(shape)
            ).ravel()
            jacobian = np.asarray(jax.jit(jax.jacobian(flat))(x))
            if number == 4:
                relevance = jacobian.T @ relevance
            else:
                bias = np.asarray(values[number + 1]).ravel() - jacobian @ x
                relevance = read_rule(rule, jacobian, bias, x, relevance)
    np.testing.assert_allclose(
        found.ravel(), relevance, rtol=1e-9, atol=1e-12 * np.abs(relevance).max()
    )


def test_gnimes_released_code():
    """z⁺ without biases, an input of ones, max-pooling as a sum, all logits (FACTS: GNIME)."""
    random = np.random.default_rng(2)
    kernel, dense = random.normal(size=(3, 3, 1, 4)), random.normal(size=(16, 3))
    image = random.uniform(size=(4, 4, 1))
    with jax.enable_x64(True):
        conv_ = lambda x: conv(kernel, x, window_strides=(1, 1), padding="SAME")
        pool = lambda x: x.reshape(1, 2, 2, 2, 2, 4).max((2, 4))
        apply = lambda v, x: pool(jax.nn.relu(conv_(x) + 0.1)).reshape(1, -1) @ dense + 0.3
        found = call(explain.lrp("gnime"), apply, {}, jnp.asarray(image))
        activation = jax.nn.relu(conv_(image[None]) + 0.1)
        relevance = np.asarray(apply({}, image[None]))[0]
        x = np.asarray(pool(activation)).ravel()
        positive = np.maximum(dense.T * x, 0)
        relevance = (positive * (relevance / (positive.sum(1) + 1e-9))[:, None]).sum(0)
        members = jax.jacobian(lambda a: a.reshape(1, 2, 2, 2, 2, 4).sum((2, 4)).ravel())(
            activation.ravel()
        )
        terms = np.asarray(members) * np.asarray(activation).ravel()
        relevance = (terms * (relevance / (terms.sum(1) + 1e-9))[:, None]).sum(0)
        terms = np.maximum(
            jax.jacobian(lambda x: conv_(x.reshape(1, 4, 4, 1)).ravel())(image.ravel()), 0
        )
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box", "w2", "gnime"]
)
def test_batch_norm_folded(rule):
    """LRP is the same with BatchNorm folded into the weights."""
    variables = fill(jax.eval_shape(Normed(False).init, jax.random.key(0), jnp.zeros((1, *SHAPE))))
    variables["params"]["BatchNorm_0"]["scale"] *= jnp.array([1, -1, 1, -1, 1, 1])
    folded = {"Dense_0": variables["params"]["Dense_0"]}
    for number in 0, 1:
        norm = (
            variables["params"][f"BatchNorm_{number}"]
            | variables["batch_stats"][f"BatchNorm_{number}"]
        )
        scale = norm["scale"] / jnp.sqrt(norm["var"] + 1e-5)
        kernel = variables["params"][f"Conv_{number}"]["kernel"] * scale
        folded[f"Conv_{number}"] = {"kernel": kernel, "bias": norm["bias"] - norm["mean"] * scale}
    plain = call(explain.lrp(rule), Normed(False).apply, variables, images(1)[0])
    merged = call(explain.lrp(rule), Normed(True).apply, {"params": folded}, images(1)[0])
    np.testing.assert_allclose(plain, merged, atol=2e-4 * np.abs(merged).max())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["epsilon", "zplus", "flat", "w2"])
def test_lrp_conserves_relevance_without_biases(rule):
    """As epsilon vanishes; residual sums, depthwise, strided and dilated convolutions,
    concatenation, all pooling.
    """
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        k = [
            jnp.asarray(random.uniform(0.1, 1, size=s))
            for s in [(3, 3, 3, 6), (3, 3, 1, 6), (1, 1, 12, 5), (5, 4)]
        ]
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "depthwise", "nnx"])
def test_every_composite_treats_every_model(name):
    """Traced only."""
    apply, variables = case(name)
    for rule in COMPOSITES:
        explainer = partial(explain.lrp(rule), apply, variables)
        assert jax.eval_shape(explainer, images(1)[0], jnp.int32(1), KEY).shape == SHAPE
