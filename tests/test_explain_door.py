"""The door of every explainer: images, labels and models are right, or one sentence says what is.

A linear model z = Σ w·x has a closed form: its gradient is w.
"""

import collections

import flax.core
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from door_zoo import (
    CLASSES,
    GREY,
    HEAD,
    HYPER,
    IMAGE,
    IMAGES,
    KERNEL,
    KEY,
    WEIGHTS,
    direct,
    every,
    exact,
    linear,
    made,
    network,
    sentence,
)
from flax import nnx

from xinv import explain, models
from xinv.explain.normalise import minmax

COMPARE_CLASSES = ("anchors", "protodash")
OF_CONFIDENCE = ("removal_trajectory",)
"""Methods of the probability: one logit z stands for the two logits [z, 0]."""
DRAWING = ("anchors", "lime", "shapley_sampling", "smoothgrad", "vargrad")
Named = collections.namedtuple("Named", ["logits", "hidden"])
RETURNED = {
    "tuple": (lambda z: (z, 0), "[0]"),
    "logits second": (lambda z: ({"batch_stats": {}}, z), "[1]"),
    "named tuple": (lambda z: Named(z, z), "a Named"),
    "list": (lambda z: [z], "[0]"),
    "dict": (lambda z: {"hidden": z.sum(), "logits": z}, "['logits']"),
    "frozen dict": (lambda z: flax.core.freeze({"logits": z}), "'logits'"),
    "empty": (lambda z: (), "an empty tuple"),
    "one logit [N]": (lambda z: z[:, 0], "[:, None]"),
    "four axes": (lambda z: z[:, None, None], "not [1, 1, 1, 3]"),
    "mean over images": (lambda z: z.mean(0), "not [3]"),
    "transposed": (lambda z: z.T, "not [3, 1]"),
    "no class": (lambda z: z[:, :0], "not [1, 0]"),
    "classes": (lambda z: z.argmax(-1, keepdims=True), "of floats, not of int32"),
    "nothing": (lambda z: None, "NoneType"),
    "number": (lambda z: 1.0, "a float"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_apply_returns(case):
    """A model that returns no logits [N,K] is one sentence that says how to give them, directly and
    in `batch`.
    """
    change, words = RETURNED[case]

    def apply(variables, images):
        return change(linear(variables, images))

    explainer = explain.gradient()
    assert words in sentence(lambda: explainer(apply, WEIGHTS, IMAGE, 1, KEY))
    for labels in (None, [0, 1, 2], np.array([0, 1, 2], object)):
        assert words in sentence(
            lambda labels=labels: explain.batch(explainer, apply, WEIGHTS, IMAGES, labels, KEY)
        )


@pytest.mark.slow
@every
def test_tuples_reach_no_method(name):
    """No method explains the first thing that it finds in a tuple."""
    text = sentence(lambda: direct(name, lambda v, x: (network(v, x), 0)))
    assert "lambda v, x: apply(v, x)[0]" in text


def test_logits_of_fewer_images():
    """A model that drops images is refused by methods that give it several."""
    assert "not [1, 3] for" in sentence(
        lambda: direct("occlusion", lambda v, x: linear(v, x)[:1], WEIGHTS)
    )


def test_constant_logits_have_no_slope():
    """A NumPy array that does not depend on the image is a model, too."""
    constant = lambda v, x: np.zeros((len(x), 2), np.float32)
    assert not explain.batch(explain.gradient(), constant, None, IMAGES, None, KEY).any()


@pytest.mark.slow
@every
def test_nan_weights_are_named(name):
    """A model that gives NaN has no map, and never a map of zeros."""
    text = sentence(lambda: direct(name, variables=(KERNEL * np.nan, HEAD)))
    assert "NaN" in text


def broken(variables, images):
    """The network with NaN as the bias of class 2, which the gradient of another class does not
    see.
    """
    return network(variables, images) + jnp.array([0, 0, jnp.nan])


@pytest.mark.slow
@every
def test_nan_of_another_class(name):
    """A model that gives NaN for any class has no map of the others."""
    assert "NaN" in sentence(lambda: direct(name, broken))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, [0, 1, 1]])
