"""Networks against the paper's tables, and the rearranged operations against the primitives that
they equal.
"""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xinv import models
from xinv.models import layers
from xinv.models.cnn import table
from xinv.models.decoder import _to_power_of_two, decoder_table, to_shape
from xinv.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from configs import thielen, yang

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def drawn(model, *inputs):
    """Variables of the right shapes and scale, without compiling an initialisation."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = leaf.size / leaf.shape[-1]
        return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(model.init, KEY, *inputs))


def parameters(model, *inputs):
    """Their number, without allocating any."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, KEY, *inputs)))


def affine(*pairs, taps=1):
    return sum(taps * inputs * outputs + outputs for inputs, outputs in pairs)


@pytest.mark.parametrize(
    ("size", "channels", "hidden"),
    [(128, (128, 256, 512), 512), (256, (128, 256, 512, 1024), 1024), (32, (128, 256), 512)],
)
def test_target_parameters_of_tables(size, channels, hidden):
    """Targets have the parameters of Tables 1 to 3."""
    pooled = size // 2 ** len(channels)
    expected = affine(*zip((1, *channels), channels, strict=False), taps=9)
    expected += affine((pooled * pooled * channels[-1], hidden), (hidden, 7))
    assert (
        parameters(
            models.build("cnn", classes=7, channels=channels, hidden=hidden),
            jnp.zeros((1, size, size, 1)),
        )
        == expected
    )


STAGES = (1024, 512, 256, 128, 64, 1)  # outputs of Tables 4 to 8 at 4×4, 8×8, … 128×128


def decoder_parameters(vector, bypassed):
    """Of Tables 4 to 8: upsample and conv per stage, where the first `bypassed` convs see twice
    their channels.
    """
    convs = [(count * (2 if index < bypassed else 1), count) for index, count in enumerate(STAGES)]
    return affine(*zip((vector, *STAGES), STAGES, strict=False), taps=16) + affine(*convs, taps=9)


def encoder_parameters(stages):
    """Of Tables 6 to 8: a conv per stage, largest first, and the fully connected layer from 2×2."""
    return affine(*zip((1, *stages), stages, strict=False), taps=9) + affine((4 * stages[-1], 64))


