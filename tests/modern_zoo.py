"""Small models of the kinds that people have today, that the tests of `xinv.explain` run on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from explain_zoo import CLASSES, SHAPE, Case

PATCHES = (3, 3)


class ViT(nn.Module):
    """A class token and position embeddings; patches by a convolution, or by a matrix with exact
    GELUs.

    `before` and `after` are the model up to the tokens that the last attention reads, and from them
    on.
    """

    dense: bool = False
    fused: bool = False

    def setup(self):
        self.embed = nn.Dense(16) if self.dense else nn.Conv(16, (4, 4), strides=4)
        self.token = self.param("token", nn.initializers.normal(1.0), (1, 1, 16))
        self.place = self.param("place", nn.initializers.normal(0.5), (1, 10, 16))
        self.norms = [nn.LayerNorm() for _ in range(5)]
        self.attentions = [nn.MultiHeadDotProductAttention(2) for _ in range(2)]
        self.joint = [nn.Dense(48) for _ in range(2)]
        self.outs = [nn.Dense(16) for _ in range(4)]
        self.inners = [nn.Dense(32) for _ in range(2)]
        self.head = nn.Dense(CLASSES)

    def attend(self, number, y):
        if not self.fused:
            return self.attentions[number](y, y)
        query, key, value = jnp.split(self.joint[number](y).reshape(len(y), -1, 2, 24), 3, -1)
        return self.outs[2 + number](
            nn.dot_product_attention(query, key, value).reshape(len(y), -1, 16)
        )

    def feed(self, number, x):
        inner = nn.gelu(
            self.inners[number](self.norms[2 * number + 1](x)), approximate=not self.dense
        )
        return x + self.outs[number](inner)

    def stem(self, x):
        if self.dense:
            x = x.reshape(len(x), 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 9, 48)
        x = self.embed(x).reshape(len(x), 9, 16)
        return jnp.concatenate([jnp.broadcast_to(self.token, (len(x), 1, 16)), x], 1) + self.place

    def before(self, x):
        """What the last attention reads, and what passes it by."""
        x = self.stem(x)
        x = self.feed(0, x + self.attend(0, self.norms[0](x)))
        return x, self.norms[2](x)

    def after(self, x, y):
        return self.head(self.norms[4](self.feed(1, x + self.attend(1, y)))[:, 0])

    def __call__(self, x):
        return self.after(*self.before(x))


class ConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(8, (2, 2), 2)(x))
        for number in range(2):
            y = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
            y = nn.Dense(8)(nn.gelu(nn.Dense(32)(y), approximate=False))
            x = x + y * self.param(f"scale{number}", nn.initializers.constant(0.3), (8,))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x.mean((1, 2))))


class Efficient(nn.Module):
    """EfficientNet's block; with `hard` MobileNetV3's, whose head is a 1×1 convolution of pooled
    features.
    """

    hard: bool = False

    @nn.compact
    def __call__(self, x):
        act, gate = (nn.hard_swish, nn.hard_sigmoid) if self.hard else (nn.swish, nn.sigmoid)
        norm = lambda x: nn.BatchNorm(use_running_average=True)(x)
        x = act(norm(nn.Conv(8, (3, 3), 2, use_bias=False)(x)))
        y = act(norm(nn.Conv(16, (3, 3), use_bias=False)(x)))
        y = y * gate(
            nn.Conv(16, (1, 1))(nn.swish(nn.Conv(4, (1, 1))(y.mean((1, 2), keepdims=True))))
        )
        x = act(norm(nn.Conv(12, (1, 1))(x + norm(nn.Conv(8, (1, 1), use_bias=False)(y)))))
        if self.hard:
            x = act(nn.Conv(16, (1, 1))(x.mean((1, 2), keepdims=True)))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), strides=4)(x).reshape(len(x), 9, 16)
        y = nn.LayerNorm()(x).transpose(0, 2, 1)
        x = x + nn.Dense(9)(nn.gelu(nn.Dense(12)(y))).transpose(0, 2, 1)
        x = x + nn.Dense(16)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class Grouped(nn.Module):
    """A ResNet with GroupNorm and squeeze-excitation; `relu` may be replaced."""

    relu: object = jax.nn.relu

    @nn.compact
    def __call__(self, x):
        x = self.relu(nn.GroupNorm(2)(nn.Conv(8, (3, 3))(x)))
        y = nn.GroupNorm(2)(nn.Conv(8, (3, 3))(self.relu(nn.LayerNorm()(nn.Conv(8, (3, 3))(x)))))
        y = y * nn.sigmoid(nn.Dense(8)(nn.swish(nn.Dense(4)(y.mean((1, 2))))))[:, None, None]
        return nn.Dense(CLASSES)(self.relu(x + y).mean((1, 2)))


class Preactivated(nn.Module):
    """Pre-activation blocks, and a concatenation before the last BatchNorm as in DenseNet."""

    @nn.compact
    def __call__(self, x):
        norm = lambda x: nn.BatchNorm(use_running_average=True)(x)
        x = nn.Conv(8, (3, 3))(x)
        x = x + nn.Conv(8, (3, 3))(nn.relu(norm(x)))
        x = jnp.concatenate([x, nn.Conv(4, (3, 3))(nn.relu(norm(x)))], -1)
        return nn.Dense(CLASSES)(nn.relu(norm(x)).mean((1, 2)))


class NFNet(nn.Module):
    """Weight-standardised convolutions and scaled activations instead of normalisation."""

    @nn.compact
    def __call__(self, x):
        for number, channels in enumerate((6, 6)):
            kernel = self.param(
                f"kernel{number}", nn.initializers.normal(1.0), (3, 3, x.shape[-1], channels)
            )
            kernel = (kernel - kernel.mean((0, 1, 2))) / jnp.sqrt(
                kernel.var((0, 1, 2)) * 9 * x.shape[-1] + 1e-4
            )
            y = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = nn.relu(y) * 1.7 + (0.2 * x if number else 0)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


MODULES = {
    "vit": ViT(),
    "vit dense": ViT(dense=True),
    "vit fused": ViT(fused=True),
    "convnext": ConvNeXt(),
    "efficientnet": Efficient(),
    "mobilenet v3": Efficient(hard=True),
    "mixer": Mixer(),
    "groupnorm": Grouped(),
    "preactivated": Preactivated(),
    "nfnet": NFNet(),
}


def modern(name: str) -> Case:
    """The model of that name with weights of which none is at its initial value."""
    module = MODULES[name]
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    random = np.random.default_rng(0)

    def leaf(path, shape):
        if shape.ndim > 1:
            return jnp.float32(
                random.normal(size=shape.shape, scale=np.prod(shape.shape[:-1]) ** -0.5)
            )
        low = 0.5 if any(word in str(path[-1]) for word in ("scale", "var")) else -0.2
        return jnp.float32(random.uniform(low, low + 0.5, shape.shape))

    return Case(module.apply, jax.tree_util.tree_map_with_path(leaf, shapes))
