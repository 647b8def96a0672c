"""Every parameter of every explainer changes the map, DeepLeak's (Table VIII) among them."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import case, images, quick

from xinv import explain

SIDE = 11  # no multiple of the last feature map's side, where "area" would be "nearest"
WAVES = np.sin(np.arange(1, 4) * np.hypot(*np.mgrid[:SIDE, 2 : SIDE + 2])[..., None] / 4)
IMAGE = jnp.asarray(0.4 + 0.3 * WAVES + 0.3 * images(1)[0, :SIDE, :SIDE], jnp.float32)
LABEL = jnp.asarray(1)
KEYS = jax.random.split(jax.random.key(3, impl="unsafe_rbg"), 6)  # compiles faster than the default
BLOCKS = tuple(tuple(y // 4 * 3 + x // 4 for x in range(SIDE)) for y in range(SIDE))
HOST = ("felzenszwalb", "quickshift")
REFERENCE = images(8, seed=1)[:, :SIDE, :SIDE]
SCORE = {"of": ("probability",)}
CAM = {
    "layer": (0,),
    "of": ("input",),
    "upsample": ("nearest", "area", "linear", "bicubic"),
    "relu": (True,),
}
SUPERPIXELS = {
    "segments": (4,),
    "compactness": (0.01,),
    "sigma": (2.0,),
    "segmentation": (BLOCKS,),
    "baseline": (0.5,),
}
NOISE = {"stdev": (1.0,), "samples": (3,), "base": (explain.saliency(),)}
WAYS = ("riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid")

TABLE: dict[str, tuple[dict, dict[str, tuple]]] = {
    "anchors": (
        {
            "threshold": 0.7,
            "batch_size": 8,
            "coverage_samples": 40,
            "segments": 12,
            "max_rounds": 3,
            "baseline": 0.0,
        },
        {
            "segments": (4,),
            "compactness": (0.01,),
            "sigma": (2.0,),
            "segmentation": HOST,
            "baseline": (0.2, "mean"),
        },
    ),
    "class_cams": ({"relu": False}, CAM),
    "constituent_cams": ({}, CAM),
    "deeplift": ({}, {"baseline": (0.5,), "multiply_by_inputs": (False,)}),
    "gradcam": ({"relu": False}, CAM),
    "gradcam_plus_plus": (
        {"relu": False},
        {name: CAM[name] for name in ("layer", "of", "upsample")},
    ),
    "gradient": ({}, SCORE),
    "guided_gradcam": ({}, {"layer": (0,), "of": ("input",), "upsample": ("nearest", "bicubic")}),
    "input_x_gradient": ({}, SCORE),
    "integrated_gradients": (
        {"steps": 3},
        {
            "steps": (4,),
            "method": WAYS,
            "multiply_by_inputs": (False,),
            "baseline": (0.5, "uniform"),
        }
        | SCORE,
    ),
    "kernel_shap": ({"samples": 8, "segments": 6}, {"samples": (7,)} | SUPERPIXELS),
    "lime": (
        {"samples": 12, "segments": 6},
        {
            "samples": (11,),
            "kernel_width": (0.1,),
            "alpha": (0.2,),
            "penalty": ("ridge",),
            "distance": ("euclidean",),
        }
        | SUPERPIXELS,
    ),
    "lrp": (
        {},
        {
            "rule": ("epsilon", "gamma", "alpha_beta", "flat", "w2", "zbox", "gnime"),
            "epsilon": (0.1,),
            "bias": (False,),
            "pool": ("average",),
            "start": ("logits",),
        },
    ),
    "occlusion": ({"window": 5, "stride": 3}, {"window": (3,), "stride": (2,), "baseline": (0.5,)}),
    "protodash": (
        {"reference": REFERENCE, "prototypes": 3},
        {"reference": (1 - REFERENCE,), "prototypes": (2,), "sigma": (0.1,), "kernel": ("linear",)},
    ),
    "removal_trajectory": (
        {"steps": 4},
        {"steps": (3,), "baseline": (0.25, 0.5), "base": (explain.occlusion(5, 3),)},
    ),
    "saliency": ({}, SCORE),
    "shapley_sampling": ({"samples": 2, "segments": 6}, {"samples": (3,)} | SUPERPIXELS),
    "smoothgrad": ({"samples": 4}, NOISE),
    "vargrad": ({"samples": 4}, NOISE),
}
"""Per factory its arguments, and values of each of its parameters instead of these or of the
default.
"""

RANDOM = explain.integrated_gradients(2, baseline="uniform")
MORE: list[tuple[str, dict, dict[str, tuple]]] = [
    ("smoothgrad", {"samples": 3, "base": RANDOM}, {"draw_baseline_from_distrib": (False,)}),
    ("vargrad", {"samples": 3, "base": RANDOM}, {"draw_baseline_from_distrib": (False,)}),
    ("lrp", {"rule": "alpha_beta"}, {"alpha": (1.0,)}),
    ("gradcam_plus_plus", {"relu": False, "layer": 0, "of": "input"}, {"relu": (True,)}),
    ("lrp", {"rule": "gamma"}, {"gamma": (1.0,)}),
    ("lrp", {"rule": "zbox"}, {"low": (-1.0,), "high": (2.0,)}),
    (
        "anchors",
        {
            "threshold": 0.7,
            "batch_size": 8,
            "coverage_samples": 40,
            "max_rounds": 12,
            "beam_size": 3,
            "tau": 0.95,
        }
        | {"segmentation": BLOCKS, "baseline": 0.0},
        {
            "threshold": (0.95,),
            "delta": (0.9,),
            "tau": (0.05,),
            "batch_size": (30,),
            "coverage_samples": (3,),
            "beam_size": (1,),
            "p_sample": (0.2,),
            "max_size": (1,),
            "max_rounds": (1,),
            "max_samples": (24,),
        },
    ),
]
"""Parameters of one choice only."""
ROWS = [(name, *row) for name, row in TABLE.items()] + MORE


def centred(variables, images):
    """What enters the first convolution is not all positive."""
    return case("plain").apply(variables, images - 0.5)


def bright(variables, images):
    """Whether most of the light is there: a prediction that takes several superpixels to hold."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([jnp.full_like(mean, 0.3), mean], -1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper", "others"), ROWS)