@pytest.mark.parametrize(
    ("encoder", "size", "expected"),
    [
        ("none", 16, decoder_parameters(8, 0)),
        ("flatten", 16, decoder_parameters(8 + 16**2, 0)),
        ("cnn", 16, decoder_parameters(8 + 64, 0) + encoder_parameters((256, 512, 1024))),
        ("unet", 16, decoder_parameters(8 + 64, 3) + encoder_parameters((256, 512, 1024))),
        (
            "flatten_unet",
            128,
            decoder_parameters(8 + 64 + 128**2, 6) + encoder_parameters(STAGES[::-1]),
        ),
    ],
)
def test_decoder_parameters_of_tables(encoder, size, expected):
    """Decoders have the parameters of Tables 4 to 8."""
    model = models.build("decoder", image_shape=(128, 128, 1), encoder=encoder)
    assert parameters(model, jnp.zeros((1, 8)), jnp.zeros((1, size, size, 1))) == expected


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (128, 3)])
def test_gnime_parameters(size, channels):
    """GNIME's networks have the parameters of its code.

    Channels fall from 512 (encoder) and 256 (decoder) at 4×4 to half at each doubling; without
    maps from 1024.
    """
    stages = [2**power for power in range(2, size.bit_length())]
    encoding, decoding = [2048 // s for s in stages[::-1]], [1024 // s for s in stages[:-1]]
    vector, ahead = 10 + size**2 + 64, [512, *decoding]
    expected = affine(*zip((1, *encoding), encoding, strict=False), taps=9) + affine(
        (4 * 512, 64), (vector, 512)
    )
    beside = zip(ahead, encoding[::-1], strict=True)
    expected += affine(*zip(map(sum, beside), (*decoding, channels), strict=True), taps=9)
    inputs, shape = (jnp.zeros((1, 10)), jnp.zeros((1, size, size, 1))), (size, size, channels)
    assert (
        parameters(
            models.build("gnime_decoder", image_shape=shape, encoder="flatten_unet"), *inputs
        )
        == expected
    )
    alone = [4096 // s for s in stages[:-1]]
    expected = affine((10, 1024)) + affine(
        *zip((1024, *alone), (*alone, channels), strict=True), taps=9
    )
    assert parameters(models.build("gnime_decoder", image_shape=shape), inputs[0]) == expected


@pytest.mark.parametrize("width", [1.0, 0.0625])
def test_codes_keep_their_size(width):
    """A width scales channels, not the size of a code that a paper states.

    Zhao's and GNIME's encoders have 64 features; GNIME's dense layer 512 numbers, or 1024 of a
    prediction alone; Yang's and Thielen's targets have 50 before the last layer.
    """
    inputs = jnp.zeros((1, 10)), jnp.zeros((1, 32, 32, 1))

    def outputs(variables, part, layer):
        return variables["params"][part][layer]["kernel"].shape[-1]

    for name, encoder in (
        ("decoder", "cnn"),
        ("decoder", "unet"),
        ("decoder", "flatten_unet"),
        ("gnime_decoder", "flatten_unet"),
    ):
        built = models.build(name, image_shape=(32, 32, 1), encoder=encoder, width=width)
        variables = jax.eval_shape(built.init, KEY, *inputs)
        assert outputs(variables, "encoder", "fc8") == 64
    assert outputs(variables, "decoder", "conv0") == 512
    alone = models.build("gnime_decoder", image_shape=(32, 32, 1), width=width)
    variables = jax.eval_shape(alone.init, KEY, inputs[0])
    assert outputs(variables, "decoder", "conv0") == 1024

    for configured in (yang, thielen):
        for size in ("mnist", "runlocal"):
            target = configured.get_config(size).target.model.to_dict()
            model = models.build(classes=10, **target)
            variables = jax.eval_shape(model.init, KEY, inputs[1])
            assert jax.eval_shape(model.embed, variables, inputs[1]).shape == (1, 50)


@pytest.mark.parametrize("size", [8, 4])
def test_gnime_decoder(size):
    """GNIME's decoder concatenates, and upsamples by repeating.

    For 8×8 images, a map of their size or half of it: written out with plain convolutions.
    """
    model = models.build(
        "gnime_decoder", image_shape=(8, 8, 2), encoder="flatten_unet", width=1 / 64
    )
    prediction, maps = normal(2, 3), normal(2, size, size, 1, seed=1)
    variables = drawn(model, prediction, maps)
    encoding, decoding = variables["params"]["encoder"], variables["params"]["decoder"]

    def conv(rows, name, x):
        return lax.conv_general_dilated(
            x, rows[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, beside = maps, {}
    for index, side in enumerate(range(3, 1, -1) if size == 8 else (2,)):
        x = beside[2**side] = jax.nn.relu(conv(encoding, f"conv{2 * index}", x))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    embedding = jax.nn.relu(x.reshape(2, -1) @ encoding[f"fc{2 * len(beside)}"]["kernel"])
    vector = jnp.concatenate([prediction, embedding, maps.reshape(2, -1)], axis=1)
    x = jax.nn.relu(vector @ decoding["conv0"]["kernel"][0, 0])[:, None, None]
    x = jnp.concatenate([x.repeat(4, 1).repeat(4, 2), beside[4]], axis=3)
    x = jax.nn.relu(conv(decoding, "conv1", x)).repeat(2, 1).repeat(2, 2)
    x = conv(decoding, "conv2", jnp.concatenate([x, beside[8]], axis=3) if size == 8 else x)
    unbiased = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else jnp.zeros_like(leaf), variables)
    np.testing.assert_allclose(
        jax.jit(model.apply)(unbiased, prediction, maps), x, rtol=1e-4, atol=1e-4
    )


def test_tables_read_as_printed():
    rows = [(row.type, row.outputs) for row in table(10, (128, 256), 512)]
    assert rows == [("conv", 128), ("pool", 0), ("conv", 256), ("pool", 0), ("fc", 512), ("fc", 10)]
    rows = [
        (row.type, row.kernel, row.stride, row.padding, row.outputs)
        for row in decoder_table((8, 8, 3))
    ]
    assert rows == [
        ("upsample", 4, 1, 0, 1024),
        ("conv", 3, 1, 1, 1024),
        ("upsample", 4, 2, 1, 3),
        ("conv", 3, 1, 1, 3),
    ]


def assert_same_function(form, reference, *inputs):
    """In value and in the gradient of every input; the tolerance is of float32 sums of some hundred
    products.
    """
    cotangent = normal(*jax.eval_shape(reference, *inputs).shape, seed=9)

    def value_and_gradients(function):
        value, back = jax.vjp(function, *inputs)
        return value, *back(cotangent)

    got, expected = jax.jit(lambda: (value_and_gradients(form), value_and_gradients(reference)))()
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((2, 3, 4, 5), (1, 2, 3))))
def test_transposed_convolutions_equal_lax(kernel, stride):
    x, weights, padding = normal(2, 4, 5, 3), normal(3, kernel, kernel, 2, seed=1), kernel // 3

    def reference(x, weights):
        turned, reach = weights.transpose(1, 2, 0, 3)[::-1, ::-1], kernel - 1 - padding
        return lax.conv_transpose(x, turned, (stride, stride), [(reach, reach)] * 2)

    for form in (layers.overlap_add, layers.sub_pixel, layers.conv_transpose):
        assert_same_function(
            lambda x, weights, form=form: form(x, weights, stride, padding), reference, x, weights
        )


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 0, 1), (2, 1, 4), (2, 1, 5)])
def test_transposed_convolution_pads_as_pytorch(stride, padding, size):
    torch = pytest.importorskip("torch")
    x, weights = normal(2, size, size, 3), normal(3, 4, 4, 2, seed=1)
    expected = torch.nn.functional.conv_transpose2d(
        torch.tensor(np.moveaxis(np.array(x), 3, 1)),
        torch.tensor(np.moveaxis(np.array(weights), 3, 1)),
        None,
        stride,
        padding,
    )
    got = layers.conv_transpose(x, weights, stride, padding)
    assert got.shape[1] == (4 if size == 1 else 2 * size)
    np.testing.assert_allclose(
        np.moveaxis(np.array(got), 3, 1), expected.numpy(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "channels", "kernel", "padding"),
    [
        (4, 3, 9, 3, 1),
        (1, 2, 9, 3, 1),
        (6, 5, 9, 3, 1),
        (6, 5, 2, 3, 1),
        (7, 8, 9, 5, 2),
        (7, 8, 9, 4, 0),
        (7, 8, 2, 4, 0),
        (4, 4, 3, 2, 1),
    ],
)
def test_convolutions_equal_lax(height, width, channels, kernel, padding):
    def reference(x, weights):
        return lax.conv_general_dilated(
            x, weights, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def tested(x, weights):
        return layers.convolve(x, weights, padding)

    x, weights = normal(2, height, width, channels), normal(kernel, kernel, channels, 4, seed=1)
    assert_same_function(tested, reference, x, weights)
    assert_same_function(
        jax.vmap(tested, (0, None)), jax.vmap(reference, (0, None)), x[None], weights
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "padding", "repeat", "size"),
    [(3, 1, 2, 3), (3, 1, 4, 1), (3, 0, 3, 2), (5, 2, 2, 3)],
)
def test_convolutions_of_repeated_pixels(kernel, padding, repeat, size):
    """Convolutions of repeated pixels equal lax's."""

    def reference(x, weights):
        x = x.repeat(repeat, 1).repeat(repeat, 2)
        return lax.conv_general_dilated(
            x, weights, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def tested(x, weights):
        return layers.convolve_repeated(x, weights, repeat, padding)

    assert_same_function(
        tested, reference, normal(2, size, size + 1, 3), normal(kernel, kernel, 3, 2, seed=1)
    )


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 6), (7, 3)])
def test_pooling_of_ties(height, width):
    """Pooling equals lax's where inputs tie."""
    x = jnp.round(normal(2, height, width, 3))
    window = (1, 2, 2, 1)
    assert_same_function(
        layers.max_pool,
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID"),
        x,
    )


