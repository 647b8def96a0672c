"""Small models of many kinds, with random weights, that the tests of `xinv.explain` run on."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

SHAPE = (12, 12, 3)
KEY = jax.random.key(0)
CLASSES = 4
quick = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
"""Compiles in two thirds of the time what runs once."""


class Case(NamedTuple):
    """A model: `apply(variables, images[N,12,12,3]) -> logits[N,4]`."""

    apply: Callable
    variables: Any


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding="VALID")(x))
        x = nn.relu(nn.Dense(10)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class Residual(nn.Module):
    """BatchNorm, a ReLU6 of raw functions, a ReLU used twice, a strided shortcut, pooling."""

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        relu6 = lambda x: jnp.minimum(jnp.maximum(x, 0), 6.0)
        x = relu6(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        for features, stride in (6, 1), (8, 2):
            y = nn.relu(norm()(nn.Conv(features, (3, 3), stride, use_bias=False)(x)))
            y = norm()(nn.Conv(features, (3, 3), use_bias=False)(y))
            shortcut = (
                x if stride == 1 else norm()(nn.Conv(features, (1, 1), stride, use_bias=False)(x))
            )
            x = nn.relu(y + shortcut)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Depthwise(nn.Module):
    """Depthwise, dilated and strided convolutions, jax.nn.relu6, average pooling with overlap,
    concatenation.
    """

    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu6(nn.Conv(6, (3, 3))(x))
        x = jax.nn.relu6(nn.Conv(12, (3, 3), feature_group_count=6, kernel_dilation=2)(x))
        y = jax.nn.relu6(nn.Conv(5, (1, 1))(x))
        x = checkpoint_name(jnp.concatenate([x, y], -1), "joined")
        x = nn.avg_pool(nn.max_pool(x, (3, 3), (2, 2)), (2, 2), (1, 1))
        return nn.Dense(CLASSES)(nn.relu(nn.Conv(8, (2, 2))(x)).mean((1, 2)))


class Marked(nn.Module):
    """Names its pooled map "cam"; jit and checkpoint inside; a non-linear head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.remat(nn.Conv)(6, (3, 3))(x))
        x = jax.jit(partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)))(x)
        x = nn.Dense(CLASSES)(checkpoint_name(x, "cam").reshape(len(x), -1))
        return jnp.tanh(x) + x**2


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = (
            nnx.Conv(3, 6, (3, 3), rngs=rngs),
            nnx.BatchNorm(6, use_running_average=True, rngs=rngs),
        )
        self.dense = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def raw_apply(variables, x):
    """Raw jnp, with a constant closed over, exact ties, and an argmax on the way."""
    x = x * (0.5 + jnp.arange(SHAPE[0]) / 8)[:, None, None]
    hidden = jnp.maximum(x.reshape(len(x), -1) @ variables["a"], 0) + jax.nn.relu(
        jnp.zeros(5) * x.sum()
    )
    gate = jax.nn.one_hot(jnp.argmax(hidden, -1), hidden.shape[-1]) + jax.lax.stop_gradient(hidden)
    return (hidden * gate + jnp.sort(hidden)) @ variables["b"]


def fill(shapes) -> Any:
    """Weights for a tree of shapes: He's for kernels, no bias or statistic at its initial value;
    compiles nothing.
    """
    random = np.random.default_rng(0)

    def leaf(path, shape):
        name = str(path[-2] if "value" in str(path[-1]) else path[-1])
        if "kernel" in name:
            return jnp.asarray(
                random.normal(size=shape.shape, scale=(2 / np.prod(shape.shape[:-1])) ** 0.5),
                jnp.float32,
            )
        low = 0.5 if "scale" in name or "var" in name else -0.1
        return jnp.asarray(random.uniform(low, low + 0.3, shape.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def linen_case(module) -> Case:
    return Case(
        module.apply, fill(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *SHAPE))))
    )


def nnx_case() -> Case:
    graph, state = nnx.split(nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0))))
    return Case(lambda state, x: nnx.merge(graph, state)(x), fill(state))


def raw_case() -> Case:
    random = np.random.default_rng(3)
    a = random.normal(size=(SHAPE[0] * SHAPE[1] * SHAPE[2], 5)) / 10
    return Case(
        raw_apply, {"a": jnp.float32(a), "b": jnp.float32(random.normal(size=(5, CLASSES)))}
    )


_MAKERS = {
    "plain": lambda: linen_case(Plain()),
    "residual": lambda: linen_case(Residual()),
    "depthwise": lambda: linen_case(Depthwise()),
    "marked": lambda: linen_case(Marked()),
    "nnx": nnx_case,
    "raw": raw_case,
}
NAMES = tuple(_MAKERS)


@cache
def case(name: str) -> Case:
    with jax.ensure_compile_time_eval():  # the cache must not keep a tracer of its first caller
        return _MAKERS[name]()


def images(count: int = 3, seed: int = 7) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(count, *SHAPE)), jnp.float32)


def call(explainer, apply, variables, image, label=1) -> np.ndarray:
    """One map, compiled."""
    return np.asarray(quick(explainer, static_argnums=0)(apply, variables, image, label, KEY))
