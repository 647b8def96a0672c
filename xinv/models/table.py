"""Networks as tables of layers, in the form of the supplementary tables of Zhao et al. 2021.

Layout is NHWC.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from xinv.models.layers import conv_transpose, convolve, convolve_repeated, max_pool
from xinv.models.regularise import dropout, norm
from xinv.numbers import require, require_count, require_positive
from xinv.types import InputError

DTYPES = ("float32", "bfloat16")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
}


LARGEST = 2**20
"""The most channels or features of a layer: more would fill the memory."""


class Layer(NamedTuple):
    """One row of a table.

    Attributes:
      type: its operation.
      outputs: channels (or features) of the output; a pool keeps its input's.
      kernel, stride, padding: as PyTorch counts them, the same for height and width.
      activation: the last step, one of ACTIVATIONS.
      norm: the normalisation after the operation, before the activation: "none", or a kind of
        `regularise.norm`.
      dropout: share of the inputs dropped in training.
      repeat: how often a convolution's input pixels are repeated along height and width first
        (nearest upsampling).
      bypass: before the operation, the encoder's map of the same size is
        concatenated, if there is one.
      mark: `checkpoint_name` of the result; "" leaves it unmarked.
    """

    type: Literal["conv", "pool", "fc", "upsample"]
    outputs: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    activation: str = "none"
    norm: str = "none"
    dropout: float = 0.0
    repeat: int = 1
    bypass: bool = False
    mark: str = ""


def conv(
    outputs: int,
    activation: str = "relu",
    norm: str = "none",
    bypass: bool = False,
    repeat: int = 1,
) -> Layer:
    """The tables' 3×3 convolution, which keeps the size (of a repeated input)."""
    # Padding 1 keeps the size.
    return Layer(
        "conv",
        outputs,
        3,
        1,
        1,
        activation,
        norm,
        repeat=repeat,
        bypass=bypass,
    )


def pool(activation: str = "none", mark: str = "") -> Layer:
    """The tables' 2×2 max-pool; a last row or column left over is dropped."""
    return Layer("pool", kernel=2, stride=2, activation=activation, mark=mark)


def fc(outputs: int, activation: str = "relu", dropout: float = 0.0) -> Layer:
    """A fully connected layer over everything but the batch axis."""
    return Layer("fc", outputs, activation=activation, dropout=dropout)


def upsample(
    outputs: int,
    stride: int = 2,
    activation: str = "relu",
    norm: str = "none",
    dropout: float = 0.0,
) -> Layer:
    """The tables' 4×4 transposed convolution.

    Stride 2 doubles the size, stride 1 takes 1×1 to 4×4.
    """
    # Padding stride - 1: the output has stride times the size, or 4×4 from 1×1.
    return Layer(
        "upsample",
        outputs,
        4,
        stride,
        stride - 1,
        activation,
        norm,
        dropout,
    )


def scale(channels: int, width: float) -> int:
    """Returns `channels` times `width`, rounded, at least 4.

    Raises:
      InputError: `channels` is no positive whole number, or `width` not positive and finite, or
        their product above `LARGEST`.
    """
    require_count(channels=channels)
    require_positive(width=width)
    require(
        channels * width <= LARGEST,
        "channels times width",
        channels * width,
        f"at most {LARGEST}",
    )
    return max(4, round(channels * width))


def check_dtype(dtype: str) -> str:
    """Returns `dtype` if networks compute in it; otherwise raises InputError."""
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    return dtype


def check_activation(activation: str) -> str:
    """Returns `activation` if it is one of ACTIVATIONS; otherwise raises InputError."""
    if activation not in ACTIVATIONS:
        raise InputError(
            f"unknown activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}"
        )
    return activation


