"""Maps of captum, zennit and grad-cam for the same weights, as recorded by
fixtures/make_attribution.py and live.

They computed in float64 and so does xinv here. Maps agree to 1e-6 of their largest value: a mean is
stabilised by zennit after its division and by xinv before it, which differs by some 1e-9, and 1e-5
with the large epsilon of one case. grad-cam adds 1e-6 to a denominator of Grad-CAM++: its logit is
scaled by 1e4, which makes that 1e-8 or less.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import quick
from witnesses import SOURCES, maps

from xinv import explain

QUADRATURES = (
    "gausslegendre",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
)
NOISE = {"stdev": 0.2, "samples": 5}
RULES = (
    "zplus",
    "flat",
    "w2",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_gamma_box",
)
RULES += ("epsilon_alpha2_beta1_flat",)
CASES = {
    "captum/saliency": ("saliency", {}),
    "captum/input_x_gradient": ("input_x_gradient", {}),
    **{
        f"captum/integrated_gradients/{method}/{multiply}": (
            "integrated_gradients",
            {"steps": 7, "method": method, "multiply_by_inputs": multiply, "baseline": 0.25},
        )
        for method in QUADRATURES
        for multiply in ((True, False) if method == "gausslegendre" else (True,))
    },
    "captum/guided_backprop": ("guided_backprop", {}),
    "captum/deconvolution": ("deconvolution", {}),
    "captum/deeplift/mean/0.0": ("deeplift", {}),
    "captum/deeplift/mean/0.25": ("deeplift", {"baseline": 0.25}),
    "captum/deeplift/max/0.0": ("deeplift", {}),
    "captum/deeplift/max/0.25": ("deeplift", {"baseline": 0.25}),
    "captum/gradcam/True": ("gradcam", {}),
    "captum/gradcam/False": ("gradcam", {"relu": False}),
    "captum/gradcam/input": ("gradcam", {"relu": False, "of": "input"}),
    **{
        f"captum/upsampled/{mode}": ("gradcam", {"upsample": mode.removesuffix("-exact")})
        for mode in ("nearest-exact", "bilinear", "area")
    },
    "grad-cam/gradcam_plus_plus": ("gradcam_plus_plus", {}),
    "captum/guided_gradcam": ("guided_gradcam", {}),
    "captum/lrp": ("lrp", {"rule": "epsilon", "epsilon": 1e-9}),
    "captum/smoothgrad": ("smoothgrad", NOISE),
    "captum/vargrad": ("vargrad", NOISE),
    "zennit/epsilon": ("lrp", {"rule": "epsilon", "epsilon": 0.1}),
    "zennit/alpha_beta": ("lrp", {"rule": "alpha_beta", "alpha": 3.0, "epsilon": 1e-9}),
    "zennit/gamma": ("lrp", {"rule": "gamma", "gamma": 0.5, "epsilon": 1e-9}),
    **{f"zennit/{rule}": ("lrp", {"rule": rule, "epsilon": 1e-9}) for rule in RULES},
}


def pool(x, start, operation, stride):
    return jax.lax.reduce_window(x, start, operation, (1, 2, 2, 1), (1, stride, stride, 1), "VALID")


def network(variables, x, mean=False):
    def conv(x, name, stride, padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, variables[name], (stride, stride), padding, dimension_numbers=numbers
        )
        return jax.nn.relu(x + variables[f"{name}_bias"])

    x = conv(x, "conv1", 1, "SAME")
    x = pool(x, 0.0, jax.lax.add, 2) / 4 if mean else pool(x, -jnp.inf, jax.lax.max, 2)
    x = pool(conv(x, "conv2", 2, "VALID"), 0.0, jax.lax.add, 1) / 4
    x = jax.nn.relu(x.reshape(len(x), -1) @ variables["dense1"] + variables["dense1_bias"])
    return x @ variables["dense2"] + variables["dense2_bias"]


def pooled(variables, x):
    return jnp.einsum("nhwc,hwck->nk", pool(x, -jnp.inf, jax.lax.max, 2), variables["pooled"])


def scaled(variables, x):
    return 1e4 * network(variables, x)


@functools.cache
def compiled(name):
    """The explainer of a case, compiled for both sources."""
    factory, hyper = CASES[name]
    model = network
    if name.startswith("captum/deeplift"):
        model = pooled if "max" in name else functools.partial(network, mean=True)
    model = scaled if name.startswith("grad-cam") else model
    return quick(functools.partial(explain.build(factory, **hyper), model))


@pytest.mark.parametrize("source", SOURCES)
def test_every_map_is_compared(source):
    assert set(CASES) == {name for name in maps("attribution", source) if "/" in name}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with(name, source):
    given = maps("attribution", source)
    with jax.enable_x64(True):
        variables = {
            key: jnp.asarray(given[key])
            for key in given
            if key.startswith(("conv", "dense", "pooled"))
        }
        image, key = jnp.asarray(given["image"]), jax.random.key(0)
        np.testing.assert_allclose(network(variables, image[None])[0], given["logits"], rtol=1e-10)
        found = compiled(name)(variables, image, int(given["label"]), key)
    expected = given[name]
    assert np.abs(expected).max() > 0
    tolerance = 1e-4 if name == "zennit/epsilon" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
