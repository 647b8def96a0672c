"""Which tensor a class activation map is made of, and which grid its rows and columns are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from door_zoo import KEY, sentence
from jax.ad_checkpoint import checkpoint_name

from xinv import explain

RANDOM = np.random.default_rng(1)
SIDE, PATCH, WIDTH, CLASSES = 16, 4, 6, 3
GRID = (SIDE // PATCH,) * 2
IMAGE = RANDOM.random((SIDE, SIDE, 3), np.float32)
KERNEL = RANDOM.normal(size=(PATCH, PATCH, 3, WIDTH)).astype(np.float32)
HEAD = RANDOM.normal(size=(WIDTH, CLASSES)).astype(np.float32)
VARIABLES = {"kernel": KERNEL, "head": HEAD, "mixer": RANDOM.normal(size=GRID).astype(np.float32)}
ROUTE = (
    np.arange(SIDE**2).reshape(GRID[0], PATCH, GRID[1], PATCH).swapaxes(1, 2).reshape(-1, PATCH**2)
)
"""The pixels of each patch: a gather, after which the grid is not found by shapes."""


def patches(variables, images):
    """A feature map [N,4,4,6]."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.nn.relu(
        jax.lax.conv_general_dilated(
            images, variables["kernel"], (PATCH,) * 2, "VALID", dimension_numbers=numbers
        )
    )


def pooled(change):
    """The model that pools what `change(variables, feature map)` makes of it."""
    return lambda v, x: change(v, patches(v, x)).mean((1, 2)) @ v["head"]


def default(apply, image=IMAGE):
    """The shape of the default tensor."""
    return explain.layers(apply, VARIABLES, image)[-1].shape


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_resized_map(method):
    """A resized map keeps rows and columns.

    A resize multiplies by a matrix of literals, or gathers: the map before or after it, and no
    mixture.
    """
    shape = default(pooled(lambda v, g: jax.image.resize(g, (len(g), 9, 12, WIDTH), method)))
    assert shape == (1, *(GRID if method == "nearest" else (9, 12)), WIDTH)


def test_mixed_rows_are_no_rows():
    """A learned matrix over rows leaves none: the map before it is the last one."""
    assert default(pooled(lambda v, g: jnp.einsum("nhwc,hk->nkwc", g, v["mixer"]))) == (
        1,
        *GRID,
        WIDTH,
    )


def test_one_row():
    """An image of one row has maps of one row; one whose rows are tokens has none."""
    line = lambda v, x: jax.nn.relu(x @ v["kernel"][0, 0]).mean((1, 2)) @ v["head"]
    assert default(line, IMAGE[:1]) == (1, 1, SIDE, WIDTH)
    rows = lambda v, x: (
        jax.nn.relu(x.reshape(len(x), SIDE, -1) @ v["kernel"].reshape(-1, WIDTH)).mean(1)
        @ v["head"]
    )
    assert explain.layers(rows, VARIABLES, IMAGE) == []


def transformer(found):
    """A class token, then the patches as tokens, and one attention; the grid is found by shapes or
    not.
    """

    def apply(v, x):
        if found:
            tokens = patches(v, x).reshape(len(x), -1, WIDTH)
        else:
            tokens = jax.nn.relu(x.reshape(len(x), -1, 3)[:, ROUTE].reshape(len(x), len(ROUTE), -1))
            tokens = tokens @ v["kernel"].reshape(-1, WIDTH)
        tokens = jnp.concatenate([jnp.ones((len(x), 1, WIDTH)), tokens], 1)
        tokens = checkpoint_name(tokens, "tokens")
        scores = jax.nn.softmax(jnp.einsum("btc,bsc->bts", tokens, tokens))
        return (tokens + jnp.einsum("bts,bsc->btc", scores, tokens)).mean(1) @ v["head"]

    return apply


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, "tokens"])
def test_tokens_agree_with_the_grid(layer):
    """Where shapes tell the grid, others are refused; where they do not, a class token may come
    first.
    """
    image = jnp.asarray(IMAGE)
    call = lambda found, tokens: explain.gradcam(layer, tokens=tokens)(
        transformer(found), VARIABLES, image, 1, KEY
    )
    for found in (True, False):
        assert call(found, GRID).shape == (*GRID, 1)
    for tokens in ((8, 2), (3, 3), (5, 5)):
        assert f"tokens={tokens}" in sentence(lambda tokens=tokens: call(True, tokens))
    assert "tokens" in sentence(lambda: call(False, (5, 5)))


def test_tokens_that_nothing_reads():
    """A convolutional network has no tokens; its own grid contradicts nothing."""
    apply = pooled(lambda v, g: g)
    for layer in (None, 0):
        call = lambda tokens, layer=layer: explain.gradcam(layer, tokens=tokens)(
            apply, VARIABLES, IMAGE, 1, KEY
        )
        assert call(GRID).shape == (*GRID, 1)
        assert "tokens=(2, 3)" in sentence(lambda call=call: call((2, 3)))
    assert "tokens=(2, 3) fit no tensor" in sentence(
        lambda: explain.layers(apply, VARIABLES, IMAGE, (2, 3))
    )
    assert explain.layers(apply, VARIABLES, IMAGE, GRID)[-1].shape == (1, *GRID, WIDTH)


LISTED = {
    "batch axis": ({"image": IMAGE[None]}, "not [1, 16, 16, 3]: give one"),
    "no channel axis": ({"image": IMAGE[..., 0]}, "image[..., None]"),
    "text as tokens": ({"tokens": "4x4"}, "tokens is '4x4'"),
    "tuple": ({"apply": lambda v, x: (pooled(lambda v, g: g)(v, x), 1)}, "apply(v, x)[0]"),
    "no model": ({"apply": None}, "not None"),
    "swapped": ({"apply": VARIABLES, "variables": pooled(lambda v, g: g)}, "apply is a function"),
}


@pytest.mark.parametrize("case", LISTED)
def test_layers(case):
    """`layers` checks its input as an explainer does; of an image the shape alone matters."""
    given, words = LISTED[case]
    fine = {
        "apply": pooled(lambda v, g: g),
        "variables": VARIABLES,
        "image": np.zeros((SIDE, SIDE, 3), np.uint8),
    }
    assert explain.layers(**fine)[-1].shape == (1, *GRID, WIDTH)
    assert words in sentence(lambda: explain.layers(**fine | given))
