"""The deep classifiers against published sizes and against torchvision, with the same weights."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import Drawn
from explain_zoo import fill, quick
from jax import lax

from xinv import explain, models, parallel
from xinv.models import layers
from xinv.models.blocks import classifier
from xinv.models.convnext import ConvNeXt
from xinv.models.densenet import DenseNet
from xinv.models.mobilenet import MobileNetV2
from xinv.models.resnet import ResNet
from xinv.models.vit import ViT
from xinv.types import InputError

KEY = jax.random.key(0)
RECORDED = np.load(Path(__file__).parent / "fixtures" / "deep.npz")
TINY = {
    "resnet": ResNet((1, 1), False, 4, False, 1),
    "resnet_v2": ResNet((1, 1), True, 4, False, 2),
    "mobilenet_v2": MobileNetV2(((1, 4, 1, 1), (6, 6, 2, 2)), 4, 16, 1),
    "densenet": DenseNet((2, 1), 4, False),
    "convnext": ConvNeXt((1, 1), (4, 6), 0.5, False),
    "vit": ViT(4, 12, 2, 3, 2),
}
"""Some blocks of each kind: what compiles in a second."""
every = pytest.mark.parametrize("name", TINY)
normed_by_batch = pytest.mark.parametrize(
    "name", [name for name in TINY if name not in ("convnext", "vit")]
)


def images(count=3, size=12):
    return np.random.default_rng(1).uniform(size=(count, size, size, 3)).astype(np.float32)


@functools.cache
def tiny(name):
    """A small model and weights for it."""
    model = classifier(TINY[name], 5, "float32")
    return model, fill(jax.eval_shape(model.init, KEY, images()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hyper", "parameters"),
    [
        ("resnet", {}, 11_689_512),
        ("resnet", {"depth": 34}, 21_797_672),
        ("resnet", {"depth": 50}, 25_557_032),
        (
            "resnet",
            {"depth": 50, "version": 2},
            25_549_352,
        ),  # timm's resnetv2_50; the others are torchvision's
        ("mobilenet_v2", {}, 3_504_872),
        ("densenet", {}, 7_978_856),
        ("densenet", {"blocks": [6, 12, 36, 24], "growth": 48}, 28_681_000),
        ("convnext", {}, 28_589_128),
    ],
)
def test_published_sizes(name, hyper, parameters):
    model = models.build(name, classes=1000, stem="large", **hyper)
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


@pytest.mark.parametrize(
    ("hyper", "parameters"),
    [
        ({}, 5_717_416),
        ({"width": 768, "heads": 12}, 86_567_656),
    ],  # timm's deit_tiny; torchvision's vit_b_16
)
def test_published_vit_sizes(hyper, parameters):
    """At 224×224: the positions depend on it."""
    model = models.build("vit", classes=1000, patch=16, **hyper)
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


def drawn_variables(model, inputs):
    """What tests/drawn.py draws for the model's layers in the order of their execution."""
    order, drawn, variables = [], Drawn(), {"params": {}, "batch_stats": {}}
    further = Drawn(1)  # of what is no layer's

    def note(call, arguments, keywords, context):
        if context.method_name == "__call__":
            order.append(context.module.path)
        return call(*arguments, **keywords)

    def node(tree, path):
        return functools.reduce(lambda tree, name: tree.setdefault(name, {}), path, tree)

    with nn.intercept_methods(note):
        shapes = jax.eval_shape(lambda: model.init(KEY, inputs))[
            "params"
        ]  # traced anew, so that layers are noted
    for path in order:
        leaf = functools.reduce(lambda tree, name: tree.get(name, {}), path, shapes)
        for own, middle in {"layer_scale": 1.0, "class_token": 0.0, "position": 0.0}.items():
            if own in leaf:
                vector = further.vector(leaf[own].size, middle)
                node(variables["params"], path)[own] = vector.reshape(leaf[own].shape)
        if "scale" in leaf:
            values = drawn.norm(leaf["scale"].size)
            node(variables["batch_stats"], path).update(
                {name: values.pop(name) for name in ("mean", "var")}
            )
            node(variables["params"], path).update(values)
        elif "bias" in leaf:
            node(variables["params"], path).update(drawn.dense(leaf["kernel"].shape))
        elif "kernel" in leaf:
            node(variables["params"], path)["kernel"] = drawn.kernel(leaf["kernel"].shape)
    return variables


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "name", "hyper"),
    [
        ("resnet18", "resnet", {}),
        ("resnet50_large", "resnet", {"depth": 50, "stem": "large"}),
        ("resnet18_v2", "resnet", {"version": 2}),
        ("mobilenet", "mobilenet_v2", {}),
        ("mobilenet_large", "mobilenet_v2", {"stem": "large"}),
        ("densenet_large", "densenet", {"blocks": (3, 4, 2), "growth": 12, "stem": "large"}),
        ("vit", "vit", {"width": 48, "depth": 3}),
        ("convnext", "convnext", {"depths": (2, 1), "widths": (8, 12)}),
        ("convnext_large", "convnext", {"stem": "large"}),
    ],
)
def test_logits_equal_torchvision(case, name, hyper):
    """Theirs are float64; float32 rounds by 1e-7 in each of up to 50 layers."""
    model = models.build(name, classes=5, **hyper)
    inputs = images(2, 64 if "large" in case else 32)
    got = jax.jit(model.apply)(drawn_variables(model, inputs), inputs)
    np.testing.assert_allclose(got, RECORDED[case], atol=3e-5 * np.abs(RECORDED[case]).max())


