"""Every explainer under the architectures of `xinv.models` and models of other kinds, whatever made
them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, SHAPE, Case, case, fill, images, quick
from test_explain_contract import NEEDED, QUARTERS
from test_models_deep import TINY

from xinv import explain
from xinv.models.blocks import classifier

KINDS = ("plain", "resnet", "mobilenet_v2", "densenet", "nnx", "equinox", "raw")
CAMS = {"class_cams", "constituent_cams", "gradcam", "gradcam_plus_plus", "guided_gradcam"}
"""They need a feature map, which the raw function of products has not."""


def equinox_case() -> Case:
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        first: eqx.nn.Conv2d
        second: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __call__(self, image):
            x = jax.nn.relu(self.first(jnp.moveaxis(image, -1, 0)))
            x = jax.nn.gelu(self.second(eqx.nn.AvgPool2d(2, 2)(x)))
            return self.head(x.mean((1, 2)))

    keys = jax.random.split(jax.random.key(0), 3)
    conv = functools.partial(eqx.nn.Conv2d, kernel_size=3)
    net = Net(
        conv(3, 6, key=keys[0]), conv(6, 8, key=keys[1]), eqx.nn.Linear(8, CLASSES, key=keys[2])
    )
    return Case(lambda net, images: jax.vmap(net)(images), net)


@functools.cache
def model(name: str) -> Case:
    if name in ("plain", "nnx"):
        return case(name)
    if name == "equinox":
        return equinox_case()
    if name == "raw":
        shape = images()[0].size, CLASSES
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        return Case(
            lambda matrix, x: jnp.sqrt(1 + jnp.maximum(x.reshape(len(x), -1) @ matrix, 0)), matrix
        )
    apply, init = (
        getattr(classifier(TINY[name], CLASSES, "float32"), part) for part in ("apply", "init")
    )
    return Case(apply, fill(jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *SHAPE)))))


COARSE = CAMS - {"guided_gradcam"} | {"removal_trajectory"}
"""Their maps have the size of the last feature map, or of one pixel."""
GIVEN = {
    name: {key: value for key, value in hyper.items() if key != "segments"}
    | {"segmentation": QUARTERS}
    if "segments" in hyper
    else hyper
    for name, hyper in NEEDED.items()
}
TUNNELS = {
    "smoothgrad of occlusion": explain.smoothgrad(samples=2, base=explain.occlusion(6, 6)),
    "vargrad of guided_backprop": explain.vargrad(samples=2, base=explain.guided_backprop()),
}
EXPLAINERS = {f.__name__: f(**GIVEN.get(f.__name__, {})) for f in explain.FACTORIES} | TUNNELS
PAIRS = [
    (name, kind) for name in EXPLAINERS for kind in KINDS if not (name in CAMS and kind == "raw")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_explainer_explains_every_model(name, kind):
    apply, variables = model(kind)
    explain_one = quick(
        lambda image, label, key: EXPLAINERS[name](apply, variables, image, label, key)
    )
    explanation = np.asarray(explain_one(images()[0], 2, jax.random.key(0, impl="unsafe_rbg")))
    height, width, _ = explanation.shape
    assert np.isfinite(explanation).all()
    assert height == width
    assert height == SHAPE[0] or name in COARSE


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory", [explain.gradcam, explain.gradcam_plus_plus, explain.class_cams]
)
@pytest.mark.parametrize("of", ["output", "input"])
def test_layout_changes_no_cam(factory, of):
    """The same network computed channels-first and channels-last: convolutions say which axis is
    which.
    """
    random = np.random.default_rng(0)
    kernels = [
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((3, 3, 2, 5), (3, 3, 5, 4))
    ]
    head = jnp.asarray(random.normal(size=(4, 3)), jnp.float32)

    def convolve(x, kernel, axes):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)

    def last(variables, x):
        for kernel in kernels:
            x = jnp.maximum(convolve(x, kernel, ("NHWC", "HWIO", "NHWC")), 0)
        return x.mean((1, 2)) @ head

    def first(variables, x):
        x = x.transpose(0, 3, 1, 2)
        for kernel in kernels:
            x = jnp.maximum(convolve(x, kernel, ("NCHW", "HWIO", "NCHW")), 0)
        return x.mean((2, 3)) @ head

    image = jnp.asarray(random.normal(size=(6, 7, 2)), jnp.float32)
    wanted, got = (
        factory(of=of)(apply, None, image, 1, jax.random.key(0)) for apply in (last, first)
    )
    assert wanted.shape[:2] == (6, 7)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
