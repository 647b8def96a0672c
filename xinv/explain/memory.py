"""How much fits in memory at once: chosen here from the traced program, not by the user."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex

CPU_BUDGET, ACCELERATOR_BUDGET = 2**30, 2**33
"""Bytes of intermediate values in flight on one device."""


def budget() -> int:
    """Bytes of intermediate values that one device may hold."""
    return CPU_BUDGET if jax.default_backend() == "cpu" else ACCELERATOR_BUDGET


def peak(function: Callable, *arguments: Any) -> int:
    """Bytes of intermediate values alive at once, evaluated in order and freed at their last use.

    The arguments may be shapes. What XLA fuses needs less, so that this is an upper estimate.
    """
    return max(1, _peak(jax.make_jaxpr(function)(*arguments).jaxpr))


def total(function: Callable, rows: Any) -> Any:
    """The sum of `function(row)`, a tree of arrays, over the S rows of the tree `rows` [S,...].

    Rows are mapped in the batch axis, as many at once as fit into memory. The chunks follow each other without a loop,
    since XLA's convolutions are slow inside loops on CPU.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    at_once = min(count, max(1, budget() // peak(function, jax.tree.map(lambda leaf: leaf[0], rows))))
    size = math.ceil(count / math.ceil(count / at_once))
    result = None
    for start in range(0, count, size):
        part = jax.tree.map(lambda leaf, start=start: leaf[start : start + size], rows)
        part, result = (part, result) if result is None else jax.lax.optimization_barrier((part, result))
        chunk = jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(function)(part))
        result = chunk if result is None else jax.tree.map(jax.numpy.add, result, chunk)
    return result


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
