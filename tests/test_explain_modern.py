"""Models of today against rules written out by hand, other spellings of the same function, and
sums.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import CLASSES, KEY, call, images, quick
from jax.ad_checkpoint import checkpoint_name
from modern_zoo import MODULES, PATCHES, Grouped, modern

from xinv import explain
from xinv.types import InputError

RANDOM = np.random.default_rng(5)
IMAGE = RANDOM.uniform(0.1, 1, (4, 4, 3))
HEADS, WIDTH = 2, 6


def conv(x, kernel, padding="SAME", layout="NHWC"):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=(layout, "HWIO", layout)
    )


# One transformer block, walked by hand in float64


def transformer_weights():
    shapes = {
        "patch": (12, WIDTH),
        "place": (5, WIDTH),
        "token": (1, WIDTH),
        "gamma": (WIDTH,),
        "beta": (WIDTH,),
    }
    shapes |= dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH)) | {
        "head": (WIDTH, CLASSES)
    }
    return {name: RANDOM.normal(size=shape) for name, shape in shapes.items()} | {
        "bias": RANDOM.normal(size=WIDTH)
    }


def norm(x, gamma, beta):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * gamma + beta


def transformer(v, x):
    """[1,4,4,3] as four patches of 2×2 and a class token; the class token's logits."""
    x = x.reshape(2, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(4, 12) @ v["patch"] + v["bias"]
    x = jnp.concatenate([v["token"], x]) + v["place"]
    y = norm(x, v["gamma"], v["beta"])
    q, k, u = ((y @ v[name]).reshape(5, HEADS, -1) for name in ("query", "key", "value"))
    p = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) / 3**0.5)
    x = x + jax.nn.gelu(
        jnp.einsum("hqk,khd->qhd", p, u).reshape(5, -1) @ v["out"], approximate=False
    )
    return x[:1] @ v["head"]


def linear(x, weights, z, relevance):
    return x * (relevance / z @ weights.T)