def test_programs_read_as_plain_primitives():
    """What explain/graph.py sees: the convolutions and pools themselves, and the point at which
    Grad-CAM cuts.
    """
    model = models.build("cnn", classes=3, channels=(4, 5), hidden=6)
    images = jnp.zeros((1, 8, 8, 1))
    text = str(jax.make_jaxpr(model.apply)(drawn(model, images), images))
    assert (text.count("conv_general_dilated["), text.count("reduce_window_max[")) == (2, 2)
    assert text.count("name=cam") == 1


def small(encoder="flatten_unet", **hyper):
    model = models.build("decoder", image_shape=(8, 8, 3), encoder=encoder, width=0.01, **hyper)
    inputs = jax.nn.softmax(normal(3, 5)), normal(3, 8, 8, 2, seed=1)
    return model, drawn(model, *inputs), inputs


def classifier(**hyper):
    model = models.build("cnn", classes=5, channels=[32, 64], hidden=128, width=0.25, **hyper)
    images = jax.random.uniform(KEY, (3, 10, 11, 3))
    return model, drawn(model, images), (images,)


@pytest.mark.slow
@pytest.mark.parametrize("build", [small, classifier])
def test_examples_are_independent(build):
    """Examples are independent, and jit changes nothing."""
    model, variables, inputs = build()
    together = jax.jit(model.apply)(variables, *inputs)
    alone = model.apply(variables, *(x[:1] for x in inputs))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
    trained, updates = jax.jit(model.train)(variables, *inputs, key=KEY)
    np.testing.assert_allclose(together, trained, rtol=1e-4, atol=1e-5)
    assert not updates


