"""Models of today, each written once and run twice: by JAX, and by NumPy that walks LRP's rules
literally.

`Fast` spells the operations as users do. `Slow` evaluates the same ones on one image and keeps, for
each value, how its relevance goes back: weighted layers by their explicit matrix, everything else
by its formula.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 4


def convolve(x, kernel, stride=1, groups=1):
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **numbers)


def standardised(kernel):
    return (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))


class Weights:
    """Random weights by order of use, in float64; the same ones in every walk."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def kernel(self, *shape):
        return self.random.normal(size=shape) * np.prod(shape[:-1]) ** -0.5

    def shift(self, *shape):
        return self.random.uniform(-0.3, 0.4, shape)

    def batch_norm(self, channels):
        """A BatchNorm of scales of either sign."""
        mean, bias, scale = (
            self.shift(channels),
            self.shift(channels),
            self.random.normal(size=channels),
        )
        return {
            "mean": mean,
            "var": self.random.uniform(0.5, 2, channels),
            "scale": scale,
            "bias": bias,
        }

    def norm(self, channels):
        return {"scale": self.random.uniform(0.5, 1.5, channels), "bias": self.shift(channels)}


def affine(norm):
    """The scale and shift of a BatchNorm in inference."""
    scale = norm["scale"] / np.sqrt(norm["var"] + 1e-5)
    return scale, norm["bias"] - norm["mean"] * scale


class Fast:
    """The operations, as users spell them, on a batch of one."""

    def conv(self, x, kernel, bias=0, stride=1, groups=1, before=None, after=None):
        x = x if before is None else self.batch_norm(x, before)
        x = convolve(x, kernel, stride, groups) + bias
        return x if after is None else self.batch_norm(x, after)

    def dense(self, x, kernel, bias, scale=None):
        """A kernel [n,*outputs], and a LayerScale."""
        x = jnp.tensordot(x, kernel, 1) + bias
        return x if scale is None else x * scale

    def batch_norm(self, x, norm):
        p, s = (
            {name: norm[name] for name in ("scale", "bias")},
            {name: norm[name] for name in ("mean", "var")},
        )
        return nn.BatchNorm(use_running_average=True).apply({"params": p, "batch_stats": s}, x)

    def layer_norm(self, x, norm):
        return nn.LayerNorm(epsilon=1e-6).apply({"params": norm}, x)

    def group_norm(self, x, norm, groups):
        return nn.GroupNorm(groups, epsilon=1e-6).apply({"params": norm}, x)

    def act(self, x, function):
        return function(x)

    def scaled(self, x, factor):
        return x * factor

    def add(self, x, y):
        return x + y

    def place(self, x, constant):
        return x + constant

    def mean(self, x, axes):
        return x.mean(tuple(axis + 1 for axis in axes))

    def gate(self, x, gate):
        return x * gate[:, None, None, :]

    def join(self, *parts):
        return jnp.concatenate(parts, -1)

    def prepend(self, x, token):
        return jnp.concatenate([token[None], x], 1)

    def move(self, x, function):
        return jax.vmap(function)(x)

    def attend(self, q, k, v):
        return nn.dot_product_attention(q, k, v)


class Value:
    """An array, and what has been sent back to it."""

    def __init__(self, array, parents=(), back=None):
        self.array, self.parents, self.back = np.asarray(array, np.float64), parents, back
        self.relevance = np.zeros_like(self.array)