def transformer_relevance(v, image, label):
    """AttnLRP's rules, one after another (Achtibat et al. 2024; for the normalisation Ali et al.
    2022).
    """
    patches = image.reshape(2, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(4, 12)
    embedded = patches @ v["patch"] + v["bias"]
    tokens = np.concatenate([v["token"], embedded])
    x = tokens + v["place"]
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * v["gamma"]
    y = scaled + v["beta"]
    q, k, u = ((y @ v[name]).reshape(5, HEADS, -1) for name in ("query", "key", "value"))
    s = np.einsum("qhd,khd->hqk", q, k) / 3**0.5
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    o = np.einsum("hqk,khd->qhd", p, u)
    mixed = o.reshape(5, -1) @ v["out"]
    g = np.asarray(jax.nn.gelu(mixed, approximate=False))
    total = x + g
    relevance = np.zeros_like(total)
    z = (total[0] @ v["head"])[label]
    relevance[0] = total[0] * v["head"][:, label] / z * z
    to_x, to_g = x / total * relevance, g / total * relevance
    to_o = linear(o.reshape(5, -1), v["out"], mixed, to_g).reshape(o.shape)
    ratio = to_o / (2 * o)
    to_p = p * np.einsum("qhd,khd->hqk", ratio, u)
    to_u = u * np.einsum("hqk,qhd->khd", p, ratio)
    to_s = s * (to_p - p * to_p.sum(-1, keepdims=True))
    ratio = to_s / (2 * s * 3**0.5)
    to_q, to_k = q * np.einsum("hqk,khd->qhd", ratio, k), k * np.einsum("hqk,qhd->khd", ratio, q)
    to_y = 0
    for name, value, part in ("query", q, to_q), ("key", k, to_k), ("value", u, to_u):
        to_y = to_y + linear(y, v[name], value.reshape(5, -1), part.reshape(5, -1))
    to_n = scaled / y * to_y
    centre = np.eye(WIDTH) - 1 / WIDTH
    to_x = to_x + x * (to_n / centred @ centre)
    to_e = (tokens / x * to_x)[1:]
    back = linear(patches, v["patch"], embedded, to_e)
    return back.reshape(2, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 3)


@pytest.mark.slow
def test_attention_by_hand():
    """Patches, class token, position embedding, LayerNorm, queries and keys, softmax, values, exact
    GELU.
    """
    v = transformer_weights()
    with jax.enable_x64(True):
        found = call(explain.lrp("epsilon", 1e-13), transformer, v, jnp.asarray(IMAGE), 2)
    expected = transformer_relevance(v, IMAGE, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("gates", ["signal", "uniform"])
def test_gates_by_hand(gates):
    """Squeeze-excitation of positive values: all to the signal, or half to each."""
    a, b = RANDOM.uniform(0.1, 1, (3, 4)), RANDOM.uniform(-1, 1, (4, 4))

    def apply(v, x):
        x = x.reshape(1, 16, 3) @ a
        return (x * jax.nn.sigmoid(x.mean(1, keepdims=True) @ b)).mean(1)

    with jax.enable_x64(True):
        found = call(explain.lrp("epsilon", 1e-13, gates=gates), apply, {}, jnp.asarray(IMAGE))
    flat = IMAGE.reshape(16, 3)
    x = flat @ a
    means = x.mean(0)
    gate = 1 / (1 + np.exp(-means @ b))
    relevance = np.zeros_like(x)
    relevance[:, 1] = x[:, 1] * gate[1] / 16
    part = 1 if gates == "signal" else 0.5
    to_x = part * relevance
    to_means = means * (
        np.where(np.arange(4) == 1, (1 - part) * relevance.sum(), 0) / (means @ b) @ b.T
    )
    to_x = to_x + x / 16 * (to_means / means)
    expected = linear(flat, a, x, to_x).reshape(4, 4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


RULES = ["epsilon", "zplus", "alpha_beta", "gamma", "w2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "padding"), [("epsilon", "SAME"), *((rule, "VALID") for rule in RULES)]
)
def test_batch_norm_before_a_convolution(rule, padding):
    """conv, ReLU, BatchNorm of either sign, grouped conv: the same as with it folded into kernel
    and bias.
    """
    k, s, o = (
        RANDOM.normal(size=(3, 3, 3, 4)),
        np.array([0.5, -2.0, 1.5, -0.7]),
        RANDOM.normal(size=4),
    )
    kernel, head = RANDOM.normal(size=(3, 3, 2, 6)), RANDOM.normal(size=(6, CLASSES))
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
    grouped = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **numbers)
    folded = kernel * s.reshape(2, 2).T[None, None, :, [0, 0, 0, 1, 1, 1]]

    def plain(v, x):
        return jax.nn.relu(grouped(jax.nn.relu(conv(x, k)) * s + o, kernel)).mean((1, 2)) @ head

    def merged(v, x):
        shift = grouped(jnp.broadcast_to(o, (1, 4, 4, 4)), kernel)  # padding is 0, not the shift
        shift = shift if padding == "SAME" else shift[0, 0, 0]
        return jax.nn.relu(grouped(jax.nn.relu(conv(x, k)), folded) + shift).mean((1, 2)) @ head

    with jax.enable_x64(True):
        image = jnp.asarray(IMAGE)
        np.testing.assert_allclose(plain({}, image[None]), merged({}, image[None]), rtol=1e-12)
        maps = [call(explain.lrp(rule, 1e-9), apply, {}, image) for apply in (plain, merged)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-6, atol=1e-9 * np.abs(maps[1]).max())


# Three spellings of one function

WEIGHTS = {
    "a": RANDOM.normal(size=(3, 3, 3, 8)) / 3,
    "b": RANDOM.normal(size=(3, 3, 8, 8)) / 5,
    "head": RANDOM.normal(size=(8, CLASSES)),
    "bias": RANDOM.normal(size=8),
    "scale": RANDOM.uniform(0.5, 2, 8),
    "last": RANDOM.normal(size=CLASSES),
}
WEIGHTS = {name: np.float32(value) for name, value in WEIGHTS.items()}


def batched(v, x):
    x = jax.nn.relu((conv(x, v["a"]) + v["bias"]) * v["scale"] - 0.1)
    return jax.nn.relu(conv(x, v["b"]) + v["bias"]).mean((1, 2)) @ v["head"] + v["last"]


def single(v, image):
    """[H,W,C] -> [K], channels first, as Equinox writes it."""
    column = lambda name: v[name][:, None, None]
    x = conv(jnp.moveaxis(image, -1, 0)[None], v["a"], layout="NCHW")[0] + column("bias")
    x = jax.nn.relu(x * column("scale") - 0.1)
    x = jax.nn.relu(conv(x[None], v["b"], layout="NCHW")[0] + column("bias"))
    return v["head"].T @ x.mean((1, 2)) + v["last"]


def ported(v, x):
    """Convolutions in NCHW between transposes."""
    turned = lambda x, kernel: conv(x.transpose(0, 3, 1, 2), kernel, layout="NCHW").transpose(
        0, 2, 3, 1
    )
    x = jax.nn.relu((turned(x, v["a"]) + v["bias"]) * v["scale"] - 0.1)
    return jax.nn.relu(turned(x, v["b"]) + v["bias"]).mean((1, 2)) @ v["head"] + v["last"]


CHEAP = {
    "integrated_gradients": {"steps": 4},
    "protodash": {"reference": np.asarray(images(3)), "prototypes": 2},
    "removal_trajectory": {"steps": 4},
    "smoothgrad": {"samples": 3},
    "vargrad": {"samples": 3},
}
ANSWERS_ALONE = ("anchors", "kernel_shap", "lime", "occlusion", "shapley_sampling")
"""Methods that see the model's answers, which are equal, and never how it computes them."""
LOOK_INSIDE = [factory for factory in explain.FACTORIES if factory.__name__ not in ANSWERS_ALONE]


@pytest.mark.slow
@pytest.mark.parametrize("factory", LOOK_INSIDE, ids=lambda factory: factory.__name__)
def test_three_spellings_agree(factory):
    explainer = explain.build(factory.__name__, **CHEAP.get(factory.__name__, {}))
    expected = call(explainer, batched, WEIGHTS, images(1)[0])
    for apply in jax.vmap(single, (None, 0)), ported:
        found = call(explainer, apply, WEIGHTS, images(1)[0])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", ["epsilon", "zplus", "alpha_beta", "gamma", "epsilon_gamma_box", "w2"]
)
def test_three_spellings_share_relevance(rule):
    expected = call(explain.lrp(rule), batched, WEIGHTS, images(1)[0])
    for apply in jax.vmap(single, (None, 0)), ported:
        found = call(explain.lrp(rule), apply, WEIGHTS, images(1)[0])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


# Every kind of model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_deeplift_is_complete(name):
    """In float32, from a black baseline (of variance 0) and from a grey one."""
    apply, variables = modern(name)
    image = images(1)[0]
    baselines = 0.0, 0.5
    both = [jnp.full_like(image, baseline) for baseline in baselines]
    logits = np.asarray(quick(apply)(variables, jnp.stack([image, *both])))[:, 1]
    for baseline, start in zip(baselines, logits[1:], strict=True):
        total = call(explain.deeplift(baseline), apply, variables, image).sum()
        np.testing.assert_allclose(total, logits[0] - start, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["convnext", "efficientnet", "mobilenet v3", "mixer", "groupnorm", "nfnet"]
)
def test_relevance_is_conserved(name):
    """Without biases what enters is the logit: only attention, position embeddings and shifts
    absorb.
    """
    apply, variables = modern(name)
    shifts = {"bias", "mean"}
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key in shifts else leaf, variables
    )
    image = images(1)[0]
    total = call(explain.lrp("epsilon", 1e-7), apply, variables, image).sum()
    np.testing.assert_allclose(
        total, quick(apply)(variables, image[None])[0, 1], rtol=1e-2, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_feature_map_is_found(name):
    """At the resolution before pooling; of a 1×1 head, a token or a concatenation the map that it
    comes from.
    """
    apply, variables = modern(name)
    explained = functools.partial(explain.gradcam(), apply)
    shape = jax.eval_shape(explained, variables, images(1)[0], 1, KEY).shape
    sizes = {
        "convnext": 6,
        "efficientnet": 6,
        "mobilenet v3": 6,
        "groupnorm": 12,
        "preactivated": 12,
        "nfnet": 12,
    }
    assert shape == (*(sizes[name],) * 2, 1) if name in sizes else (*PATCHES, 1)
    assert explain.layers(apply, variables, images(1)[0])[-1].shape[1:3] == shape[:2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "vit dense", "vit fused"])