def test_every_value_changes_the_map(name, hyper, others):
    """Every value of a parameter gives a map of its own.

    One program for all values of a method's parameters, so that they share what they have in
    common.
    """
    apply, variables = (bright, {}) if name == "anchors" else (centred, case("plain").variables)
    variants = [(parameter, value) for parameter, given in others.items() for value in given]

    def maps(variables):
        every = [explain.build(name, **hyper)]
        for parameter, value in variants:
            kept = {p: x for p, x in hyper.items() if value is not BLOCKS or p != "segments"}
            every.append(explain.build(name, **kept | {parameter: value}))
        return [
            jax.vmap(lambda key, e=e: e(apply, variables, IMAGE, LABEL, key))(KEYS) for e in every
        ]

    first, *found = map(np.asarray, quick(maps)(variables))
    for parameter in others:
        same = [
            first,
            *(
                explanation
                for (p, _), explanation in zip(variants, found, strict=True)
                if p == parameter
            ),
        ]
        for one, other in itertools.combinations(same, 2):
            assert (
                one.shape != other.shape or np.abs(one - other).max() > 1e-4 * np.abs(one).max()
            ), parameter


ELSEWHERE = {"gates", "tokens"}
"""Of models with gates or tokens: test_explain_modern.py."""


def test_no_parameter_is_left_out():
    for factory in explain.FACTORIES:
        tested = {p for name, _, others in ROWS if name == factory.__name__ for p in others}
        assert tested == set(inspect.signature(factory).parameters) - ELSEWHERE, factory.__name__
