"""The exact form of each operation that trains fastest, per backend. Layout is NHWC.

An operation is one plain primitive to every reader of the program (explain/engine/graph.py); a
rearranged form serves training. Figures are CPU milliseconds on two Zen cores, batch 64, float32,
jax 0.10.2. The rearranged convolutions serve the CPU only; accelerators keep XLA's own.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _plain(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Convolves x [N,h,w,i] with kernel [k,k,i,o] at stride 1."""
    return _plain(x, kernel, padding)


# 1024 channels at 4×4: forward, input and kernel gradient 99, 101, 155 by taps, 172, 242, 189 by
# lax.
SMALL_MAP = 4
# 1 to 128 channels at 32×32: input gradient 6 by columns, 27 by lax; kernel gradient 9 by rows of
# taps, 25 by lax. To one channel, columns are no product: XLA fuses them and computes g anew for
# each tap. A step of GNIME at an eighth of its width takes 115 so, and 96 by a convolution.
FEW_CHANNELS = 8


def _convolve_forward(
    x: jax.Array,
    kernel: jax.Array,
    padding: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    form = _by_taps if _on_cpu() and max(x.shape[1:3]) <= SMALL_MAP else _plain
    return form(x, kernel, padding), (x, kernel)


def _convolve_backward(
    padding: int,
    saved: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    few = x.shape[-1] <= FEW_CHANNELS
    # Accelerators keep XLA's derivative; on CPU the form follows from the shapes.
    if not _on_cpu():
        return jax.vjp(lambda x, kernel: _plain(x, kernel, padding), x, kernel)[1](g)
    if max(x.shape[1:3]) <= SMALL_MAP:
        return jax.vjp(lambda x, kernel: _by_taps(x, kernel, padding), x, kernel)[1](g)
    if few and g.shape[-1] > 1:
        (dx,) = jax.vjp(lambda x: _by_columns(x, kernel, padding), x)[1](g)
    else:
        dx = _input_gradient(g, kernel, padding)
    # 256 to 256 channels at 16×16 and 512 to 512 at 8×8: kernel gradient 204 and 152 by taps, 224
    # and 199 by lax. The fewer channels are the cheaper to shift: a step of GNIME at an eighth of
    # its width takes 156 of one core so, 184 where x is shifted against a g of one channel.
    if g.shape[-1] < min(x.shape[-1], FEW_CHANNELS):
        return dx, _kernel_gradient(g, x, len(kernel) - 1 - padding, len(kernel))[
            ::-1, ::-1
        ].swapaxes(2, 3)
    return dx, _kernel_gradient(x, g, padding, across=len(kernel) if few else 1)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _input_gradient(g: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Returns the gradient [N,h,w,i] of `convolve` for g [N,H,W,o], by a forward convolution.

    XLA (CPU) has a fast library for this layout, but converts to it only in a program's entry, not
    in a loop. There the input gradient of 100 images by a network of 32, 64 and 128 channels takes
    28 so, and 60 by lax's derivative.
    """
    # The kernel turned by 180°, inputs and outputs exchanged.
    turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _plain(g, turned, len(kernel) - 1 - padding)


def _by_taps(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """`convolve` as one matrix product per tap, over the pixels with no padding under it."""
    size = kernel.shape[0]
    height, width = (n + 2 * padding - size + 1 for n in x.shape[1:3])
    # Per tap: the pixels that it reads, and the outputs to fill up with zeros.
    rows = [_reach(tap, padding, x.shape[1], height) for tap in range(size)]
    columns = [_reach(tap, padding, x.shape[2], width) for tap in range(size)]
    total = jnp.zeros((len(x), height, width, kernel.shape[-1]), x.dtype)
    for a, (row, above) in enumerate(rows):
        for b, (column, left) in enumerate(columns):
            total += jnp.pad(
                _product(x[:, row, column], kernel[a, b]), ((0, 0), above, left, (0, 0))
            )
    return total


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies x [...,i] with a matrix [i,o], flattened.

    XLA copies the operands of a product that contracts several axes. The gradients of 512 to 256
    upsampled channels at 8×8 take 403 so, and 753 by `x @ matrix`.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _reach(
    tap: int,
    padding: int,
    inputs: int,
    outputs: int,
) -> tuple[slice, tuple[int, int]]:
    """Returns the input pixels under a tap along one axis, and the outputs with padding there."""
    # Output n reads input n + tap - padding; the first and last may be outside.
    start = min(outputs, max(0, padding - tap))
    stop = max(start, min(outputs, inputs + padding - tap))
    return slice(start + tap - padding, stop + tap - padding), (start, outputs - stop)


def _by_columns(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """`convolve` as one matrix product of k·k shifted copies."""
    size = kernel.shape[0]
    patches = [patch for row in _patches(x, size, padding) for patch in row]
    return _product(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


def _patches(x: jax.Array, size: int, padding: int) -> list[list[jax.Array]]:
    """Returns the part of x read by each tap [row][column], [N,H,W,i]."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = x.shape[1] - size + 1
    width = x.shape[2] - size + 1
    return [[x[:, a : a + height, b : b + width] for b in range(size)] for a in range(size)]


def _kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    padding: int,
    across: int,
) -> jax.Array:
    """Returns the gradient [k,k,i,o] of `convolve` for g, by a product per `across` taps of a row.

    g [N,H,W,o] comes first in the product: XLA copies a transposed left side, and g is then copied
    once for all taps.
    """
    size = x.shape[1] + 2 * padding - g.shape[1] + 1
    g = g.reshape(-1, g.shape[-1]).T
    # Taps side by side share one product, which small numbers of channels need to be efficient.
    groups = [
        jnp.concatenate(row[b : b + across], axis=-1).reshape(g.shape[1], -1)
        for row in _patches(x, size, padding)
        for b in range(0, size, across)
    ]
    products = jnp.stack([g @ group for group in groups])
    return products.swapaxes(1, 2).reshape(size, size, x.shape[-1], -1)


@functools.partial(jax.jit, static_argnums=2)
def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel of x [N,h,w,c] with its own kernel [k,k,c], k odd, padded by k//2.

    One equation of this name to every reader of the program, since `jit` keeps it together.
    """
    if _on_cpu():
        return _by_shifts(x, kernel, stride)
    # XLA's own: a grouped convolution with one channel per group.
    padding = [(len(kernel) // 2,) * 2] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    groups = x.shape[-1]
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_shifts(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`depthwise` as a sum of shifted images: 144 channels at 32×32 take 24 ms, by lax 240.

    Times are of the processor. The input gradient of 144 channels between two pointwise
    convolutions takes 56, for half the batch; by the derivative of this sum 185, since XLA computes
    the operands anew for each shift.
    """
    around = len(kernel) // 2
    return _shifts(
        jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0))),
        kernel,
        stride,
    )