def test_gradcam_of_a_transformer(name):
    """Eq. 1 and 2 on the tokens that the last attention reads, without the class token."""
    apply, variables = modern(name)
    module, image = MODULES[name], images(1)[0]
    past, tokens = quick(functools.partial(module.apply, method="before"))(variables, image[None])
    after = lambda tokens: module.apply(variables, past, tokens, method="after")[0, 1]
    slope = quick(jax.grad(after))(tokens)[0, 1:]
    expected = np.maximum((slope.mean(0) * tokens[0, 1:]).sum(-1), 0).reshape(*PATCHES, 1)
    found = call(explain.gradcam(), apply, variables, image)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(slope).max())


def test_named_tokens_need_a_grid():
    def apply(v, x):
        tokens = checkpoint_name(x.reshape(1, 16, 3) @ v, "tokens")
        return tokens.mean(1)

    matrix, image = jnp.asarray(RANDOM.normal(size=(3, CLASSES)), jnp.float32), jnp.float32(IMAGE)
    with pytest.raises(InputError, match=r"tokens=\(h, w\)"):
        explain.gradcam("tokens")(apply, matrix, image, 1, KEY)
    named = call(explain.gradcam("tokens", tokens=(4, 4)), apply, matrix, image)
    np.testing.assert_allclose(named, call(explain.gradcam(), apply, matrix, image), rtol=1e-5)


