"""Runs a model on many perturbed copies of an image, for all sampling explainers.

All copies go through `apply` in its batch axis. `jax.vmap` over examples does not nest: the copies
of all examples are laid end to end and cut into chunks that fit a memory budget. So neither the
samples per map nor the examples per batch are bounded by memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from xinv.explain.engine import memory
from xinv.explain.perturbation import winograd
from xinv.types import Apply, Variables

# Chunks that may be left out: at least so many, unless they are of fewer rows than that
_PARTS, _LEAST = 16, 64


def predict(
    apply: Apply,
    variables: Variables,
    perturb: Callable,
    shared: Any,
    rows: Any,
    active: jax.Array | None = None,
) -> jax.Array:
    """Evaluates the model on S perturbed copies.

    The copies are made chunk by chunk and never all stored. Not differentiable in
    reverse mode unless vmapped.

    Args:
      apply, variables: the model's.
      perturb: `(shared, row) -> image [H,W,C]`, one copy.
      shared: a tree of arrays in common to all copies of one example, such as the image.
      rows: a tree of arrays [S,...], one row per copy.
      active: bool []; False if nobody reads the logits, which are then any numbers. In a loop that
        is mapped over examples, those that have ended cost nothing so. None: they are read.

    Returns:
      logits [S,K].
    """
    # Only arrays pass through `custom_vmap`; other leaves are closed over.
    leaves, treedef = jax.tree.flatten(variables)
    dynamic = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

    def run(
        arrays: list,
        shared: Any,
        owner: jax.Array,
        rows: Any,
        active: jax.Array | None,
    ) -> jax.Array:
        """Evaluates rows [T] of the examples `shared` [G,...]; row t is of example owner[t]."""
        given = iter(arrays)
        full = []
        for leaf, moves in zip(leaves, dynamic, strict=True):
            full.append(next(given) if moves else leaf)
        copy = lambda owner, row: perturb(jax.tree.map(lambda x: x[owner], shared), row)
        return _in_chunks(
            apply,
            jax.tree.unflatten(treedef, full),
            jax.vmap(copy),
            (owner, rows),
            active,
        )

    flat = custom_vmap(run)

    @flat.def_vmap
    def _(
        examples: int,
        batched: tuple,
        arrays: list,
        shared: Any,
        owner: jax.Array,
        rows: Any,
        active: jax.Array | None,
    ) -> tuple:
        # Several models: their copies cannot share a batch.
        if any(batched[0]):
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
            return jax.vmap(run, in_axes=axes)(arrays, shared, owner, rows, active), True
        # Give every example its own shared arrays and rows.
        spread = lambda x, is_batched: (
            x if is_batched else jnp.broadcast_to(x, (examples, *x.shape))
        )
        shared, owner, rows, active = jax.tree.map(
            spread,
            (shared, owner, rows, active),
            tuple(batched[1:]),
        )
        # Number the examples across the batch.
        owner += (
            owner.dtype.type(jax.tree.leaves(shared)[0].shape[1])
            * jnp.arange(examples, dtype=owner.dtype)[:, None]
        )
        # Lay everything end to end as one run.
        join = lambda x: x.reshape(-1, *x.shape[2:])
        logits = flat(
            arrays,
            jax.tree.map(join, shared),
            join(owner),
            jax.tree.map(join, rows),
            jax.tree.map(join, active),
        )
        return logits.reshape(examples, -1, *logits.shape[1:]), True

    # Outside vmap there is one example, and it owns every row.
    arrays = [leaf for leaf, moves in zip(leaves, dynamic, strict=True) if moves]
    owner = jnp.zeros(jax.tree.leaves(rows)[0].shape[:1], jnp.int32)
    return flat(
        arrays,
        jax.tree.map(lambda x: jnp.asarray(x)[None], shared),
        owner,
        rows,
        None if active is None else jnp.broadcast_to(active, owner.shape),
    )


def _in_chunks(
    apply: Apply,
    variables: Variables,
    copies: Callable,
    rows: tuple,
    active: jax.Array | None,
) -> jax.Array:
    """Evaluates `copies(*rows)`, as many rows at a time as fit into memory."""
    # The number of copies that fit follows from the traced program of one.
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), rows)
    one = memory.Traced(lambda rows: apply(variables, copies(*rows)), first)
    count = len(rows[0])
    most = one.fitting()
    if active is not None:
        # Idle rows are left out by whole chunks, so there are several
        most = min(most, max(_LEAST, count // _PARTS))
    size = memory.chunk(count, most)
    # Kernels are transformed once, outside the loop over chunks.
    images = jax.eval_shape(copies, *jax.tree.map(lambda x: x[:size], rows))
    model = winograd.predictor(apply, variables, images)
    evaluate = lambda rows: model(copies(*rows))
    if active is None:
        return memory.mapped(evaluate, rows, size)
    # Active rows first, so that idle chunks are as many as can be
    order = jnp.argsort(~active, stable=True)

    def evaluate_active(chunk: tuple) -> jax.Array:
        rows, active = chunk
        logits = jax.eval_shape(evaluate, rows)
        idle = lambda rows: jnp.zeros(logits.shape, logits.dtype)
        return jax.lax.cond(active.any(), evaluate, idle, rows)

    sorted_ = jax.tree.map(lambda leaf: leaf[order], (rows, active))
    logits = memory.mapped(evaluate_active, sorted_, size)
    return logits[jnp.argsort(order)]
