"""A linear model and a small network, an explainer of each name with few samples, and the sentence
of an InputError.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinv import explain
from xinv.types import InputError

KEY = jax.random.key(0)
SIDE = 6
CLASSES = 3
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(SIDE, SIDE, 2, CLASSES)).astype(np.float32)
IMAGES = RANDOM.random((3, SIDE, SIDE, 2), np.float32)
IMAGE = IMAGES[0]
GREY = IMAGES[..., :1]
QUARTERS = np.arange(SIDE)[:, None] // 3 * 2 + np.arange(SIDE) // 3
KERNEL = RANDOM.normal(size=(3, 3, 2, 4)).astype(np.float32)
HEAD = RANDOM.normal(size=(4, CLASSES)).astype(np.float32)


def linear(variables, images):
    """Logits Σ w·x; `variables` are the weights."""
    return jnp.einsum("nhwc,hwck->nk", images, variables)


def network(variables, images):
    """A convolution that takes images of its weights' type only, as `lax` does."""
    kernel, head = variables
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(hidden).mean((1, 2)) @ head


FEW = {"samples": 3}
HYPER = {
    "anchors": {
        "batch_size": 8,
        "coverage_samples": 20,
        "max_rounds": 2,
        "max_size": 1,
        "segmentation": QUARTERS,
    },
    "integrated_gradients": {"steps": 3},
    "kernel_shap": {"samples": None, "segmentation": QUARTERS},
    "lime": {"samples": 24, "alpha": 0.0, "segmentation": QUARTERS},
    "occlusion": {"window": 3, "stride": 3},
    "protodash": {"reference": RANDOM.random((5, SIDE, SIDE, 2), np.float32), "prototypes": 2},
    "removal_trajectory": {"steps": 4},
    "shapley_sampling": {"samples": 2, "segmentation": QUARTERS},
    "smoothgrad": FEW,
    "vargrad": FEW,
}
NAMES = tuple(factory.__name__ for factory in explain.FACTORIES)
every = pytest.mark.parametrize("name", NAMES)


def made(name):
    """The explainer of that name, with few samples."""
    return explain.build(name, **HYPER.get(name, {}))


def direct(name, apply=network, variables=(KERNEL, HEAD), image=IMAGE, label=1):
    """One map, called directly."""
    return np.asarray(made(name)(apply, variables, image, label, KEY))


@functools.cache
def exact(name):
    """The map of `network` in float32."""
    return direct(name)


def sentence(call):
    """The one sentence of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert len(text) < 400
    assert "\n" not in text
    return text