def test_uninfluential_tensor_refused():
    """A tensor without influence is refused."""

    def apply(v, x):
        checkpoint_name(jnp.sin(x), "aside")
        return (x.reshape(1, -1) @ v)[:, :2]

    with pytest.raises(InputError, match="layer 'aside' has no influence"):
        explain.gradcam("aside")(apply, jnp.ones((48, 2)), jnp.float32(IMAGE), 1, KEY)


def guided(masked):
    """A ReLU whose derivative is the method's rule."""
    relu = jax.custom_vjp(lambda x: jnp.maximum(x, 0))
    relu.defvjp(
        lambda x: (jnp.maximum(x, 0), x),
        lambda x, signal: (jnp.maximum(signal, 0) * ((x > 0) if masked else 1),),
    )
    return relu


@pytest.mark.slow
@pytest.mark.parametrize(
    ("explainer", "masked"), [(explain.guided_backprop(), True), (explain.deconvolution(), False)]
)
def test_a_variance_is_no_signal(explainer, masked):
    """GroupNorm and LayerNorm clip theirs; only the activations are rectified."""
    apply, variables = modern("groupnorm")
    image = images(1)[0]
    module = Grouped(relu=guided(masked))
    expected = quick(jax.grad(lambda image: module.apply(variables, image[None])[0, 1]))(image)
    found = call(explainer, apply, variables, image)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.hard_swish,
        jax.nn.hard_sigmoid,
        jax.nn.celu,
        jax.nn.gelu,
        lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
    ],
)
def test_clips_that_are_no_relu(function):
    with pytest.raises(InputError, match="the model has none"):
        explain.guided_backprop()(
            lambda v, x: function(conv(x, v)).mean((1, 2)), WEIGHTS["a"], images(1)[0], 1, KEY
        )