def _shifts(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Sums x [N,h,w,c], shifted by each tap and weighted, without padding."""
    # The barrier makes XLA compute x once, not anew for each shift.
    size, x = len(kernel), lax.optimization_barrier(x)
    height = x.shape[1] - size + 1
    width = x.shape[2] - size + 1
    return sum(
        x[:, a : a + height : stride, b : b + width : stride] * kernel[a, b, None, None, None]
        for a in range(size)
        for b in range(size)
    )


def _by_shifts_forward(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_shifts(x, kernel, stride), (x, kernel)


def _by_shifts_backward(
    stride: int,
    saved: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    around = len(kernel) // 2
    padded = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    # The sum is linear in the kernel: its own derivative is fast enough.
    (dkernel,) = jax.vjp(lambda kernel: _shifts(padded, kernel, stride), kernel)[1](g)
    # A stride leaves gaps in g; the far side is padded until every pixel of x is reached.
    sides = zip(x.shape[1:3], g.shape[1:3], strict=True)
    spread = []
    for inputs, outputs in sides:
        spread.append((around, inputs + around - (outputs - 1) * stride - 1, stride - 1))
    g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return _shifts(g, kernel[::-1, ::-1], 1), dkernel


_by_shifts.defvjp(_by_shifts_forward, _by_shifts_backward)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 2×2 maximum of x [N,h,w,c], [N,h//2,w//2,c].

    Of tied inputs the first in reading order has the gradient. XLA's own backward pass
    (select-and-scatter) has the same numbers, 6 times slower (CPU).
    """
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 2, 2, 1),
        (1, 2, 2, 1),
        "VALID",
    )


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    x, highest = saved
    batch, height, width, channels = highest.shape
    # In reading order, the first input equal to the maximum takes the gradient.
    free = jnp.ones(highest.shape, bool)
    parts = []
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chosen = free & (x[:, a : 2 * height : 2, b : 2 * width : 2] == highest)
        parts.append(jnp.where(chosen, g, 0))
        free &= ~chosen
    # Put the four parts back in place; a row or column left over has none.
    grid = jnp.stack([jnp.stack(parts[:2], axis=3), jnp.stack(parts[2:], axis=3)], axis=2)
    odd = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return (jnp.pad(grid.reshape(batch, 2 * height, 2 * width, channels), odd),)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    highest = max_pool(x)
    return highest, (x, highest)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def convolve_repeated(
    x: jax.Array,
    kernel: jax.Array,
    repeat: int,
    padding: int,
) -> jax.Array:
    """`convolve` of x [N,h,w,i] after each of its pixels is repeated along both axes.

    The input of the convolution is [N,h·repeat,w·repeat,i]. One matrix product per tap, before
    pixels are repeated: 9 products for each, while a 3×3 convolution of pixels repeated twice has
    36. From one pixel to 4×4, 512 to 256 channels, 16 images take 1 so; as a transposed
    convolution, with a kernel summed anew at each call, 70.
    """
    more = 2 * padding - len(kernel) + 1
    taps = [[_product(x, tap) for tap in row] for row in kernel]
    # Repeating and summing go axis by axis, so most sums are over few pixels.
    columns = zip(*taps, strict=True)
    rows = []
    for column in columns:
        rows.append(
            sum(_repeated(tap, 1, repeat, padding - a, more) for a, tap in enumerate(column))
        )
    return sum(_repeated(row, 2, repeat, padding - b, more) for b, row in enumerate(rows))