@pytest.mark.parametrize("name", ["gradient", "gradcam", "guided_backprop", "lime", "protodash"])
def test_nan_in_batch(name, labels):
    """`batch` names NaN of another class as a direct call does.

    Given labels or none, where NaN predicts no class to explain.
    """
    assert "NaN" in sentence(
        lambda: explain.batch(made(name), broken, (KERNEL, HEAD), IMAGES, labels, KEY)
    )


def test_nan_under_jit_stays_nan():
    """Where values are not known, NaN logits give a map of NaN."""
    explainer = explain.lime(**HYPER["lime"])
    found = jax.jit(lambda x: explainer(lambda v, x: linear(v, x) + jnp.nan, WEIGHTS, x, 1, KEY))(
        IMAGE
    )
    assert np.isnan(found).all()


LABELS = {
    "too large": (CLASSES, f"label {CLASSES} is no class"),
    "negative": (-1, "label -1 is no class"),
    "array": (jnp.array(7), "label 7 is no class"),
    "float": (1.0, "one integer, not 1.0"),
    "NaN": (float("nan"), "not nan"),
    "flag": (True, "not True"),
    "nothing": (None, "not None"),
    "name": ("cat", "not 'cat'"),
    "column": (np.array([1]), "label[0]"),
    "one-hot": (np.array([0, 1, 0]), "argmax"),
    "ragged": ([1, [2]], "cannot be made an array"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_direct_calls(case):
    """A label is one integer below the number of classes, as far as it is known."""
    label, words = LABELS[case]
    assert words in sentence(lambda: direct("gradient", linear, WEIGHTS, label=label))


@every
def test_label_range_in_methods(name):
    """Each method refuses a class that the model does not have, where the label is known."""
    for label in (CLASSES, -1):
        assert f"label {label} is no class of a model with classes 0 to 2" in sentence(
            lambda label=label: direct(name, label=label)
        )


@pytest.mark.parametrize("label", [2, np.int8(2), np.uint8(2), np.array(2), jnp.array(2)])
def test_spellings_of_a_label(label):
    """All integers without axes are labels."""
    np.testing.assert_allclose(
        direct("gradient", linear, WEIGHTS, label=label), WEIGHTS[..., 2], rtol=1e-6
    )


BATCH_LABELS = {
    "one-hot": (np.eye(CLASSES, dtype=int), "argmax(1)"),
    "column": ([[0], [1], [2]], "labels[:, 0]"),
    "floats": ([0.0, 1.7, 2.0], "not float64"),
    "NaN": (np.array([0, np.nan, 1]), "not float64"),
    "flags": ([True, False, True], "not bool"),
    "names": (["a", "b", "c"], "'a' is no class"),
    "too few": ([0, 1], "labels are [3]"),
    "one": (1, "labels are [3]"),
    "too large": ([0, 1, 3], "label 3 is no class"),
    "large": (np.array([0, 1, 2**40]), f"label {2**40} is no class"),
    "ragged": ([0, [1], 2], "cannot be made an array"),
}


@pytest.mark.parametrize("case", BATCH_LABELS)
def test_labels_of_batch(case):
    """Labels of `batch` are N integers in range; N = K here, so shapes alone cannot tell."""
    labels, words = BATCH_LABELS[case]
    assert words in sentence(
        lambda: explain.batch(explain.gradient(), linear, WEIGHTS, IMAGES, labels, KEY)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guided_gradcam", "lrp", "smoothgrad"])
def test_one_call_of_the_model(name):
    """Predictions, the number of classes and the map are computed from one call of the model's
    function.
    """
    calls = []

    def counted(variables, images):
        calls.append(images.shape)
        return network(variables, images)

    explain.batch(made(name), counted, (KERNEL, HEAD), IMAGES, None, KEY)
    assert len(calls) == 1


def test_training_mode_is_refused():
    """A module that changes its statistics, for eval() was forgotten, has no map of the statistics
    of one image.
    """
    norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)

    def training(state, images):
        return linear(WEIGHTS, nnx.merge(graph, state)(images))

    with pytest.raises(flax.errors.TraceContextError):
        explain.batch(explain.gradient(), training, state, IMAGES, [0, 1, 2], KEY)


class Unhashable(dict):
    """A model, or an explainer, that has no hash."""

    def __call__(self, *arguments):
        return self["function"](*arguments)


def test_functions_without_a_hash():
    """They are their own key: hashing is nobody's business but ours."""
    model, explainer = Unhashable(function=linear), Unhashable(function=explain.gradient())
    found = explain.batch(explainer, model, WEIGHTS, IMAGES, [0, 1, 2], KEY)
    np.testing.assert_allclose(found, np.moveaxis(WEIGHTS, -1, 0), rtol=1e-6)


OTHERS = {
    "text in variables": (
        {"variables": {"w": WEIGHTS, "act": "relu"}},
        "'relu', which is no array",
    ),
    "function in variables": ({"variables": (WEIGHTS, linear)}, "equinox.partition"),
    "channels of out": (
        {"out": np.zeros(GREY.shape, np.float32)},
        "out is [3, 6, 6, 1] but must be",
    ),
    "list as out": ({"out": [0]}, "out is [0] but must be"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_arguments_of_batch(case):
    """What holds no array is named before anything is computed."""
    change, words = OTHERS[case]
    given = {"variables": WEIGHTS, "out": None} | change
    assert words in sentence(
        lambda: explain.batch(
            explain.gradient(), linear, given["variables"], IMAGES, None, KEY, out=given["out"]
        )
    )


@pytest.mark.parametrize(
    "labels", [[2, 0, 1], (2, 0, 1), np.array([2, 0, 1], np.uint8), jnp.array([2, 0, 1])]
)
def test_spellings_of_labels(labels):
    """Lists and all types of integers give the maps of their classes."""
    found = explain.batch(explain.gradient(), linear, WEIGHTS, IMAGES, labels, KEY)
    np.testing.assert_allclose(found, np.moveaxis(WEIGHTS, -1, 0)[[2, 0, 1]], rtol=1e-6)


BAD_IMAGES = {
    "no batch axis": (IMAGE, "images[None]"),
    "no channel axis": (IMAGES[..., 0], "images[..., None]"),
    "neither": (IMAGE[..., 0], "images[None, ..., None]"),
    "five axes": (IMAGES[None], "not [1, 3, 6, 6, 2]"),
    "none": (IMAGES[:0], "no image"),
    "no pixel": (IMAGES[:, :0], "no image"),
    "NaN": (np.where(np.arange(3)[:, None, None, None] == 1, np.nan, IMAGES), "image 1 has NaN"),
    "infinity": (
        np.where(np.arange(3)[:, None, None, None] == 2, np.inf, IMAGES),
        "image 2 has NaN or infinity",
    ),
    "16 bit": ((IMAGES * 65535).astype(np.uint16), "uint16"),
    "negative": (-(IMAGES * 255).astype(int), "from -"),
    "flags": (IMAGES > 0.5, "not bool"),
    "complex": (IMAGES + 0j, "not complex64"),
    "text": ("images.npy", "[N,H,W,C]"),
    "nothing": (None, "[N,H,W,C]"),
    "two sizes": ([IMAGE, IMAGE[:3]], "one shape"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images_of_batch(case):
    """Images are finite floats or bytes [N,H,W,C], even where the map would not show it: a linear
    model's does not.
    """
    given, words = BAD_IMAGES[case]
    assert words in sentence(
        lambda: explain.batch(explain.gradient(), linear, WEIGHTS, given, None, KEY)
    )


def test_channels_that_come_first():
    """Where a model fails on them, the sentence says where channels belong."""
    first = np.moveaxis(np.concatenate([IMAGES, GREY], -1), -1, 1)
    assert "np.moveaxis" in sentence(
        lambda: explain.batch(made("lrp"), network, (KERNEL, HEAD), first, None, KEY)
    )
    assert "np.moveaxis" in sentence(lambda: direct("gradcam", image=first[0]))
    with pytest.raises(TypeError):  # another failure is the model's own
        direct("gradcam", lambda v, x: network(v, x, 1))


def test_spellings_of_images():
    """Lists of images, and whole numbers from 0 to 255 of any type, are what their bytes are."""
    bytes_ = (IMAGES * 255).astype(np.uint8)
    want = explain.batch(explain.input_x_gradient(), linear, WEIGHTS, bytes_, [0, 1, 2], KEY)
    exact = bytes_ / 255 * np.moveaxis(WEIGHTS, -1, 0)
    np.testing.assert_allclose(want, exact, rtol=1e-5)
    for given in (
        list(bytes_),
        bytes_.astype(np.int64),
        bytes_.tolist(),
        list(bytes_ / np.float32(255)),
    ):
        found = explain.batch(explain.input_x_gradient(), linear, WEIGHTS, given, [0, 1, 2], KEY)
        np.testing.assert_allclose(found, want, rtol=1e-5)


DIRECT_IMAGES = {
    "batch axis": (IMAGES[:1], "explain.batch"),
    "no channel axis": (IMAGE[..., 0], "image[..., None]"),
    "bytes": ((IMAGE * 255).astype(np.uint8), "image / 255"),
    "NaN": (np.where(IMAGE > 0.9, np.nan, IMAGE), "finite"),
    "empty": (IMAGE[:0], "empty"),
    "text": ("image.png", "[H,W,C]"),
    "ragged": ([[1.0], [1.0, 2.0]], "one shape"),
}


@pytest.mark.parametrize("case", DIRECT_IMAGES)
@pytest.mark.parametrize("name", ["gradient", "occlusion"])
def test_images_of_direct_calls(name, case):
    """A direct call takes one finite float image [H,W,C]."""
    given, words = DIRECT_IMAGES[case]
    assert words in sentence(lambda: direct(name, linear, WEIGHTS, given))


@pytest.mark.slow
@every
def test_spellings_of_an_image(name):
    """An image of float64 or nested lists gives the map of the float32 one."""
    want = exact(name)
    for given in (IMAGE.astype(np.float64), IMAGE.tolist()):
        found = direct(name, image=given)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@every
def test_one_logit(name):
    """One logit is a binary classifier: label 0 is that logit, and methods that compare classes ask
    for two.
    """
    single = lambda v, x: network(v, x)[:, :1]
    if name in COMPARE_CLASSES:
        assert "[-z/2, z/2]" in sentence(lambda: direct(name, single, label=0))
        return
    found = direct(name, single, label=0)
    pair = lambda v, x: jnp.pad(single(v, x), ((0, 0), (0, 1)))
    alike = pair if name in OF_CONFIDENCE else network
    want = direct(name, alike, label=0)[..., : found.shape[-1]]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    assert "classes 0 to 0" in sentence(lambda: direct(name, single, label=1))


def test_one_logit_is_predicted():
    """Without labels the only class is explained, whatever the sign of its logit."""
    single = lambda v, x: linear(v, x)[:, :1]
    for sign in (1, -1):
        found = explain.batch(explain.gradient(), single, sign * WEIGHTS, IMAGES, None, KEY)
        np.testing.assert_allclose(found, sign * np.stack([WEIGHTS[..., 0]] * 3), rtol=1e-6)


def test_probability_of_one_logit():
    """The probability of a binary classifier is the sigmoid s, whose slope is s(1-s)w."""
    single = lambda v, x: linear(v, x)[:, :1]
    found = np.asarray(explain.gradient("probability")(single, WEIGHTS / 9, IMAGE, 0, KEY))
    sigmoid = 1 / (1 + np.exp(-np.sum(IMAGE * WEIGHTS[..., 0] / 9, dtype=np.float64)))
    np.testing.assert_allclose(found, sigmoid * (1 - sigmoid) * WEIGHTS[..., 0] / 9, rtol=1e-5)


def test_keys_and_batch_sizes():
    """A key is JAX's, and a batch holds at least one image."""
    call = lambda key, size=None: explain.batch(
        explain.gradient(), linear, WEIGHTS, IMAGES, None, key, size
    )
    for key in (0, None, "0", np.zeros(2)):
        assert "jax.random.key(0)" in sentence(lambda key=key: call(key))
    for size in (0, -1, 2.5, "3", True):
        assert "batch_size" in sentence(lambda size=size: call(KEY, size))
    np.testing.assert_array_equal(call(jax.random.PRNGKey(0)), call(KEY))


@pytest.mark.parametrize(
    "name", ["lime", "kernel_shap", "shapley_sampling", "anchors", "smoothgrad", "vargrad"]
)
def test_keys_of_direct_calls(name):
    """A method that draws says what a key is; no other reads it."""
    explainer = explain.build(
        name, **HYPER[name] | ({"samples": 4} if name == "kernel_shap" else {})
    )
    for key in (0, None, "0"):
        assert "jax.random.key(0)" in sentence(
            lambda key=key: explainer(linear, WEIGHTS, IMAGE, 1, key)
        )


def test_models_that_are_none():
    """What is given as `apply` is a function."""
    for bad in (None, WEIGHTS, {"w": WEIGHTS}, models.cnn(3)):
        for call in (
            lambda bad=bad: explain.gradient()(bad, WEIGHTS, IMAGE, 1, None),
            lambda bad=bad: explain.batch(explain.gradient(), bad, WEIGHTS, IMAGES, None, KEY),
        ):
            assert "apply is a function" in sentence(call)


@pytest.mark.slow
@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(name, dtype):
    """A model that takes images of its own type gives the maps of float32 within that type's
    rounding.

    Sums, noise and fits are float32, so that errors do not grow with samples: 32 units in the last
    place, of the map's largest value, are what a forward and a backward pass of this model may
    lose.
    """
    half = (jnp.asarray(KERNEL, dtype), jnp.asarray(HEAD, dtype))
    image = jnp.asarray(IMAGE, dtype)
    single = jax.tree.map(lambda array: array.astype(jnp.float32), (half, image))
    want = direct(name, variables=single[0], image=single[1])
    found = made(name)(network, half, image, 1, KEY)
    assert found.dtype == jnp.float32
    limit = 32 * float(jnp.finfo(dtype).eps) * np.abs(want).max()
    np.testing.assert_allclose(found, want, rtol=0, atol=limit)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient", "lrp", "occlusion", "gradcam"])
def test_half_precision_in_batch(name):
    """`batch` gives such a model the type it wants, and float32 maps."""
    half = (jnp.asarray(KERNEL, jnp.bfloat16), jnp.asarray(HEAD, jnp.bfloat16))
    image = jnp.asarray(IMAGE, jnp.bfloat16)
    found = explain.batch(made(name), network, half, image[None], [1], KEY)
    want = np.asarray(made(name)(network, half, image, 1, KEY))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], want, rtol=1e-2, atol=1e-2 * np.abs(want).max())


@pytest.mark.slow
@every
def test_double_precision(name):
    """With x64 a float64 image gives a float64 map, equal to float32's up to its rounding."""
    with jax.enable_x64(True):
        variables = (KERNEL.astype(np.float64), HEAD.astype(np.float64))
        found = direct(name, variables=variables, image=IMAGE.astype(np.float64))
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    if name not in DRAWING:  # JAX draws other numbers of another type
        want = exact(name)
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient", "lime", "lrp"])
def test_float32_images_with_x64(name):
    """With x64 a float32 image gives a float32 map still."""
    with jax.enable_x64(True):
        assert direct(name).dtype == np.float32


def test_checks_under_vmap():
    """Under jit and vmap the same explainer maps a batch, and shapes are checked still."""
    explainer = explain.gradient()
    labels, keys = jnp.array([2, 0, 1]), jax.random.split(KEY, 3)
    mapped = jax.jit(
        jax.vmap(lambda image, label, key: explainer(linear, WEIGHTS, image, label, key))
    )
    np.testing.assert_allclose(
        mapped(IMAGES, labels, keys), np.moveaxis(WEIGHTS, -1, 0)[[2, 0, 1]], rtol=1e-6
    )
    assert "image[..., None]" in sentence(lambda: mapped(IMAGES[..., 0], labels, keys))


@pytest.mark.parametrize(
    ("size", "largest"), [(1.0, 1), (2e-12, 1), (5e-13, 0), (1e-20, 0), (0.0, 0)]
)
def test_minmax_of_tiny_maps(size, largest):
    """A map of a range below 1e-12 is 0, and any other reaches 1."""
    ramp = jnp.linspace(0, size, 16, dtype=jnp.float32).reshape(4, 4, 1)
    found = np.asarray(minmax(ramp))
    assert found.min() == 0
    np.testing.assert_allclose(found.max(), largest, rtol=1e-6)