def test_a_mirrored_relu_is_one():
    image = images(1)[0]
    mirrored = lambda v, x: (-jnp.minimum(-conv(x, v), 0)).mean((1, 2))
    plain = lambda v, x: jax.nn.relu(conv(x, v)).mean((1, 2))
    for explainer in explain.guided_backprop(), explain.deconvolution():
        maps = [call(explainer, apply, WEIGHTS["a"], image) for apply in (mirrored, plain)]
        np.testing.assert_allclose(*maps, rtol=1e-6)


@pytest.mark.parametrize("head", [jax.nn.softmax, jax.nn.log_softmax, jax.nn.sigmoid])
def test_relevance_is_of_logits(head):
    expected = call(explain.lrp(), batched, WEIGHTS, images(1)[0])
    found = call(explain.lrp(), lambda v, x: head(batched(v, x)), WEIGHTS, images(1)[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "pool", [lambda x: jax.lax.top_k(x, 5)[0], lambda x: jnp.sort(x)[..., 3:9]]
)
def test_sorted_pooling(pool):
    """Relevance goes to the elements taken; DeepLIFT's multipliers give the whole change."""

    def apply(v, x):
        x = jax.nn.relu(conv(x, v["a"])).reshape(len(x), -1, 8)
        return pool(x.transpose(0, 2, 1)).mean(-1) @ v["head"]

    image = images(1)[0]
    logit = apply(WEIGHTS, image[None])[0, 1]
    change = logit - apply(WEIGHTS, 0 * image[None])[0, 1]
    np.testing.assert_allclose(
        call(explain.deeplift(), apply, WEIGHTS, image).sum(), change, rtol=1e-4
    )
    np.testing.assert_allclose(
        call(explain.lrp("epsilon"), apply, WEIGHTS, image).sum(), logit, rtol=1e-3
    )


def test_box_of_the_image():
    """Standardised inside: the map of the same model with the standardisation in its weights, whose
    box is [0,1].
    """
    mean, deviation = np.float32([0.48, 0.45, 0.4]), np.float32([0.2, 0.3, 0.25])
    kernel = WEIGHTS["a"]
    inside = lambda v, x: (
        jax.nn.relu(conv((x - mean) / deviation, kernel, "VALID")).mean((1, 2)) @ v
    )
    folded, shift = (
        kernel / deviation[:, None],
        (kernel * (mean / deviation)[:, None]).sum((0, 1, 2)),
    )
    merged = lambda v, x: jax.nn.relu(conv(x, folded, "VALID") - shift).mean((1, 2)) @ v
    maps = [
        call(explain.lrp("epsilon_gamma_box"), apply, WEIGHTS["head"], images(1)[0])
        for apply in (inside, merged)
    ]
    np.testing.assert_allclose(*maps, atol=2e-4 * np.abs(maps[1]).max())


@pytest.mark.parametrize("soft", [True, False])
def test_a_maximum_of_shifted_scores(soft):
    """XLA rounds fused products and sums otherwise than alone: none may equal its maximum."""
    random = np.random.default_rng(5)
    matrix, bias = random.normal(size=(27, 16)) / 3, random.normal(size=(16, 16)) / 3

    def apply(v, x):
        patches = (
            x.reshape(len(x), 4, 3, 4, 3, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 16, 27)
        )
        tokens = patches @ jnp.float32(matrix)
        scores = jnp.einsum("btd,bsd->bts", tokens, tokens) * 8**-0.5 + v
        return (jax.nn.softmax(scores) @ tokens).mean(1)[:, :4] if soft else scores.max(-1)[:, :4]

    image, bias = images(1)[0], jnp.float32(bias)
    change = (apply(bias, image[None]) - apply(bias, 0 * image[None]))[0, 1]
    np.testing.assert_allclose(
        call(explain.deeplift(), apply, bias, image).sum(), change, rtol=1e-4, atol=1e-5
    )
