"""One function in many spellings: what a model computes decides its maps, not how it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import KEY

from xinv import explain
from xinv.types import InputError

RANDOM = np.random.default_rng(3)
IMAGE = RANDOM.uniform(0.1, 1, (4, 4, 3))
WEIGHTS = {
    name: RANDOM.normal(size=shape) / 2
    for name, shape in dict(
        a=(12, 6), b=(6, 6), c=(6, 6), d=(6, 4), g=(6,), h=(6,), k=(3, 3, 3, 6), m=(6, 6)
    ).items()
}
LSE = jax.scipy.special.logsumexp


def quick(explainer, model, image=IMAGE, label=1):
    """The map under jit, so that the search of rules is traced and not run eagerly."""
    return np.asarray(jax.jit(lambda v, x: explainer(model, v, x, label, KEY))(WEIGHTS, image))


def assert_same(explainer, model, other, tolerance=1e-6):
    expected = quick(explainer, other)
    np.testing.assert_allclose(
        quick(explainer, model), expected, atol=tolerance * np.abs(expected).max()
    )


def embed(v, x):
    """Four patches of 2×2 as tokens [N,4,6]."""
    patches = x.reshape(len(x), 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(len(x), 4, 12) @ v["a"]


def attention(softmax):
    def model(v, x):
        tokens = embed(v, x)
        scores = (tokens @ v["b"]) @ tokens.swapaxes(-1, -2)
        return (tokens + softmax(scores) @ (tokens @ v["c"])).mean(1) @ v["d"]

    return model


def guarded(a):
    e = jnp.exp(a - a.max(-1, keepdims=True))
    return e / (e.sum(-1, keepdims=True) + 1e-9)


def inverse(a):
    e = jnp.exp(a - jax.lax.stop_gradient(a.max(-1, keepdims=True)))
    return e * (1 / e.sum(-1, keepdims=True))


SOFTMAXES = {
    "twice": lambda a: jnp.exp(a) / jnp.exp(a).sum(-1, keepdims=True),
    "inverse": inverse,
    "guarded": guarded,
    "masked": lambda a: jax.nn.softmax(a, where=jnp.ones(a.shape, bool)),
    "logsumexp": lambda a: jnp.exp(a - LSE(a, axis=-1, keepdims=True)),
    "logarithm": lambda a: jnp.exp(jax.nn.log_softmax(a)),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax(name):
    assert_same(explain.lrp("epsilon"), attention(SOFTMAXES[name]), attention(jax.nn.softmax), 1e-5)


def test_softmax_unknown():
    """Exponentials over their sum with something between are refused, not taken for products."""
    strange = lambda a: jnp.exp(a) / jnp.sqrt(jnp.exp(a).sum(-1, keepdims=True))
    with pytest.raises(InputError, match=r"write it as jax\.nn\.softmax"):
        quick(explain.lrp("epsilon"), attention(strange))


def normalised(norm):
    def model(v, x):
        return norm(embed(v, x)[:, 0]) * v["g"] @ v["d"]

    return model


def by_moments(square):
    def norm(h):
        mean = h.mean(-1, keepdims=True)
        variance = square(h).mean(-1, keepdims=True) - mean * mean
        return (h - mean) * jax.lax.rsqrt(variance + 1e-6)

    return norm


def by_products(h):
    ones = jnp.ones((h.shape[-1], 1)) / h.shape[-1]
    return (h - h @ ones) * jax.lax.rsqrt((h**2) @ ones - (h @ ones) ** 2 + 1e-6)


NORMS = {
    "product": by_moments(lambda h: h * h),
    "power": by_moments(lambda h: h**2.0),
    "conjugate": by_moments(lambda h: h * jnp.conj(h)),
    "products": by_products,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    "method", [explain.lrp("epsilon"), explain.deeplift(0.2)], ids=["lrp", "deeplift"]
)
def test_variance(method, name):
    assert_same(method, normalised(NORMS[name]), normalised(by_moments(jnp.square)), 1e-5)


def test_unshifted_norm():
    """RMSNorm straight before a dense layer: input × gradient with the scale held (Ali et al.
    2022).
    """

    def model(v, x, hold=lambda scale: scale):
        h = embed(v, x)[:, 0]
        return h * hold(jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-6)) @ v["d"]

    def score(x):
        return model(WEIGHTS, x[None], jax.lax.stop_gradient)[0, 1]

    expected = IMAGE * jax.grad(score)(jnp.asarray(IMAGE))
    found = quick(explain.lrp("epsilon", epsilon=1e-12), model)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def logits(v, x):
    return jax.nn.relu(embed(v, x)).mean(1) @ v["d"] + v["g"][:4]


HEADS = {
    "log of softmax": lambda z: jnp.log(jax.nn.softmax(z) + 1e-9),
    "scaled softmax": lambda z: jax.nn.softmax(z) * 1.0,
    "clipped softmax": lambda z: jnp.clip(jax.nn.softmax(z), 1e-7, 1),
    "softmax by hand": lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True),
    "logsumexp": lambda z: z - LSE(z, axis=-1, keepdims=True),
    "log_sigmoid": jax.nn.log_sigmoid,
    "sigmoid by hand": lambda z: 1 / (1 + jnp.exp(-z)),
    "sigmoid by tanh": lambda z: 0.5 * (jnp.tanh(z / 2) + 1),
}


@pytest.mark.parametrize("name", HEADS)
def test_head(name):
    """Probabilities at the end are explained on the logits below."""
    assert_same(explain.lrp("epsilon"), lambda v, x: HEADS[name](logits(v, x)), logits)


def columns(z):
    p = jax.nn.sigmoid(z[:, :1])
    return jnp.concatenate([1 - p, p], -1)


def shares(z):
    p = jnp.clip(jax.nn.softmax(z), 1e-6, 1)
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("head", [columns, shares])
def test_head_of_several(head):
    def model(v, x):
        return head(logits(v, x))

    with pytest.raises(InputError, match=r"the model ends in probabilities .* return its logits"):
        quick(explain.lrp("epsilon"), model)


TURNED = {
    "relu": (lambda z: -jnp.minimum(-z, 0), jax.nn.relu),
    "sigmoid": (lambda z: 1 / (1 + jnp.exp(-z)), jax.nn.sigmoid),
}


@pytest.mark.parametrize("name", TURNED)
def test_turned_signs(name):
    """A function that begins by changing the sign is one of what it rises with: the layer, or its
    weights turned.
    """

    def model(act, sign=1):
        return lambda v, x: act(embed({"a": sign * v["a"]}, x) + sign * v["g"]).mean(1) @ v["d"]

    assert_same(explain.lrp("zplus"), *map(model, TURNED[name]))
    assert_same(explain.lrp("zplus"), model(lambda z: jax.nn.relu(-z)), model(jax.nn.relu, -1))


def test_box_of_slices():
    """Slices of the image that meet again are its intensities, in the same bounds."""

    def sliced(v, x):
        parts = [x[:, row::2, column::2] for row in range(2) for column in range(2)]
        return (
            jax.nn.relu(jnp.concatenate(parts, -1).reshape(len(x), 4, 12) @ v["a"]).mean(1) @ v["d"]
        )

    assert_same(
        explain.lrp("epsilon_gamma_box"),
        sliced,
        lambda v, x: jax.nn.relu(embed(v, x)).mean(1) @ v["d"],
    )


@pytest.mark.parametrize(
    "bounded", [jax.nn.relu6, lambda h: jnp.clip(h, 0, 100.0)], ids=["relu6", "clip"]
)
def test_bounded_signal(bounded):
    """A bounded signal is no gate: what is repeated over positions is."""

    def film(act):
        def model(v, x):
            h = act(
                jax.lax.conv_general_dilated(
                    x, v["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
            gate = h.mean((1, 2)) @ v["m"] + v["h"]
            return (h * gate[:, None, None]).mean((1, 2)) @ v["d"]

        return model

    assert_same(explain.lrp("epsilon"), film(bounded), film(jax.nn.relu))


def test_box_of_standardised_images():
    """Statistics of each image leave no bounds of what the first layer reads."""

    def model(v, x):
        return logits(v, (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True))

    with pytest.raises(InputError, match="statistics of each image"):
        quick(explain.lrp("epsilon_gamma_box"), model)