def _repeated(
    x: jax.Array,
    axis: int,
    repeat: int,
    before: int,
    more: int,
) -> jax.Array:
    """Repeats pixels along an axis, after `before` zeros (a cut if negative), `more` in all."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (before, more - before, 0)
    return lax.pad(jnp.repeat(x, repeat, axis), jnp.zeros((), x.dtype), padding)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
) -> jax.Array:
    """The transposed convolution of x [N,h,w,i] with kernel [i,k,k,o], of shape [N,H,W,o].

    H = (h-1)·stride + k - 2·padding. Equal to PyTorch's `ConvTranspose2d(i, o, k, stride, padding)`
    with weight [i,o,k,k], and to `lax.conv_transpose(x, turned, (stride, stride), [(k-1-padding,
    k-1-padding)] * 2)`, `turned` being the kernel as [k,k,i,o], turned by 180°.
    """
    # One pixel without padding: nothing overlaps.
    if x.shape[1] == x.shape[2] == 1 and padding == 0:
        return jnp.einsum("nhwi,iuvo->nuvo", x, kernel)
    return overlap_add(x, kernel, stride, padding)


def overlap_add(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
) -> jax.Array:
    """`conv_transpose` as one matrix product to k·k·o channels, with overlapping blocks added.

    The form in use: of 1024 to 512 channels, 4×4 to 8×8, both gradients take 240; `sub_pixel`'s
    kernel gradient alone took 34 s of wall time on an earlier kernel layout.
    """
    batch, height, width, _ = x.shape
    taps, blocks = _blocks(kernel, stride)
    # Block (a, b) of pixel (i, j) lands on output block (i+a, j+b), stride × stride pixels each.
    pieces = _product(x, taps.reshape(len(taps), -1)).reshape(
        batch,
        height,
        width,
        *taps.shape[1:],
    )
    last = blocks - 1
    total = sum(
        jnp.pad(
            pieces[:, :, :, a, :, b], ((0, 0), (a, last - a), (b, last - b), (0, 0), (0, 0), (0, 0))
        )
        for a in range(blocks)
        for b in range(blocks)
    )
    return _interleave(total, (height, width), kernel.shape[1], padding)


def sub_pixel(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
) -> jax.Array:
    """`conv_transpose` as a stride-1 convolution to stride²·o channels, then depth to space."""
    _, height, width, inputs = x.shape
    taps, blocks = _blocks(kernel, stride)
    # Turned kernels, one per position within a block.
    taps = (
        taps[:, ::-1, :, ::-1]
        .transpose(1, 3, 0, 2, 4, 5)
        .reshape(
            blocks,
            blocks,
            inputs,
            -1,
        )
    )
    y = _plain(x, taps, blocks - 1)
    y = y.reshape(*y.shape[:3], stride, stride, -1)
    return _interleave(y, (height, width), kernel.shape[1], padding)


def _blocks(kernel: jax.Array, stride: int) -> tuple[jax.Array, int]:
    """Pads the kernel to whole blocks [i,a,stride,b,stride,o]; returns it and the count a = b."""
    inputs, size, _, outputs = kernel.shape
    blocks = math.ceil(size / stride)
    fill = (0, blocks * stride - size)
    taps = jnp.pad(kernel, ((0, 0), fill, fill, (0, 0)))
    return taps.reshape(inputs, blocks, stride, blocks, stride, outputs), blocks


def _interleave(
    y: jax.Array,
    size: tuple[int, int],
    kernel: int,
    padding: int,
) -> jax.Array:
    """Puts the pixels of blocks y [N,h,w,stride,stride,o] in place, and crops to the output.

    Args:
      y: the blocks.
      size: height and width of the transposed convolution's input.
      kernel, padding: its own.
    """
    batch, rows, columns, stride = y.shape[:4]
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch,
        rows * stride,
        columns * stride,
        -1,
    )
    height, width = ((n - 1) * stride + kernel - 2 * padding for n in size)
    return y[:, padding : padding + height, padding : padding + width]
