"""How much fits in memory at once: chosen here from the traced program, not by the user."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

CPU_BUDGET, ACCELERATOR_BUDGET = 2**26, 2**33
"""Bytes of intermediate values in flight on one device.

On CPU more falls out of the cache; and a block of over 32 MiB, about half the estimate, is given back to the system and
zeroed anew in every call, which doubles the time of a gradient of MobileNetV2.
"""


def budget() -> int:
    """Bytes of intermediate values that one device may hold."""
    return CPU_BUDGET if jax.default_backend() == "cpu" else ACCELERATOR_BUDGET


def peak(function: Callable, *arguments: Any) -> int:
    """Bytes of intermediate values alive at once, evaluated in order and freed at their last use.

    The arguments may be shapes. What XLA fuses needs less, so that this is an upper estimate.
    """
    return max(1, _peak(jax.make_jaxpr(function)(*arguments).jaxpr))


def fitting(function: Callable, rows: Any, *shared: Any) -> int:
    """How many rows of a tree [S,...] `function(rows, *shared)` may take at once, at least 1.

    What counts is by how much a second row exceeds the first alone. All arguments may be shapes.
    """

    def needed(count: int) -> int:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), rows)
        return peak(function, shapes, *shared)

    return max(1, budget() // max(1, needed(2) - needed(1)))


def chunk(count: int, most: int) -> int:
    """The size of the fewest equal chunks of `count` rows that have at most `most`."""
    return math.ceil(count / math.ceil(count / most))


def mapped(function: Callable, rows: Any, size: int) -> Any:
    """`function(rows)`, a tree of arrays [S,...], of S independent rows, at most `size` at a time."""
    count = _length(rows)
    if count <= size:
        return function(rows)
    results = jax.lax.map(lambda chunk: function(chunk[0]), _chunks(rows, size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def total(function: Callable, rows: Any) -> Any:
    """The sum of `function(row)`, a tree of arrays, over the S rows of the tree `rows` [S,...].

    Rows are mapped in the batch axis, as many at once as fit into memory.
    """
    each = jax.vmap(function)
    size = chunk(_length(rows), fitting(each, rows))
    if size == _length(rows):
        return jax.tree.map(lambda leaf: leaf.sum(0), each(rows))

    def add(sums: Any, chunk: tuple[Any, jax.Array]) -> tuple[Any, None]:
        rows, present = chunk
        kept = jax.tree.map(
            lambda leaf: jnp.where(jnp.expand_dims(present, (*range(1, leaf.ndim),)), leaf, 0), each(rows)
        )
        return jax.tree.map(lambda total, leaf: total + leaf.sum(0), sums, kept), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], rows))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, _chunks(rows, size))[0]


def _length(rows: Any) -> int:
    return jax.tree.leaves(rows)[0].shape[0]


def _chunks(rows: Any, size: int) -> tuple[Any, np.ndarray]:
    """The rows [S,...] as [chunks, rows, ...], the last one repeated to fill up, and which are none of these."""
    count = _length(rows)
    chunks = math.ceil(count / size)
    index = np.arange(chunks * size).reshape(chunks, size)
    return jax.tree.map(lambda leaf: leaf[np.minimum(index, count - 1)], rows), index < count


def _peak(jaxpr: Any) -> int:
    """The most bytes that the equations of an open jaxpr hold, beside its inputs."""
    last = {atom: number for number, eqn in enumerate(jaxpr.eqns) for atom in eqn.invars if isinstance(atom, jex.Var)}
    last |= dict.fromkeys([atom for atom in jaxpr.outvars if isinstance(atom, jex.Var)], len(jaxpr.eqns))
    made: dict[Any, int] = {}
    most = 0
    for number, eqn in enumerate(jaxpr.eqns):
        inner = max([_peak(getattr(sub, "jaxpr", sub)) for sub in jex.jaxprs_in_params(eqn.params)], default=0)
        made.update({atom: _bytes(atom.aval) for atom in eqn.outvars})
        most = max(most, sum(made.values()) + inner)
        made = {atom: size for atom, size in made.items() if last.get(atom, -1) > number}
    return most


def _bytes(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
