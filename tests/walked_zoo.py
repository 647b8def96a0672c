"""Models of today as functions `model(o, w, x)` of operations `o` and weights `w`; see
`lrp_witness`.
"""

import functools

import jax
from lrp_witness import CLASSES, standardised


def exact_gelu(x):
    return jax.nn.gelu(x, approximate=False)


def head(o, w, x):
    return o.dense(x, w.kernel(x_channels(x), CLASSES), w.shift(CLASSES))


def x_channels(x):
    return getattr(x, "array", x).shape[-1]


def vit(o, w, x, patches="conv", fused=False):
    """A class token, position embeddings, two pre-LN blocks of two heads."""
    gelu = exact_gelu if patches == "dense" else jax.nn.gelu
    if patches == "conv":
        x = o.conv(x, w.kernel(4, 4, 3, 8), w.shift(8), stride=4)
        x = o.move(x, lambda a: a.reshape(9, 8))
    else:
        x = o.move(x, lambda a: a.reshape(3, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(9, 48))
        x = o.dense(x, w.kernel(48, 8), w.shift(8))
    x = o.place(o.prepend(x, w.shift(1, 8)), w.shift(10, 8))
    for _ in range(2):
        y = o.layer_norm(x, w.norm(8))
        if fused:
            y = o.dense(y, w.kernel(8, 24), w.shift(24))
            cut = lambda a, number: a.reshape(10, 3, 2, 4)[:, number]
            heads = [o.move(y, functools.partial(cut, number=number)) for number in range(3)]
        else:
            heads = [o.dense(y, w.kernel(8, 8).reshape(8, 2, 4), w.shift(2, 4)) for _ in range(3)]
        y = o.move(o.attend(*heads), lambda a: a.reshape(10, 8))
        x = o.add(x, o.dense(y, w.kernel(8, 8), w.shift(8)))
        y = o.act(o.dense(o.layer_norm(x, w.norm(8)), w.kernel(8, 16), w.shift(16)), gelu)
        x = o.add(x, o.dense(y, w.kernel(16, 8), w.shift(8)))
    return head(o, w, o.move(o.layer_norm(x, w.norm(8)), lambda a: a[0]))


def convnext(o, w, x):
    """A stem, two blocks with LayerScale, and a LayerNorm after pooling."""
    x = o.layer_norm(o.conv(x, w.kernel(2, 2, 3, 6), w.shift(6), stride=2), w.norm(6))
    for _ in range(2):
        y = o.conv(x, w.kernel(3, 3, 1, 6), w.shift(6), groups=6)
        y = o.dense(o.layer_norm(y, w.norm(6)), w.kernel(6, 24), w.shift(24))
        y = o.dense(o.act(y, exact_gelu), w.kernel(24, 6), w.shift(6), scale=w.shift(6))
        x = o.add(x, y)
    return head(o, w, o.layer_norm(o.mean(x, (0, 1)), w.norm(6)))


def excited(o, w, x, inner, gate):
    """Squeeze-excitation."""
    channels = x_channels(x)
    y = o.act(o.dense(o.mean(x, (0, 1)), w.kernel(channels, 3), w.shift(3)), inner)
    return o.gate(x, o.act(o.dense(y, w.kernel(3, channels), w.shift(channels)), gate))


def efficient(o, w, x, act=jax.nn.swish, gate=jax.nn.sigmoid):
    """EfficientNet's inverted bottleneck; with hard functions MobileNetV3's."""
    x = o.act(o.conv(x, w.kernel(3, 3, 3, 6), stride=2, after=w.batch_norm(6)), act)
    y = o.act(o.conv(x, w.kernel(1, 1, 6, 12), after=w.batch_norm(12)), act)
    y = o.act(o.conv(y, w.kernel(3, 3, 1, 12), groups=12, after=w.batch_norm(12)), act)
    y = o.conv(excited(o, w, y, jax.nn.swish, gate), w.kernel(1, 1, 12, 6), after=w.batch_norm(6))
    return head(o, w, o.mean(o.act(o.add(x, y), act), (0, 1)))


def se_resnet(o, w, x):
    x = o.act(o.conv(x, w.kernel(3, 3, 3, 6), stride=2, after=w.batch_norm(6)), jax.nn.relu)
    y = o.act(o.conv(x, w.kernel(3, 3, 6, 6), after=w.batch_norm(6)), jax.nn.relu)
    y = o.conv(y, w.kernel(3, 3, 6, 6), after=w.batch_norm(6))
    x = o.act(o.add(x, excited(o, w, y, jax.nn.relu, jax.nn.sigmoid)), jax.nn.relu)
    return head(o, w, o.mean(x, (0, 1)))


def groupnorm(o, w, x):
    x = o.act(o.group_norm(o.conv(x, w.kernel(3, 3, 3, 6), stride=2), w.norm(6), 2), jax.nn.relu)
    y = o.act(o.group_norm(o.conv(x, w.kernel(3, 3, 6, 6), w.shift(6)), w.norm(6), 3), jax.nn.relu)
    x = o.act(o.add(x, o.group_norm(o.conv(y, w.kernel(3, 3, 6, 6)), w.norm(6), 2)), jax.nn.relu)
    return head(o, w, o.mean(x, (0, 1)))


def preactivated(o, w, x):
    """BatchNorm of a value with two readers passes; the one between two convolutions is folded."""
    x = o.conv(x, w.kernel(3, 3, 3, 6), w.shift(6), stride=2)
    for _ in range(2):
        y = o.act(o.batch_norm(x, w.batch_norm(6)), jax.nn.relu)
        y = o.act(o.conv(y, w.kernel(3, 3, 6, 6), after=w.batch_norm(6)), jax.nn.relu)
        x = o.add(x, o.conv(y, w.kernel(3, 3, 6, 6)))
    return head(o, w, o.mean(o.act(o.batch_norm(x, w.batch_norm(6)), jax.nn.relu), (0, 1)))


def densenet(o, w, x):
    x = o.conv(x, w.kernel(3, 3, 3, 4), stride=2)
    for _ in range(2):
        channels = x_channels(x)
        y = o.act(o.batch_norm(x, w.batch_norm(channels)), jax.nn.relu)
        x = o.join(x, o.conv(y, w.kernel(3, 3, channels, 3)))
    return head(o, w, o.mean(o.act(o.batch_norm(x, w.batch_norm(10)), jax.nn.relu), (0, 1)))


def late_norm(o, w, x):
    """conv, ReLU, BatchNorm, conv: folded into the second, whose padding is 0 and not the shift."""
    x = o.act(o.conv(x, w.kernel(3, 3, 3, 5), w.shift(5), stride=2), jax.nn.relu)
    x = o.act(o.conv(x, w.kernel(3, 3, 5, 6), w.shift(6), before=w.batch_norm(5)), jax.nn.relu)
    return head(o, w, o.mean(x, (0, 1)))


def nfnet(o, w, x):
    x = o.act(o.conv(x, standardised(w.kernel(3, 3, 3, 6)), w.shift(6), stride=2), jax.nn.relu)
    y = o.scaled(o.act(o.scaled(x, 0.8), jax.nn.gelu), 1.7)
    y = o.conv(y, standardised(w.kernel(3, 3, 6, 6)), w.shift(6))
    return head(o, w, o.mean(o.act(o.add(x, o.scaled(y, 0.2)), jax.nn.relu), (0, 1)))


def mixer(o, w, x):
    x = o.move(o.conv(x, w.kernel(4, 4, 3, 8), w.shift(8), stride=4), lambda a: a.reshape(9, 8))
    y = o.move(o.layer_norm(x, w.norm(8)), lambda a: a.T)
    y = o.dense(
        o.act(o.dense(y, w.kernel(9, 12), w.shift(12)), jax.nn.gelu), w.kernel(12, 9), w.shift(9)
    )
    x = o.add(x, o.move(y, lambda a: a.T))
    y = o.act(o.dense(o.layer_norm(x, w.norm(8)), w.kernel(8, 16), w.shift(16)), jax.nn.gelu)
    x = o.add(x, o.dense(y, w.kernel(16, 8), w.shift(8)))
    return head(o, w, o.mean(o.layer_norm(x, w.norm(8)), (0,)))


MODELS = {
    "vit": vit,
    "vit dense": functools.partial(vit, patches="dense"),
    "vit fused": functools.partial(vit, fused=True),
    "convnext": convnext,
    "efficientnet": efficient,
    "mobilenet v3": functools.partial(efficient, act=jax.nn.hard_swish, gate=jax.nn.hard_sigmoid),
    "se-resnet": se_resnet,
    "groupnorm": groupnorm,
    "preactivated": preactivated,
    "densenet": densenet,
    "late norm": late_norm,
    "nfnet": nfnet,
    "mixer": mixer,
}
GATED = "efficientnet", "mobilenet v3", "se-resnet"