@pytest.mark.slow
@every
def test_examples_are_independent(name):
    """Examples are independent, and jit changes nothing."""
    model, variables = tiny(name)
    together = jax.jit(model.apply)(variables, images())
    assert together.shape == (3, 5)
    alone = model.apply(variables, images()[1:2])
    np.testing.assert_allclose(alone, together[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "resnet_v2", "mobilenet_v2", "densenet"])
def test_group_norm_is_local(name):
    """In training, too, an example's logits depend on no other one, and no statistics are kept."""
    model = classifier(TINY[name].clone(norm="group"), 5, "float32")
    variables = fill(jax.eval_shape(model.init, KEY, images()))
    assert list(variables) == ["params"]
    together, updates = model.train(variables, images(), key=KEY)
    assert not updates
    np.testing.assert_allclose(
        model.apply(variables, images()[1:2]), together[1:2], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@every
def test_head_of_embedding(name):
    """It gives the logits."""
    model, variables = tiny(name)
    logits = jax.jit(model.head)(variables, jax.jit(model.embed)(variables, images()))
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, images()), logits, rtol=1e-4, atol=1e-5
    )


@normed_by_batch
def test_embedding_is_mean_of_cut(name):
    """The embedding is the mean of the map that Grad-CAM cuts at."""
    model, variables = tiny(name)
    features, head = (
        np.asarray(jax.jit(model.embed)(variables, images())),
        variables["params"]["head"],
    )
    logits = features @ head["kernel"] + head["bias"][None]
    for same in (
        jax.jit(model.apply)(variables, images()),
        jax.jit(model.head)(variables, features),
    ):
        np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)

    @jax.jit
    def cut(image):
        maps, rest = explain.cut(lambda image: model.apply(variables, image[None])[0], image)
        return maps, jax.grad(lambda maps: rest(maps)[2])(maps)

    maps, slope = map(np.asarray, cut(images()[0]))
    np.testing.assert_allclose(maps[0].mean((0, 1)), features[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        slope[0, 0, 0], head["kernel"][:, 2] / maps[0, ..., 0].size, rtol=1e-5
    )


def test_convnext_embedding():
    """The normalised mean of the map that Grad-CAM cuts at."""
    model, variables = tiny("convnext")
    cut = jax.jit(
        lambda image: explain.cut(lambda image: model.apply(variables, image[None])[0], image)[0]
    )
    mean = np.asarray(cut(images()[0]))[0].mean((0, 1))
    norms = variables["params"]["features"]
    last = max(
        (name for name in norms if name.startswith("LayerNorm")),
        key=lambda name: int(name.split("_")[1]),
    )
    expected = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-6)
    expected = expected * norms[last]["scale"] + norms[last]["bias"]
    np.testing.assert_allclose(
        jax.jit(model.embed)(variables, images())[0], expected, rtol=1e-4, atol=1e-5
    )


