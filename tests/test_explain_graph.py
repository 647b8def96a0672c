"""The engine without rules is jax.grad; with rules it asks them, and refuses what it cannot see."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, NAMES, SHAPE, case, images

from xinv.explain.engine.backward import no_rules, vjp
from xinv.explain.engine.cut import cut
from xinv.explain.engine.graph import one, trace
from xinv.types import InputError


def one_by_one(equation):
    """Every equation by itself, through the machinery of rules, by its own derivative."""
    return lambda context: context.derivative()


@partial(jax.jit, static_argnums=(0, 1))
def gradient(rules, apply, variables, image):
    _, pull = vjp(one(apply, variables), image, rules)
    return pull(jax.nn.one_hot(2, CLASSES))


@partial(jax.jit, static_argnums=0)
def plain_gradient(apply, variables, image):
    return jax.grad(lambda image: one(apply, variables)(image)[2])(image)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_rules_equals_grad_exactly(name):
    apply, variables = case(name)
    image = images(1)[0]
    expected = plain_gradient(apply, variables, image)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(gradient(no_rules, apply, variables, image), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equation_by_equation_equals_grad(name):
    """The walk itself: accumulation over branches, integer values, constants.

    Sums of three may differ by an ulp.
    """
    apply, variables = case(name)
    image = images(1)[0]
    expected = plain_gradient(apply, variables, image)
    found = gradient(one_by_one, apply, variables, image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("rules", [no_rules, one_by_one], ids=["no rules", "one by one"])
def test_ties_keep_declared_derivatives(rules):
    """Ties keep the derivative that the model declares.

    jax.nn.relu declares 0 at 0 where `maximum` gives 0.5.
    """
    declared = lambda x: jax.nn.relu(x) + 10 * jax.nn.relu6(x) + 100 * jnp.maximum(x, 0)
    _, pull = vjp(declared, jnp.array([0.0, 6.0, 1.0]), rules)
    np.testing.assert_array_equal(pull(jnp.ones(3)), [50, 101, 111])


def test_custom_vjp_and_control_flow():
    """Functions with a derivative of their own and control flow keep their derivatives."""

    @jax.custom_vjp
    def clipped(x):
        return x * x

    clipped.defvjp(lambda x: (x * x, x), lambda x, signal: (7 * signal * x,))

    def function(x):
        x, _ = jax.lax.scan(lambda carry, _: (jnp.sin(carry), None), clipped(x), length=3)
        x = jax.lax.cond(x.sum() > 0, jnp.cos, jnp.sin, x)
        return jax.checkpoint(jnp.tanh)(x) + jnp.floor(x)

    x = jnp.array([0.3, 2.0])
    for rules in (no_rules, one_by_one):
        np.testing.assert_array_equal(
            vjp(function, x, rules)[1](jnp.ones(2)), jax.vjp(function, x)[1](jnp.ones(2))[0]
        )


def test_random_numbers_and_integers():
    """Random numbers and integers inside a model change no gradient."""

    def function(x):
        noise = jax.random.normal(jax.random.key(0), x.shape)
        order = jnp.argsort(x)
        return (x * noise)[order] * (x > 0) + x.astype(int)

    x = jnp.array([0.3, -2.0, 1.5])
    np.testing.assert_array_equal(
        vjp(function, x, one_by_one)[1](jnp.ones(3)), jax.vjp(function, x)[1](jnp.ones(3))[0]
    )


def test_ignored_input_has_no_gradient():
    """A function that ignores its input has no gradient."""
    output, pull = vjp(lambda x: jnp.arange(3.0), jnp.ones(2))
    np.testing.assert_array_equal(output, [0, 1, 2])
    np.testing.assert_array_equal(pull(jnp.ones(3)), [0, 0])


def test_rules_inside_relu6_and_clip():
    """Rules see inside ReLU6 and clip, with their bounds."""
    seen = []

    def rules(equation):
        if equation.name in ("max", "min"):
            return lambda context: (
                seen.append((equation.name, [s.is_all(0) or s.is_all(6) for s in equation.inputs]))
                or (context.derivative())
            )
        return None

    vjp(lambda x: jnp.clip(jax.nn.relu6(x), 0, 6), jnp.ones(3), rules)[1](jnp.ones(3))
    assert sorted(name for name, _ in seen) == ["max", "max", "min", "min"]
    assert all(any(bounds) for _, bounds in seen)


def test_declared_derivative_without_rules():
    """A declared derivative is kept unless all of it has rules."""

    @jax.custom_jvp
    def declared(x):
        return jnp.exp(jnp.maximum(x, 0))

    declared.defjvp(lambda x, t: (declared(*x), 5 * t[0]))
    exps = lambda e: one_by_one(e) if e.name == "exp" else None
    with pytest.raises(InputError, match="'exp' and cannot apply it inside 'custom_jvp_call'"):
        vjp(declared, jnp.ones(2), exps)
    tanhs = lambda e: one_by_one(e) if e.name == "tanh" else None
    np.testing.assert_array_equal(vjp(declared, jnp.ones(2), tanhs)[1](jnp.ones(2)), [5, 5])
    assert [
        e.name for e in trace(declared, jnp.ones(2), lambda e: e.name in ("exp", "max")).equations
    ] == [
        "max",
        "exp",
    ]


def test_equations_hidden_in_loops():
    """A rule never misses an equation that is hidden in a loop.

    A loop whose length the values decide cannot be unrolled.
    """

    def function(x):
        return jax.lax.cond(x.sum() > 0, lambda x: jnp.maximum(x, 0), jnp.cos, x)

    with pytest.raises(InputError, match="'max' and cannot apply it inside 'cond'"):
        vjp(function, jnp.ones(2), lambda e: one_by_one(e) if e.name == "max" else None)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_unrolled(reverse):
    """Rules see each step; weights, carries and stacked outputs go where they went."""

    def function(x):
        def step(carry, weights):
            carry = jnp.maximum(weights @ carry, 0)
            return carry, carry.sum()

        carry, sums = jax.lax.scan(step, x, jnp.arange(27.0).reshape(3, 3, 3) - 9, reverse=reverse)
        return jnp.concatenate([carry, sums])

    x, seen = jnp.array([0.2, 1.0, -0.4]), []
    output, pull = vjp(
        function, x, lambda e: (seen.append(e.name) or one_by_one(e)) if e.name == "max" else None
    )
    expected, expected_pull = jax.vjp(function, x)
    np.testing.assert_allclose(output, expected, rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones(6)), expected_pull(jnp.ones(6))[0], rtol=1e-6)
    assert len(seen) == 3


def test_rules_see_the_reference():
    """Rules see the reference beside the image."""

    def slope(context):
        (reference_inputs, reference_outputs) = context.reference
        return [
            context.signals[0]
            * (context.outputs[0] - reference_outputs[0])
            / (context.inputs[0] - reference_inputs[0])
        ]

    function = lambda x: jnp.tanh(2 * x)
    _, pull = vjp(
        function,
        jnp.array([1.0, 2.0]),
        lambda e: slope if e.name == "tanh" else None,
        jnp.array([0.0, 0.5]),
    )
    expected = (np.tanh([2, 4]) - np.tanh([0, 1])) / np.array([1, 1.5])
    np.testing.assert_allclose(pull(jnp.ones(2)), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "marked", "nnx"])
def test_rest_of_a_cut_model(name):
    """The rest of a cut model gives its logits."""
    apply, variables = case(name)
    image = images(1)[0]
    value, rest = cut(one(apply, variables), image)
    np.testing.assert_array_equal(rest(value), one(apply, variables)(image))
    assert value.ndim == 4
    assert np.abs(jax.grad(lambda value: rest(value)[1])(value)).max() > 0


def test_default_cut():
    """The default cut is the last activated convolution.

    After bias, BatchNorm, residual sum and ReLU, before pooling; but a tensor that the model
    names "cam" first.
    """
    shapes = {
        name: cut(one(*case(name)), images(1)[0])[0].shape
        for name in ("plain", "residual", "depthwise", "marked")
    }
    assert shapes == {
        "plain": (1, 2, 2, 8),
        "residual": (1, 6, 6, 8),
        "depthwise": (1, 4, 4, 8),
        "marked": (1, 6, 6, 6),
    }
    apply, variables = case("residual")
    last = (
        cut(one(apply, variables), images(1)[0])[0].mean((1, 2))
        @ variables["params"]["Dense_0"]["kernel"]
    )
    np.testing.assert_allclose(
        last + variables["params"]["Dense_0"]["bias"], apply(variables, images(1)), rtol=1e-5
    )


def test_layer_names():
    """Layers are chosen by index, name and side."""
    function, image = one(*case("depthwise")), images(1)[0]
    assert cut(function, image, "joined")[0].shape == (1, 12, 12, 17)
    assert cut(function, image, "joined", "input")[0].shape == (
        1,
        12,
        12,
        12,
    )  # of the 1×1 convolution
    assert cut(function, image, 0)[0].shape == cut(function, image, -4)[0].shape == (1, 12, 12, 6)
    assert cut(function, image, 0)[0].max() <= 6
    np.testing.assert_array_equal(cut(function, image, 0, "input")[0][0], image)


def test_convolutions_with_own_derivative():
    """Convolutions with a derivative of their own count as layers."""

    @jax.custom_vjp
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    conv.defvjp(lambda x, kernel: jax.vjp(conv.fun, x, kernel), lambda pull, signal: pull(signal))
    function = lambda x: jax.nn.relu(conv(x[None] * 2, jnp.ones((3, 3, 3, 5))) + 1).sum((0, 1, 2))
    image = images(1)[0]
    assert cut(function, image)[0].shape == (1, 12, 12, 5)
    np.testing.assert_array_equal(cut(function, image, -1, "input")[0][0], image * 2)


def test_unknown_layer():
    """An unknown layer is named with those that exist."""
    with pytest.raises(
        InputError, match=r"no layer 'cram': it names 'joined' and has 4 convolutions"
    ):
        cut(one(*case("depthwise")), jnp.zeros(SHAPE), "cram")
    with pytest.raises(InputError, match=r"no layer 9"):
        cut(one(*case("plain")), jnp.zeros(SHAPE), 9)
    with pytest.raises(InputError, match=r"no feature map with rows and columns.*tokens=\(h, w\)"):
        cut(one(*case("raw")), jnp.zeros(SHAPE))
    with pytest.raises(InputError, match="of='middle'"):
        cut(one(*case("plain")), jnp.zeros(SHAPE), 0, "middle")


@pytest.mark.parametrize("rules", [no_rules, one_by_one], ids=["no rules", "one by one"])
def test_weights_stay_unbatched_under_vmap(rules):
    """A batched kernel would become a grouped convolution, several times slower."""
    apply, variables = case("depthwise")
    explain = jax.vmap(lambda image: gradient(rules, apply, variables, image))
    text = str(jax.make_jaxpr(explain)(images()))
    groups = {
        line.split("=")[1] for line in text.split() if line.startswith("feature_group_count=")
    }
    assert groups <= {"1", "6"}
    assert "batch_group_count=3" not in text
