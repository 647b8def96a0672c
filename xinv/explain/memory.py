"""How much fits in memory at once: chosen here from the traced program, not by the user."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

CPU_BUDGET, ACCELERATOR_BUDGET = 24 * 2**20, 2**33
"""Bytes of intermediate values in flight on one device.

On CPU more falls out of the cache; and a block of over 32 MiB, which XLA may need for this estimate, is given back to
the system and zeroed anew in every call, which doubles the time of a gradient of MobileNetV2.
"""


ARITHMETIC = ("abs", "add", "clamp", "div", "exp", "log", "logistic", "max", "min", "mul", "neg", "sign", "sub", "tanh")
CHOICE = ("and", "eq", "ge", "gt", "le", "lt", "ne", "not", "or", "select_n")
SHAPE = ("convert_element_type", "expand_dims", "reshape", "slice", "squeeze")
FUSED = frozenset(ARITHMETIC + CHOICE + SHAPE)
"""Primitives that XLA computes where their result is read."""


def budget() -> int:
    """Bytes of intermediate values that one device may hold."""
    return CPU_BUDGET if jax.default_backend() == "cpu" else ACCELERATOR_BUDGET


def peak(function: Callable, *arguments: Any) -> int:
    """Bytes of intermediate values alive at once, evaluated in order and freed at their last use.

    The arguments may be shapes. An estimate: XLA keeps some values that are taken for fused here, and reorders.
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
    equations = _needed(jaxpr)
    sources = _sources(equations)
    last = {}
    for number, eqn in enumerate(equations):
        last |= {sources.get(atom, atom): number for atom in eqn.invars if isinstance(atom, jex.Var)}
    last |= {sources.get(atom, atom): len(equations) for atom in jaxpr.outvars if isinstance(atom, jex.Var)}
    made: dict[Any, int] = {}
    most = 0
    for number, eqn in enumerate(equations):
        new = {atom: _bytes(atom.aval) for atom in eqn.outvars if atom not in sources}
        inner = [_peak(getattr(sub, "jaxpr", sub)) for sub in jex.jaxprs_in_params(eqn.params)]
        most = max(most, sum(made.values()) + max(sum(new.values()), *inner, 0))
        made |= new
        made = {atom: size for atom, size in made.items() if last.get(atom, -1) > number}
    return most


def _needed(jaxpr: Any) -> list:
    """The equations that the result depends on."""
    needed, equations = {atom for atom in jaxpr.outvars if isinstance(atom, jex.Var)}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            equations.append(eqn)
            needed.update(atom for atom in eqn.invars if isinstance(atom, jex.Var))
    return equations[::-1]


def _sources(equations: list) -> dict[Any, Any]:
    """For values that are fused functions of one other and of smaller ones, that other: it is kept, not they."""
    sources = {}
    for eqn in equations:
        if eqn.primitive.name in FUSED:
            (made,) = eqn.outvars
            read = [atom for atom in eqn.invars if isinstance(atom, jex.Var) and _bytes(atom.aval) >= _bytes(made.aval)]
            if len({sources.get(atom, atom) for atom in read}) == 1:
                sources[made] = sources.get(read[0], read[0])
    return sources


def _bytes(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