def test_vit_tokens_as_map():
    """Grad-CAM cuts at the patches' grid, in reading order; the rest of the model gives the same
    logits.
    """
    model, variables = tiny("vit")
    image = images()[0]

    def function(image):
        return model.apply(variables, image[None])[0]

    @jax.jit
    def cut(image):
        maps, rest = explain.cut(function, image)
        return maps, rest(maps), function(image)

    maps, rest, whole = cut(image)
    assert maps.shape == (1, 3, 3, 12)
    np.testing.assert_allclose(rest, whole, rtol=1e-4, atol=1e-5)
    # In one block, tokens see no others before its attention: a changed patch changes its own place
    # only.
    single = classifier(ViT(4, 12, 1, 3, 2), 5, "float32")
    weights = fill(jax.eval_shape(single.init, KEY, images()))
    changed = image.copy()
    changed[0:4, 8:12] += 0.3 * np.random.default_rng(3).uniform(size=(4, 4, 3)).astype(np.float32)
    tokens = jax.jit(lambda x: explain.cut(lambda x: single.apply(weights, x[None])[0], x)[0][0])
    first, second = np.asarray(tokens(image)), np.asarray(tokens(changed))
    assert np.argwhere(np.abs(first - second).max(-1) > 1e-6).tolist() == [[0, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_training_is_inference(name):
    """Nothing is drawn and no statistic is kept."""
    model, variables = tiny(name)

    @quick
    @jax.grad
    def slope(params, images):
        return (model.train({"params": params}, images, key=KEY)[0] ** 2).sum()

    logits, updates = jax.jit(model.train)(variables, images(), key=KEY)
    assert updates == {}
    np.testing.assert_allclose(
        logits, jax.jit(model.apply)(variables, images()), rtol=1e-5, atol=1e-6
    )
    slopes = slope(variables["params"], images())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


@pytest.mark.slow
@normed_by_batch
def test_statistics_over_all_devices(name):
    """Halves of a batch on two devices give what the whole gives on one; statistics move."""
    model, variables = tiny(name)

    def train(batch):
        return model.train(variables, batch, key=KEY)

    halves = images(4).reshape(2, 2, 12, 12, 3)
    trained = jax.jit(jax.vmap(train, axis_name=parallel.AXIS))
    (logits, updates), (whole, expected) = trained(halves), trained(images(4)[None])
    np.testing.assert_allclose(logits.reshape(4, 5), whole[0], rtol=1e-3, atol=1e-3)
    assert np.abs(whole[0] - jax.jit(model.apply)(variables, images(4))).max() > 1e-2
    for old, new, same in zip(
        *map(jax.tree.leaves, (variables["batch_stats"], updates, expected)), strict=True
    ):
        np.testing.assert_allclose(new[0], same[0], rtol=1e-3, atol=1e-4)
        assert np.abs(new[0] - old).max() > 1e-4


@pytest.mark.slow
@every
def test_bfloat16(name):
    """Computing in bfloat16 keeps float32 parameters and outputs."""
    exact, variables = tiny(name)
    outputs = jax.jit(classifier(TINY[name], 5, "bfloat16").apply)(variables, images())
    reference = jax.jit(exact.apply)(variables, images())
    assert outputs.dtype == jnp.float32
    assert (
        0 < np.abs(outputs - reference).max() < 0.1 * np.abs(reference).max()
    )  # 8 bits of mantissa, some ten layers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "stride", "size"),
    [(5, 6, 1, 3), (5, 6, 2, 3), (6, 5, 2, 3), (7, 7, 3, 5), (4, 4, 1, 1), (2, 1, 2, 3)],
)
def test_depthwise_convolution_equals_lax(height, width, stride, size):
    """In value and in both gradients."""
    x, kernel = (
        jax.random.normal(KEY, shape) for shape in ((2, height, width, 3), (size, size, 3))
    )

    def reference(x, kernel):
        padding, numbers = [(size // 2,) * 2] * 2, ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride,) * 2,
            padding,
            dimension_numbers=numbers,
            feature_group_count=3,
        )

    value, back = jax.vjp(lambda x, kernel: layers.depthwise(x, kernel, stride), x, kernel)
    expected, expected_back = jax.vjp(reference, x, kernel)
    cotangent = jax.random.normal(KEY, expected.shape)
    pairs = zip((value, *back(cotangent)), (expected, *expected_back(cotangent)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["epsilon_plus", "zplus", "gamma"])
def test_lrp_of_depthwise_convolution(rule):
    """LRP reads a depthwise convolution as the layer that it is.

    The same map as for lax's grouped convolution, with the scale that follows folded into
    either.
    """
    random = np.random.default_rng(2)
    variables = {"depthwise": random.normal(size=(3, 3, 3)), "scale": random.uniform(0.5, 2, 3)}
    variables = jax.tree.map(jnp.float32, variables | {"head": random.normal(size=(3, 4))})

    def grouped(x, kernel, stride):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride,) * 2,
            [(1, 1)] * 2,
            dimension_numbers=numbers,
            feature_group_count=3,
        )

    def apply(convolution, variables, x):
        x = convolution(x, variables["depthwise"], 2) * variables["scale"][None, None, None] + 0.1
        return jax.nn.relu(x).mean((1, 2)) @ variables["head"]

    explainer = explain.lrp(rule)
    ours, theirs = (
        explainer(functools.partial(apply, form), variables, images()[0], 1, KEY)
        for form in (layers.depthwise, grouped)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())
    assert np.ptp(ours) > 0


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("resnet", {"depth": 20}, "ResNet-20.*18, 34"),
        ("resnet", {"version": 3}, "version 3.*1 or 2"),
        ("resnet", {"stem": "tiny"}, "'tiny'.*small, large"),
        ("mobilenet_v2", {"width": 0}, "width is 0"),
        ("densenet", {"dtype": "int8"}, "'int8'.*bfloat16"),
        ("densenet", {"classes": 0}, "classes is 0"),
        ("vit", {"width": 100}, "width is 100.*3 heads"),
        ("vit", {"patch": 0}, "patch is 0"),
        ("vit", {"depth": 2.5}, "depth is 2.5"),
        ("vit", {"dtype": "int8"}, "'int8'.*bfloat16"),
        ("convnext", {"depths": ()}, r"depths is \(\)"),
        ("convnext", {"widths": (8,)}, "widths is .8,.*4 stages"),
        ("convnext", {"layer_scale": 0}, "layer_scale is 0"),
        ("convnext", {"stem": "tiny"}, "'tiny'.*small, large"),
    ],
)
def test_bad_input_is_named(name, hyper, message):
    with pytest.raises(InputError, match=message):
        models.build(name, **{"classes": 2, **hyper})


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit", 13, "13×13.*patches of 4"),
        ("vit", 16, "17 tokens.*of 10"),
        ("convnext", 1, "1×1.*at least 2×2"),
    ],
)
def test_unfit_image_sizes(name, size, message):
    model, variables = tiny(name)
    with pytest.raises(InputError, match=message):
        model.apply(variables, images(1, size))


def test_same_arguments_same_model():
    """The same arguments give the same model."""
    assert models.build("densenet", classes=3, blocks=[2]) is models.build(
        "densenet", classes=3, blocks=(2,)
    )
