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


def predict(
    apply: Apply,
    variables: Variables,
    perturb: Callable,
    shared: Any,
    rows: Any,
) -> jax.Array:
    """Evaluates the model on S perturbed copies.

    The copies are made chunk by chunk and never all stored. Not differentiable in
    reverse mode unless vmapped.

    Args:
      apply, variables: the model's.
      perturb: `(shared, row) -> image [H,W,C]`, one copy.
      shared: a tree of arrays in common to all copies of one example, such as the image.
      rows: a tree of arrays [S,...], one row per copy.

    Returns:
      logits [S,K].
    """
    # Only arrays pass through `custom_vmap`; other leaves are closed over.
    leaves, treedef = jax.tree.flatten(variables)
    dynamic = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

    def run(arrays: list, shared: Any, owner: jax.Array, rows: Any) -> jax.Array:
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
    ) -> tuple:
        # Several models: their copies cannot share a batch.
        if any(batched[0]):
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
            return jax.vmap(run, in_axes=axes)(arrays, shared, owner, rows), True
        # Give every example its own shared arrays and rows.
        spread = lambda x, is_batched: (
            x if is_batched else jnp.broadcast_to(x, (examples, *x.shape))
        )
        shared, owner, rows = jax.tree.map(
            spread,
            (shared, owner, rows),
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
    )


def _in_chunks(
    apply: Apply,
    variables: Variables,
    copies: Callable,
    rows: tuple,
) -> jax.Array:
    """Evaluates `copies(*rows)`, as many rows at a time as fit into memory."""
    # The number of copies that fit follows from the traced program of one.
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), rows)
    size = memory.chunk(
        len(rows[0]), memory.Traced(lambda rows: apply(variables, copies(*rows)), first).fitting()
    )
    # Kernels are transformed once, outside the loop over chunks.
    images = jax.eval_shape(copies, *jax.tree.map(lambda x: x[:size], rows))
    model = winograd.predictor(apply, variables, images)
    return memory.mapped(lambda rows: model(copies(*rows)), rows, size)
