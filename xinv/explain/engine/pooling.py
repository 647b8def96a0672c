"""Max-pooling with a fast derivative.

XLA's own (select-and-scatter) took two thirds of LRP's time on a CPU, and more of
DeepLIFT's, with three of them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xinv.explain.engine.graph import Equation, Graph

Window = tuple[int, ...]


def compared(graph: Graph) -> Graph:
    """Replaces max-pools of disjoint windows by ones with a derivative by comparison.

    The numbers are XLA's.
    """
    return graph._replace(
        equations=tuple(_quick(e) if _is_disjoint(e) else e for e in graph.equations)
    )


def _is_disjoint(equation: Equation) -> bool:
    """Tells if the equation is a max-pool without padding, dilation and overlap."""
    if equation.name != "reduce_window_max":
        return False
    params = equation.params
    plain = {*params["base_dilation"], *params["window_dilation"]} == {1} and not np.any(
        params["padding"]
    )
    return plain and tuple(params["window_dimensions"]) == tuple(params["window_strides"])


def _quick(equation: Equation) -> Equation:
    window = tuple(equation.params["window_dimensions"])
    return equation._replace(evaluate=lambda x: [max_pool(x, window)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: Window) -> jax.Array:
    """Returns the maximum of each window; a rest that fills no window is dropped.

    Of tied values the first in reading order has the signal.

    Args:
      x: any array.
      window: one size per axis, also the stride.
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _forward(x: jax.Array, window: Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    highest = max_pool(x, window)
    return highest, (x, highest)


def _backward(
    window: Window,
    saved: tuple[jax.Array, jax.Array],
    signal: jax.Array,
) -> tuple[jax.Array]:
    x, highest = saved
    # View x as windows: axes in pairs of windows and places within.
    used = []
    for count, size in zip(highest.shape, window, strict=True):
        used.append(count * size)
    blocks = [size for pair in zip(highest.shape, window, strict=True) for size in pair]
    inner = tuple(range(1, 2 * x.ndim, 2))  # the axes within a window
    values = x[tuple(slice(size) for size in used)].reshape(blocks)
    # Number the places in reading order; the least number at a maximum wins.
    place = np.arange(math.prod(window)).reshape([size for side in window for size in (1, side)])
    order = jnp.where(values == jnp.expand_dims(highest, inner), place, place.size)
    first = order == order.min(inner, keepdims=True)
    # Its signal, in the layout of x; dropped rests have none.
    back = jnp.where(first, jnp.expand_dims(signal, inner), 0).reshape(used)
    return (jnp.pad(back, [(0, have - size) for have, size in zip(x.shape, used, strict=True)]),)


max_pool.defvjp(_forward, _backward)
