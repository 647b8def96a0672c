"""3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3) of Lavin and Gray 2016.

A tile of 4×4 outputs takes 36 products per pair of channels instead of 144. On CPU, where a
convolution runs at the rate of a matrix product, this halves its time: 25 maps of 128 to 256
channels at 16×16 take 5 ms, by lax 10 (two Zen cores, float32, jax 0.10.2). The results differ from
lax's by 1e-5 of their maximum: good enough to sample scores, so it serves only forward passes
without derivative.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv.explain.engine.graph import CUSTOM, Equation, evaluate, trace
from xinv.types import Apply, Variables

LEAST_CHANNELS = 64
MOST_PRODUCTS = 0.5
"""Largest share of the plain convolution's products; tiles beyond the map's border add to it."""

TILE, TAPS = 4, 3
SIDE = TILE + TAPS - 1
# Section 4.3 of the paper, with the points 0, ±1, ±2 and infinity.
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6))
KERNEL += ((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

Arrays = list[jax.Array]


def predictor(
    apply: Apply,
    variables: Variables,
    images: jax.ShapeDtypeStruct,
) -> Callable[[jax.Array], jax.Array]:
    """Returns the model as a function of images [N,H,W,C], with faster convolutions on CPU.

    The kernels are transformed here, so that a loop over batches does it once. Not
    meant to be differentiated.

    Args:
      apply, variables: the model's.
      images: their shape and type.
    """

    def model(images: jax.Array) -> jax.Array:
        return apply(variables, images)

    if jax.default_backend() != "cpu":
        return model
    # Functions with an own derivative are inlined too: nobody differentiates here.
    graph = trace(model, images, ruled=lambda equation: equation.name not in CUSTOM)
    faster = [_faster(equation) if _pays(equation) else equation for equation in graph.equations]
    if all(new is old for new, old in zip(faster, graph.equations, strict=True)):
        return model
    return lambda images: evaluate(faster, {graph.input: images})[graph.output]


def _pays(equation: Equation) -> bool:
    """Tells if the equation is a convolution that Winograd's form computes faster."""
    if equation.name != "conv_general_dilated" or equation.inputs[1].constant is None:
        return False
    p = equation.params
    numbers = equation.params["dimension_numbers"]
    kernel = equation.inputs[1]
    shape = [kernel.shape[axis] for axis in numbers.rhs_spec]
    # Stride 1, no dilation or groups, 3×3 in float32, enough channels.
    plain = all(
        n == 1 for name in ("window_strides", "lhs_dilation", "rhs_dilation") for n in p[name]
    )
    plain &= p["feature_group_count"] == p["batch_group_count"] == 1 and p["precision"] is None
    plain &= all(value.dtype == jnp.float32 for value in (*equation.inputs, *equation.outputs))
    if not plain or shape[2:] != [TAPS, TAPS] or min(shape[:2]) < LEAST_CHANNELS:
        return False
    # Products per pair of channels: 36 per tile, against 9 per output.
    outputs = []
    for axis in numbers.out_spec[2:]:
        outputs.append(equation.outputs[0].shape[axis])
    products = math.prod(SIDE * math.ceil(n / TILE) for n in outputs)
    return 0 < products <= MOST_PRODUCTS * math.prod(TAPS * n for n in outputs)


def _faster(equation: Equation) -> Equation:
    """Replaces the convolution by its fast form, of the first input alone."""
    numbers = equation.params["dimension_numbers"]
    padding = tuple(equation.params["padding"])
    # The fast form is NHWC; any other layout is transposed to it and back.
    to_nhwc = [numbers.lhs_spec[axis] for axis in (0, 2, 3, 1)]
    from_nhwc = np.argsort([numbers.out_spec[axis] for axis in (0, 2, 3, 1)])
    kernel = equation.inputs[1].constant.transpose(
        [numbers.rhs_spec[axis] for axis in (2, 3, 1, 0)]
    )
    # G g Gᵀ: the kernel in transformed form, 6×6 matrices [i,o].
    half = [_combine(KERNEL, row) for row in kernel]
    whole = [_combine(KERNEL, column) for column in zip(*half, strict=True)]
    kernels = lax.optimization_barrier([list(row) for row in zip(*whole, strict=True)])

    def run(x: jax.Array) -> list[jax.Array]:
        return [convolve(x.transpose(to_nhwc), kernels, padding).transpose(from_nhwc)]

    return equation._replace(inputs=equation.inputs[:1], evaluate=run)


@functools.partial(jax.jit, static_argnums=2)
def convolve(
    x: jax.Array,
    kernels: list[Arrays],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Convolves x [N,h,w,i] at stride 1 with a kernel in transformed form, 6×6 matrices [i,o].

    Each stage ends in a barrier: fused into the next, XLA would compute it once for every reader.
    """
    sizes = []
    for n, sides in zip(x.shape[1:3], padding, strict=True):
        sizes.append(n + sum(sides) - TAPS + 1)
    rows, columns = (math.ceil(n / TILE) for n in sizes)
    # Pad by the convolution's own padding, and up to whole tiles at the far end.
    ends = [
        (before, TILE * tiles + TAPS - 1 - n - before, 0)
        for n, (before, _), tiles in zip(x.shape[1:3], padding, (rows, columns), strict=True)
    ]
    x = lax.optimization_barrier(
        lax.pad(
            x,
            jnp.zeros((), x.dtype),
            [(0, 0, 0), *ends, (0, 0, 0)],
        )
    )
    # Bᵀ d B: the inputs of all tiles, along rows, then along columns.
    strips = lax.optimization_barrier(_combine(INPUT, _every(x, 1, rows)))
    tiles = [_combine(INPUT, _every(strip, 2, columns)) for strip in strips]
    # One matrix product over channels per place in the 6×6 tile.
    products = []
    for pair in zip(tiles, kernels, strict=True):
        products.append(
            [
                lax.optimization_barrier(tile.reshape(-1, x.shape[-1])) @ kernel
                for tile, kernel in zip(*pair, strict=True)
            ]
        )
    # Aᵀ m A: back to 4×4 outputs per tile.
    half = lax.optimization_barrier(
        [_combine(OUTPUT, column) for column in zip(*products, strict=True)]
    )
    whole = [_combine(OUTPUT, row) for row in zip(*half, strict=True)]
    # Tiles side by side, cut to the convolution's own size.
    shape = len(x), rows, columns, whole[0][0].shape[-1]
    y = jnp.stack([jnp.stack([part.reshape(shape) for part in row], 3) for row in whole], 2)
    return y.reshape(len(x), TILE * rows, TILE * columns, -1)[:, : sizes[0], : sizes[1]]


def _every(x: jax.Array, axis: int, tiles: int) -> Arrays:
    """Collects, for each place within a tile's input, its values in all tiles along an axis."""
    return [lax.slice_in_dim(x, at, at + TILE * (tiles - 1) + 1, TILE, axis) for at in range(SIDE)]


def _combine(matrix: Sequence[Sequence[float]], parts: Sequence[jax.Array]) -> Arrays:
    """Multiplies the matrix with the column of parts."""
    found = []
    for row in matrix:
        found.append(sum(number * part for number, part in zip(row, parts, strict=True) if number))
    return found