def check_dropout(rate: float) -> float:
    """Returns `rate` if it is a share in [0, 1); otherwise raises InputError."""
    if not 0 <= rate < 1:
        raise InputError(
            f"dropout {rate} is not a share of the values: give a number from 0 to below 1"
        )
    return rate


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
        self,
        x: jax.Array,
        bypass: Mapping[int, jax.Array] | None = None,
        rows: slice = slice(None),
        train: bool = False,
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the output of those rows (default: all), and each size's last convolution output.

        Args:
          x: [N,h,w,c] or [N,c].
          bypass: the encoder's maps [N,s,s,c] by size s.
          rows: the rows to run.
          train: whether values are dropped and norms follow the batch.
        """
        # Collect each size's last convolution output: the bypass of a later decoder.
        x, maps, bypass = x.astype(self.dtype), {}, bypass or {}
        for index, layer in tuple(enumerate(self.table))[rows]:
            # The encoder's map joins after the repetition, so at the size repeated.
            beside = bypass.get(x.shape[1] * layer.repeat) if layer.bypass else None
            # A row's dropout is of its inputs.
            if layer.dropout and train:
                x = dropout(x, layer.dropout, self.make_rng("dropout"))
            if layer.type == "pool" and min(x.shape[1:3]) < 2:
                raise InputError(
                    f"{x.shape[1]}×{x.shape[2]} is too small for a 2×2 pool: give larger images or"
                    " fewer blocks"
                )
            # Names count rows, so that a run of some rows finds its parameters.
            affine = functools.partial(
                _Affine,
                layer,
                self.dtype,
                name=f"{layer.type}{index}",
            )
            x = max_pool(x) if layer.type == "pool" else affine()(x, beside)
            # The order of a row: operation, norm, activation.
            if layer.norm != "none":
                x = norm(x, train, layer.norm, name=f"norm{index}")
            x = ACTIVATIONS[layer.activation](x)
            x = checkpoint_name(x, layer.mark) if layer.mark else x
            if layer.type == "conv":
                maps[x.shape[1]] = x
        return x, maps


class _Affine(nn.Module):
    """One row with a kernel and a bias; the variance of a unit's input is kept (He et al. 2015)."""

    layer: Layer
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, beside: jax.Array | None) -> jax.Array:
        layer = self.layer
        x = x.reshape(len(x), -1) if layer.type == "fc" else x
        # A map beside the input counts among the inputs of the kernel.
        parts = [x] if beside is None else [x, beside.astype(x.dtype)]
        inputs = sum(part.shape[-1] for part in parts)
        # Each layout of a kernel is its operation's in `layers`.
        side = layer.kernel
        shapes = {
            "fc": (inputs, layer.outputs),
            "conv": (side, side, inputs, layer.outputs),
            "upsample": (inputs, side, side, layer.outputs),
        }
        # An output of a transposed convolution sums a share of the taps: pixels in ÷ pixels out.
        if layer.type == "upsample":
            spread = (upsampled(x.shape[1], layer) / x.shape[1]) ** 2
        else:
            spread = 1.0
        # He et al. 2015: a ReLU halves the second moment, so the factor is 2.
        initialise = nn.initializers.variance_scaling(
            (2.0 if layer.activation == "relu" else 1.0) * spread,
            "fan_in",
            "truncated_normal",
            in_axis=0 if layer.type == "upsample" else -2,
        )
        kernel = self.param("kernel", initialise, shapes[layer.type], jnp.float32).astype(
            self.dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (layer.outputs,), jnp.float32).astype(
            self.dtype
        )
        outputs = _apply(layer, parts, kernel)
        return outputs + jnp.expand_dims(bias, range(outputs.ndim - 1))


def _apply(layer: Layer, parts: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """Applies the row's operation to x, and to the map beside it if there is one."""
    if layer.type == "conv" and layer.repeat > 1:
        # Only x is repeated; the encoder's map has the final size, so it is convolved by itself.
        x, *beside = parts
        channels = x.shape[-1]
        total = convolve_repeated(
            x,
            kernel[:, :, :channels],
            layer.repeat,
            layer.padding,
        )
        return sum(
            (convolve(part, kernel[:, :, channels:], layer.padding) for part in beside), start=total
        )
    x = jnp.concatenate(parts, axis=-1)
    if layer.type == "fc":
        return x @ kernel
    if layer.type == "upsample":
        return conv_transpose(x, kernel, layer.stride, layer.padding)
    return convolve(x, kernel, layer.padding)


def upsampled(size: int, layer: Layer) -> int:
    """Returns the size of an "upsample" row's output for an input of `size`."""
    return (size - 1) * layer.stride + layer.kernel - 2 * layer.padding