@pytest.mark.slow
@pytest.mark.parametrize("build", [small, classifier])
def test_bfloat16(build):
    """Computing in bfloat16 keeps float32 parameters and outputs."""
    model, variables, inputs = build(dtype="bfloat16")
    outputs = jax.jit(model.apply)(variables, *inputs)
    exact = jax.jit(build()[0].apply)(variables, *inputs)
    assert (
        {leaf.dtype for leaf in jax.tree.leaves(variables)}
        == {outputs.dtype}
        == {jnp.dtype("float32")}
    )
    assert (
        0 < jnp.abs(outputs - exact).max() < 0.05 * jnp.abs(exact).max()
    )  # 8 bits of mantissa through some ten layers


def test_width():
    """The width scales the hidden layers alone."""
    model, variables, (images,) = classifier()
    kernels = {name: leaf["kernel"].shape for name, leaf in variables["params"]["layers"].items()}
    assert kernels == {
        "conv0": (3, 3, 3, 8),
        "conv2": (3, 3, 8, 16),
        "fc4": (64, 32),
        "fc5": (32, 5),
    }
    features = model.embed(variables, images)
    assert features.shape == (3, 32)
    assert features.min() == 0
    last = variables["params"]["layers"]["fc5"]
    logits = features @ last["kernel"] + last["bias"][None]
    for same in (model.apply(variables, images), model.head(variables, features)):
        np.testing.assert_allclose(same, logits, rtol=1e-5, atol=1e-5)
    assert small()[1]["params"]["encoder"]["conv2"]["kernel"].shape == (
        3,
        3,
        3,
        10,
    )  # 1024 · 0.01; the image's 3 stay


@pytest.mark.slow
def test_signals_keep_their_scale():
    """He initialisation through transposed convolutions: outputs neither vanish nor explode over
    ten layers.
    """
    model = models.build("decoder", image_shape=(32, 32, 1), encoder="flatten", width=0.05)
    inputs = jax.nn.one_hot(jnp.arange(8) % 5, 5), normal(8, 8, 8, 1)
    assert 0.05 < jax.jit(model.apply)(jax.jit(model.init)(KEY, *inputs), *inputs).std() < 5


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 16, 1), (5, 3, 3), (28, 28, 1), (20, 40, 3)])
@pytest.mark.parametrize("size", [(3, 3), (7, 7), (8, 8), (40, 40), (4, 9)])
def test_any_size_fits(shape, size):
    """Images and maps of any size fit."""
    model = models.build("decoder", image_shape=shape, encoder="flatten_unet", width=0.01)
    inputs = normal(2, 5), normal(2, *size, 4)
    assert jax.eval_shape(lambda *x: model.apply(model.init(KEY, *x), *x), *inputs).shape == (
        2,
        *shape,
    )


def test_resized_maps_stay_in_register():
    """Of a network that hands its largest map on unchanged, the output is the map, resized there
    and back.
    """
    ramp = jnp.broadcast_to(jnp.arange(28.0)[:, None, None], (1, 28, 28, 1))
    there = _to_power_of_two(ramp, 32)
    assert there.shape == (1, 32, 32, 1)
    np.testing.assert_allclose(to_shape(there, (28, 28, 1))[:, 1:-1], ramp[:, 1:-1], atol=0.1)


def test_same_arguments_same_model():
    """The same arguments give the same model."""
    assert models.build("cnn", classes=3, channels=[4]) is models.build(
        "cnn", classes=3, channels=(4,)
    )


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"image_shape": (28, 0, 1)}, "28, 0, 1"),
        ({"image_shape": (32, 32)}, "32, 32"),
        ({"image_shape": (32, 32, 1), "encoder": "vae"}, "'vae'.*flatten_unet"),
        ({"image_shape": (32, 32, 1), "width": 0}, "width is 0"),
        ({"image_shape": (32, 32, 1), "dtype": "int8"}, "'int8'.*bfloat16"),
    ],
)
def test_bad_input_is_named(hyper, message):
    with pytest.raises(InputError, match=message):
        models.build("decoder", **hyper)


def test_bad_map_or_image():
    """A bad map or image is named."""
    model = models.build("decoder", image_shape=(16, 16, 1), encoder="unet", width=0.01)
    with pytest.raises(InputError, match="explanation"):
        model.init(KEY, jnp.zeros((1, 5)), None)
    with pytest.raises(InputError, match=r"1, 50.*flatten"):
        model.init(KEY, jnp.zeros((1, 5)), jnp.zeros((1, 50)))
    with pytest.raises(InputError, match=r"1×4.*pool"):
        models.build("cnn", classes=2, channels=(4, 4)).init(KEY, jnp.zeros((1, 3, 8, 1)))
