"""Networks as tables of layers, and the fastest exact form of each operation per backend.

A table is a tuple of `Layer` rows, read like the supplementary tables of Zhao et al. 2021. Layout is NHWC, kernels
are HWIO.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


class Layer(NamedTuple):
    """One row of a table.

    Attributes:
      type: what it computes.
      outputs: channels (or features) it gives; a pool keeps its input's.
      kernel, stride, padding: as PyTorch counts them, the same for height and width.
      relu: a ReLU follows.
      bypass: before the operation, the encoder's map of the same size is concatenated, where there is one.
      mark: `checkpoint_name` of the result; "" leaves it unmarked.
    """

    type: Literal["conv", "pool", "fc", "upsample"]
    outputs: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    relu: bool = False
    bypass: bool = False
    mark: str = ""


def conv(outputs: int, relu: bool = True, bypass: bool = False) -> Layer:
    """The tables' 3×3 convolution, which keeps the size."""
    return Layer("conv", outputs, 3, 1, 1, relu, bypass)


def pool(mark: str = "") -> Layer:
    """The tables' 2×2 max-pool; an odd last row or column is dropped."""
    return Layer("pool", kernel=2, stride=2, mark=mark)


def fc(outputs: int, relu: bool = True) -> Layer:
    """A fully connected layer over everything but the batch axis."""
    return Layer("fc", outputs, relu=relu)


def upsample(outputs: int, stride: int = 2, relu: bool = True) -> Layer:
    """The tables' 4×4 transposed convolution: stride 2 doubles the size, stride 1 takes 1×1 to 4×4."""
    return Layer("upsample", outputs, 4, stride, stride - 1, relu)


def scale(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 4."""
    return max(4, round(channels * width))


class Stack(nn.Module):
    """Runs a table.

    Attributes:
      table: the rows, first to last.
      dtype: of the computation; parameters are float32.
    """

    table: tuple[Layer, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, bypass: Mapping[int, jax.Array] | None = None, depth: int | None = None
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the output of the first `depth` rows (default: all), and each size's last convolution output.

        `bypass` holds the encoder's maps [N,s,s,c] by size s.
        """
        x, maps, bypass = x.astype(self.dtype), {}, bypass or {}
        for index, layer in enumerate(self.table[:depth]):
            if layer.bypass and x.shape[1] in bypass:
                x = jnp.concatenate([x, bypass[x.shape[1]].astype(x.dtype)], axis=-1)
            x = max_pool(x) if layer.type == "pool" else _Affine(layer, self.dtype, name=f"{layer.type}{index}")(x)
            x = nn.relu(x) if layer.relu else x
            x = checkpoint_name(x, layer.mark) if layer.mark else x
            if layer.type == "conv":
                maps[x.shape[1]] = x
        return x, maps


class _Affine(nn.Module):
    """One row with a kernel and a bias; the variance of a unit's input is kept (He et al. 2015)."""

    layer: Layer
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.layer
        if layer.type == "fc":
            x = x.reshape(len(x), -1)
        side = () if layer.type == "fc" else (layer.kernel, layer.kernel)
        shape = (*side, x.shape[-1], layer.outputs)
        # Of a transposed convolution's taps, pixels in ÷ pixels out fall on an input.
        spread = (_upsampled(x.shape[1], layer) / x.shape[1]) ** 2 if layer.type == "upsample" else 1.0
        initialise = nn.initializers.variance_scaling(
            (2.0 if layer.relu else 1.0) * spread, "fan_in", "truncated_normal"
        )
        kernel = self.param("kernel", initialise, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (layer.outputs,), jnp.float32).astype(self.dtype)
        return _apply(layer, x, kernel) + bias


def _apply(layer: Layer, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if layer.type == "fc":
        return x @ kernel
    if layer.type == "upsample":
        return conv_transpose(x, kernel, layer.stride, layer.padding)
    return convolve(x, kernel, layer.padding)


def _upsampled(size: int, layer: Layer) -> int:
    return (size - 1) * layer.stride + layer.kernel - 2 * layer.padding


def convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """The stride-1 convolution of x [N,h,w,i] with kernel [k,k,i,o]."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=_NHWC)


def max_pool(x: jax.Array) -> jax.Array:
    """The 2×2 maximum of x [N,h,w,c] as [N,h//2,w//2,c]; tied inputs share the gradient."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels).max(axis=(2, 4))


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The transposed convolution of x [N,h,w,i] with kernel [k,k,i,o] as [N,H,W,o], H = (h-1)·stride + k - 2·padding.

    Equal to `lax.conv_transpose(x, kernel, (stride, stride), [(k-1-padding, k-1-padding)] * 2)` and to PyTorch's
    `ConvTranspose2d(i, o, k, stride, padding)` with the kernel turned by 180°.
    """
    if x.shape[1] == x.shape[2] == 1 and padding == 0:  # no overlap: only the kernel's reach
        return jnp.einsum("nhwi,uvio->nuvo", x, kernel[::-1, ::-1])
    return overlap_add(x, kernel, stride, padding)


def overlap_add(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`conv_transpose` as one matrix product to k·k·o channels, whose blocks are then added where they overlap."""
    batch, height, width, _ = x.shape
    taps, blocks = _blocks(kernel, stride)
    # Block (a, b) of pixel (i, j) lands on output block (i+a, j+b): stride × stride pixels each.
    pieces = jnp.einsum("nhwi,arbsio->abnhrwso", x, taps)
    last = blocks - 1
    total = sum(
        jnp.pad(pieces[a, b], ((0, 0), (a, last - a), (0, 0), (b, last - b), (0, 0), (0, 0)))
        for a in range(blocks)
        for b in range(blocks)
    )
    total = total.reshape(batch, (height + last) * stride, (width + last) * stride, -1)
    return _crop(total, (height, width), kernel.shape[0], stride, padding)


def sub_pixel(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`conv_transpose` as a stride-1 convolution to stride²·o channels, then depth to space."""
    batch, height, width, inputs = x.shape
    taps, blocks = _blocks(kernel, stride)
    last = blocks - 1
    taps = taps[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5).reshape(blocks, blocks, inputs, -1)
    y = jax.lax.conv_general_dilated(x, taps, (1, 1), [(last, last)] * 2, dimension_numbers=_NHWC)
    y = y.reshape(batch, height + last, width + last, stride, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, (height + last) * stride, (width + last) * stride, -1)
    return _crop(y, (height, width), kernel.shape[0], stride, padding)


_NHWC = ("NHWC", "HWIO", "NHWC")


def _blocks(kernel: jax.Array, stride: int) -> tuple[jax.Array, int]:
    """The kernel in scatter order, zero-padded to whole blocks [a,stride,b,stride,i,o], and the count a = b."""
    size, _, inputs, outputs = kernel.shape
    blocks = math.ceil(size / stride)
    fill = (0, blocks * stride - size)
    taps = jnp.pad(kernel[::-1, ::-1], (fill, fill, (0, 0), (0, 0)))
    return taps.reshape(blocks, stride, blocks, stride, inputs, outputs), blocks


def _crop(y: jax.Array, size: tuple[int, int], kernel: int, stride: int, padding: int) -> jax.Array:
    """Drops `padding` at both ends; where the kernel is smaller than the stride, pixels no tap reaches stay zero."""
    height, width = ((n - 1) * stride + kernel - 2 * padding for n in size)
    return y[:, padding : padding + height, padding : padding + width]
