"""Memory: the size of a batch or chunk, chosen from the traced program, not by the user."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from xinv.explain.engine.graph import loop_inputs

CPU_BUDGET, ACCELERATOR_BUDGET = 20 * 2**20, 2**33
"""Bytes of intermediate values in flight on one device.

On CPU more falls out of the cache. XLA may also need a block of over 32 MiB for this estimate, and
the system zeroes such a block anew in every call: a gradient of MobileNetV2 takes twice as long.
"""


ARITHMETIC = (
    "abs",
    "add",
    "clamp",
    "div",
    "exp",
    "log",
    "logistic",
    "max",
    "min",
    "mul",
    "neg",
    "sign",
    "sub",
    "tanh",
)
CHOICE = ("and", "eq", "ge", "gt", "le", "lt", "ne", "not", "or", "select_n")
SHAPE = ("convert_element_type", "expand_dims", "reshape", "slice", "squeeze")
FUSED = frozenset(ARITHMETIC + CHOICE + SHAPE)
"""Primitives that XLA fuses into the readers of their result."""


def budget() -> int:
    """Returns the bytes of intermediate values that one device may hold."""
    if jax.default_backend() == "cpu":
        return CPU_BUDGET
    return ACCELERATOR_BUDGET


class Traced:
    """A function of one row, traced once: to call, to map over rows, and to measure its memory.

    Args:
      function: of trees of arrays; all rows share its closure.
      *example: its arguments, or their shapes.
      shared: how many of the arguments, the last ones, all rows have in common.
    """

    def __init__(self, function: Callable, *example: Any, shared: int = 0):
        self._jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*example)
        self.shapes = shapes
        self._tree = jax.tree.structure(shapes)
        self._rows = len(jax.tree.leaves(example[: len(example) - shared]))

    def __call__(self, *arguments: Any) -> Any:
        return jax.tree.unflatten(
            self._tree, jex.jaxpr_as_fun(self._jaxpr)(*jax.tree.leaves(arguments))
        )

    def peak(self) -> int:
        """Returns the most bytes of a row's intermediate values alive at once.

        They are evaluated in order and freed at their last use. This is an estimate: XLA keeps some
        values taken for fused here, and reorders. An operation with a batching rule of its own
        (`jax.custom_batching`) counts by its results: it limits itself.
        """
        jaxpr = self._jaxpr.jaxpr
        return max(1, _peak(jaxpr, jaxpr.invars[: self._rows]))

    def fitting(self) -> int:
        """Returns the number of rows that may be taken at once, at least 1."""
        return max(1, budget() // self.peak())


def chunk(count: int, most: int) -> int:
    """Returns the size of the fewest equal chunks of `count` rows with at most `most` each."""
    return math.ceil(count / math.ceil(count / most))


def mapped(function: Callable, rows: Any, size: int) -> Any:
    """Evaluates `function(rows)` for S independent rows of a tree [S,...], `size` at a time."""
    count = _length(rows)
    if count <= size:
        return function(rows)
    # The last chunk is filled up with copies of its last row, dropped here.
    results = jax.lax.map(lambda chunk: function(chunk[0]), _chunks(rows, size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def total(function: Callable, rows: Any) -> Any:
    """Sums `function(row)`, a tree of arrays, over the S rows of the tree `rows` [S,...].

    Rows are mapped in the batch axis, as many at once as fit into memory.
    """

    def add(sums: Any, results: Any, present: jax.Array) -> Any:
        del present
        return jax.tree.map(lambda total, leaf: total + leaf.sum(0), sums, results)

    return _fold(function, rows, add, lambda zeros: zeros)


def variance(function: Callable, rows: Any) -> jax.Array:
    """Returns the variance of the array `function(row)` over the S rows of the tree `rows` [S,...].

    Chunks are joined by their means and squared deviations (Chan, Golub and LeVeque 1979), so a
    variance that is small beside the mean does not cancel.
    """

    def join(moments: tuple, results: jax.Array, present: jax.Array) -> tuple:
        count, mean, squares = moments
        # The chunk's mean as its difference from the mean so far.
        new = present.sum(dtype=mean.dtype)
        difference = results.sum(0) / new - mean
        deviation = jnp.where(
            _beside(present, results),
            results - (mean + difference),
            0,
        )
        # Squares within the chunk, and between its mean and the mean so far.
        squares += (deviation**2).sum(0) + difference**2 * (count * new / (count + new))
        return count + new, mean + difference * (new / (count + new)), squares

    count, _, squares = _fold(
        function,
        rows,
        join,
        lambda zeros: (jnp.zeros((), zeros.dtype), zeros, zeros),
    )
    return squares / count


def _fold(function: Callable, rows: Any, step: Callable, start: Callable) -> Any:
    """Folds `step(state, results [s,...], present [s])` over chunks of rows.

    Rows that are not present have results of zeros. The first state is `start(zeros)`, with the
    zeros of one result.
    """
    one = Traced(function, jax.tree.map(lambda leaf: leaf[0], rows))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one.shapes)
    count = _length(rows)
    size = chunk(count, one.fitting())
    # All rows fit at once: no loop.
    if size == count:
        return step(start(zeros), jax.vmap(one)(rows), jnp.ones(count, bool))

    def run(state: Any, chunk: tuple[Any, jax.Array]) -> tuple[Any, None]:
        rows, present = chunk
        kept = jax.tree.map(
            lambda leaf: jnp.where(_beside(present, leaf), leaf, 0), jax.vmap(one)(rows)
        )
        return step(state, kept, present), None

    return jax.lax.scan(run, start(zeros), _chunks(rows, size))[0]


def _beside(present: jax.Array, leaf: jax.Array) -> jax.Array:
    """Adds axes to `present` [s] so that it broadcasts against a leaf [s,...]."""
    return jnp.expand_dims(present, (*range(1, leaf.ndim),))


def _length(rows: Any) -> int:
    return jax.tree.leaves(rows)[0].shape[0]


def _chunks(rows: Any, size: int) -> tuple[Any, np.ndarray]:
    """Returns rows [S,...] as [chunks,rows,...], filled up with the last, and a mask."""
    count = _length(rows)
    chunks = math.ceil(count / size)
    # Row numbers beyond the last one stand for the filling.
    index = np.arange(chunks * size).reshape(chunks, size)
    return jax.tree.map(lambda leaf: leaf[np.minimum(index, count - 1)], rows), index < count


def _peak(jaxpr: Any, rows: Iterable) -> int:
    """Returns the most bytes held by values that depend on the inputs `rows` of an open jaxpr."""
    # Values of shared inputs alone exist once, whatever the batch.
    depends = set(rows)
    equations = []
    for eqn in _needed(jaxpr):
        if depends.intersection(_variables(eqn.invars)):
            depends.update(eqn.outvars)
            equations.append(eqn)
    sources = _sources(equations, depends)
    # A fused value lives in its source, so reading it is reading its source.
    last = {}
    for number, eqn in enumerate(equations):
        last |= {sources.get(atom, atom): number for atom in _variables(eqn.invars)}
    last |= {sources.get(atom, atom): len(equations) for atom in _variables(jaxpr.outvars)}
    # Run in order: add outputs and the equation's inner peak, free values without a later reader.
    made: dict[Any, int] = {}
    most = 0
    for number, eqn in enumerate(equations):
        new = {}
        for atom in eqn.outvars:
            if atom not in sources:
                new[atom] = _bytes(atom.aval)
        most = max(most, sum(made.values()) + max(sum(new.values()), *_inside(eqn, depends), 0))
        made |= new
        made = {atom: size for atom, size in made.items() if last.get(atom, -1) > number}
    return most


def _inside(eqn: Any, depends: set) -> list[int]:
    """Returns the peaks of an equation's jaxprs: a function, branches or the body of a loop."""
    if eqn.primitive.name == "custom_vmap_call":
        return []
    peaks = []
    for sub in jex.jaxprs_in_params(eqn.params):
        sub = getattr(sub, "jaxpr", sub)
        # Aligned from the end: a branch's first operand is its index.
        pairs = zip(sub.invars[::-1], eqn.invars[::-1], strict=False)
        rows = {inner for inner, atom in pairs if depends.intersection(_variables([atom]))}
        if eqn.primitive.name == "scan":
            constants = loop_inputs(eqn)[0]
        else:
            constants = eqn.params.get("body_nconsts")
        if constants is not None:
            # Values that a loop carries or scans count as the row's own.
            rows.update(sub.invars[constants:])
        peaks.append(_peak(sub, rows))
    return peaks


def _needed(jaxpr: Any) -> list:
    """Lists the equations that the result depends on."""
    needed = set(_variables(jaxpr.outvars))
    equations = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            equations.append(eqn)
            needed.update(_variables(eqn.invars))
    return equations[::-1]


def _sources(equations: list, depends: set) -> dict[Any, Any]:
    """Maps each fused function of one large value to this value, which is kept in its place."""
    sources = {}
    for eqn in equations:
        if eqn.primitive.name in FUSED:
            (made,) = eqn.outvars
            # Smaller operands, such as a bias, do not count: keeping them is cheap.
            read = depends.intersection(_variables(eqn.invars))
            read = [atom for atom in read if _bytes(atom.aval) >= _bytes(made.aval)]
            if len({sources.get(atom, atom) for atom in read}) == 1:
                sources[made] = sources.get(read[0], read[0])
    return sources


def _variables(atoms: Iterable) -> list:
    """Lists the inputs or outputs of an equation without literals."""
    return [atom for atom in atoms if isinstance(atom, jex.Var)]


def _bytes(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ())) * getattr(
        getattr(aval, "dtype", None), "itemsize", 0
    )