class Slow:
    """The same operations on one image; `pull` sends a relevance back through all of them."""

    def __init__(self, convolutions, gates):
        self.convolutions, self.gates, self.values = convolutions, gates, []

    def keep(self, array, parents, back):
        self.values.append(Value(array, parents, back))
        return self.values[-1]

    def pull(self, output, relevance):
        output.relevance = relevance
        for value in reversed(self.values):
            for parent, back in zip(value.parents, value.back(value.relevance), strict=True):
                parent.relevance = parent.relevance + back

    def layer(self, x, run, rule):
        """An affine function z = M·x + b by its matrix: epsilon, or the positive terms alone."""
        shape, size = x.array.shape, x.array.size
        points = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape)
        outputs = np.asarray(run(jnp.asarray(points)))
        b = outputs[0].ravel()
        terms = (outputs[1:].reshape(size, -1) - b) * x.array.reshape(-1, 1)
        z = (terms.sum(0) + b).reshape(outputs.shape[1:])

        def back(relevance):
            part = terms if rule == "epsilon" else np.maximum(terms, 0)
            total = part.sum(0) + (b if rule == "epsilon" else np.maximum(b, 0))
            share = np.divide(relevance.ravel(), total, out=np.zeros_like(total), where=total != 0)
            return [(part @ share).reshape(shape)]

        return self.keep(z, [x], back)

    def conv(self, x, kernel, bias=0, stride=1, groups=1, before=None, after=None):
        def run(x):
            if before is not None:
                x = x * affine(before)[0] + affine(before)[1]
            x = convolve(x, kernel, stride, groups) + bias
            return x if after is None else x * affine(after)[0] + affine(after)[1]

        return self.layer(x, run, self.convolutions)

    def dense(self, x, kernel, bias, scale=None):
        return self.layer(
            x,
            lambda x: (jnp.tensordot(x, kernel, 1) + bias) * (1 if scale is None else scale),
            "epsilon",
        )

    def batch_norm(self, x, norm):
        return self.act(x, lambda x: x * affine(norm)[0] + affine(norm)[1])

    def normalised(self, x, norm, groups):
        """Over channels, or over space in `groups`: a constant scale, a shift as bias (Ali et al.
        2022).
        """
        flat = (
            x.array.reshape(-1, x.array.shape[-1])
            if groups is None
            else self.grouped(x.array, groups)
        )
        gamma, beta = (np.broadcast_to(norm[name], x.array.shape) for name in ("scale", "bias"))
        split = (
            (lambda a: a.reshape(flat.shape))
            if groups is None
            else (lambda a: self.grouped(a, groups))
        )
        join = (
            (lambda a: a.reshape(x.array.shape))
            if groups is None
            else (lambda a: self.ungrouped(a, x.array.shape))
        )
        centred = flat - flat.mean(1, keepdims=True)
        n = join(centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6))
        y = gamma * n + beta

        def back(relevance):
            to_n = split(gamma * n / y * relevance)
            centre = np.eye(flat.shape[1]) - 1 / flat.shape[1]
            return [join(flat * (to_n / centred @ centre))]

        return self.keep(y, [x], back)

    def grouped(self, array, groups):
        return np.moveaxis(array.reshape(*array.shape[:2], groups, -1), 2, 0).reshape(groups, -1)

    def ungrouped(self, flat, shape):
        return np.moveaxis(flat.reshape(len(flat), *shape[:2], -1), 0, 2).reshape(shape)

    def layer_norm(self, x, norm):
        return self.normalised(x, norm, None)

    def group_norm(self, x, norm, groups):
        return self.normalised(x, norm, groups)

    def act(self, x, function):
        return self.keep(function(jnp.asarray(x.array)), [x], lambda relevance: [relevance])

    def scaled(self, x, factor):
        return self.act(x, lambda x: x * factor)

    def add(self, x, y):
        total = x.array + y.array
        return self.keep(
            total,
            [x, y],
            lambda relevance: [x.array / total * relevance, y.array / total * relevance],
        )

    def place(self, x, constant):
        total = x.array + constant
        return self.keep(total, [x], lambda relevance: [x.array / total * relevance])

    def mean(self, x, axes):
        total = x.array.sum(axes, keepdims=True)
        total = np.where(
            total == 0, 1, total
        )  # a channel that is 0 everywhere has nothing to share
        spread = lambda relevance: x.array / total * np.expand_dims(relevance, axes)
        return self.keep(x.array.mean(axes), [x], lambda relevance: [spread(relevance)])

    def gate(self, x, gate):
        part = 1 if self.gates == "signal" else 0.5
        back = lambda relevance: [part * relevance, (1 - part) * relevance.sum((0, 1))]
        return self.keep(x.array * gate.array, [x, gate], back)

    def join(self, *parts):
        ends = np.cumsum([part.array.shape[-1] for part in parts])[:-1]
        joined = np.concatenate([part.array for part in parts], -1)
        return self.keep(joined, parts, lambda relevance: np.split(relevance, ends, -1))

    def prepend(self, x, token):
        return self.keep(np.concatenate([token, x.array]), [x], lambda relevance: [relevance[1:]])

    def move(self, x, function):
        order = np.asarray(function(np.arange(x.array.size).reshape(x.array.shape)))

        def back(relevance):
            result = np.zeros(x.array.size)
            np.add.at(result, order.ravel(), relevance.ravel())
            return [result.reshape(x.array.shape)]

        return self.keep(x.array.ravel()[order], [x], back)

    def attend(self, q, k, v):
        """[n,heads,d] each: products split in halves, softmax by AttnLRP's eq. 13 (Achtibat et al.
        2024).
        """
        scale = q.array.shape[-1] ** -0.5
        s = np.einsum("qhd,khd->hqk", q.array, k.array) * scale
        p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
        o = np.einsum("hqk,khd->qhd", p, v.array)

        def back(relevance):
            ratio = relevance / (2 * o)
            to_p = p * np.einsum("qhd,khd->hqk", ratio, v.array)
            to_v = v.array * np.einsum("hqk,qhd->khd", p, ratio)
            ratio = scale * (to_p - p * to_p.sum(-1, keepdims=True)) / 2  # s·(…)/(2s): s cancels
            to_q = q.array * np.einsum("hqk,khd->qhd", ratio, k.array)
            return [to_q, k.array * np.einsum("hqk,qhd->khd", ratio, q.array), to_v]

        return self.keep(o, [q, k, v], back)
