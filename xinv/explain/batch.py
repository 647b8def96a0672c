"""Streams a data set through an explainer."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv import parallel
from xinv.explain import door
from xinv.explain.engine import memory
from xinv.images import as_float
from xinv.numbers import require_count
from xinv.types import Apply, Array, Batch, Explainer, InputError, Key, Variables

LARGEST = 256
"""Images per dispatch and device; more gain nothing."""


def batch(
    explainer: Explainer,
    apply: Apply,
    variables: Variables,
    images: Any,
    labels: Array | None,
    key: Key,
    batch_size: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Explains every image, over all devices; compiled once, with memory bounded by the batch.

    Image i is explained with `fold_in(key, i)`, so the maps depend on neither the
    batch size nor the devices.

    Args:
      explainer, apply: compiled once for each pair of objects and batch shape. A
        `jax.tree_util.Partial` as explainer passes its arrays with the variables: others of their
        shapes need no new program.
      variables: the model's.
      images: array-like [N,H,W,C] or a list of images: floats, as a rule in [0,1], or
        whole numbers from 0 to 255.
      labels: the classes to explain, int [N]; None explains the predicted class, for a model with
        one logit that logit.
      key: for explainers with random draws.
      batch_size: images per dispatch; None takes as many as fit in memory, at most
        `LARGEST` for each device.
      out: array [N,h,w,c] to write into, such as a memory map.

    Returns:
      the maps, float32 [N,h,w,c]; float64 for images of float64, if JAX computes in it.

    Raises:
      InputError: images that are no [N,H,W,C] of finite uint8 or floats; labels that are not one
        class of the model for each; a model with an output other than finite [N,K]; variables with
        other leaves than arrays; no explainer; or an `out` of another shape.
    """
    # Refuse bad input before anything is compiled.
    door.explainer(explainer)
    door.check_model(apply)
    door.check_key(key)
    door.check_variables(variables)
    # Labels, maps and checks all read the model's output: trace it once for all of them.
    apply = _once(door.hashable(apply))
    images = door.images(images)
    forward = _forward(apply, _precision(), *_shapes((_single(images), variables)))
    (classes,) = forward.shapes.shape
    arrays = {"image": images}
    if labels is not None:
        arrays["label"] = door.labels(labels, len(images), classes)
    # The traced map of one image states its shape, to check `out`, and its peak memory.
    one = _traced(explainer, apply, variables, images, key)
    door.check_out(out, (len(images), *one.shapes.shape))
    if batch_size is not None:
        require_count(batch_size=batch_size)
    else:
        # Equal chunks, each at most as large as memory allows.
        devices = parallel.device_count()
        most = min(LARGEST, one.fitting())
        batch_size = devices * memory.chunk(math.ceil(max(1, len(images)) / devices), most)
    shared = _held(explainer)[0], variables
    maps = parallel.map_batches(
        _explain_batch(one, forward),
        shared,
        arrays,
        batch_size,
        key,
        out,
    )
    _check_finite(maps, apply, variables, images, batch_size)
    return maps


def at_once(
    explainer: Explainer,
    apply: Apply,
    variables: Variables,
    images: Any,
    key: Key,
) -> int:
    """Estimates the number of maps that fit into a device's memory at once.

    The program is traced once per shape.
    """
    return _traced(explainer, _once(door.hashable(apply)), variables, images, key).fitting()


@functools.lru_cache(64)
def _once(apply: Apply) -> Apply:
    """Wraps the model so that it is traced once per shape of images, however many read its output.

    A reader sees its equations, as if it had called the function itself.
    """

    def model(variables: Variables, images: Array) -> jax.Array:
        def logits(images: Array) -> jax.Array:
            return door.logits(apply(variables, images), len(images))

        # In a trace of its own: there Flax refuses a module in training mode, which changes its
        # variables.
        return jax.jit(logits, inline=True)(images)

    return jax.jit(model, inline=True)


def _traced(
    explainer: Explainer,
    apply: Apply,
    variables: Variables,
    images: Any,
    key: Key,
) -> memory.Traced:
    """Traces the map of one image as a function of `image, label, key, held, variables`."""
    held, tree = _held(explainer)
    label = jax.ShapeDtypeStruct((), jnp.int32)
    return _trace(
        tree,
        apply,
        _precision(),
        *_shapes((_single(images), label, key, held, variables)),
    )


@functools.lru_cache(64)
def _trace(
    tree: Any,
    apply: Apply,
    precision: str | None,
    treedef: Any,
    leaves: tuple,
) -> memory.Traced:
    def explain(
        image: jax.Array,
        label: jax.Array,
        key: Key,
        held: list,
        variables: Variables,
    ) -> jax.Array:
        return jax.tree.unflatten(tree, held)(apply, variables, image, label, key)

    # All images of a batch share the explainer's arrays and the variables.
    return memory.Traced(explain, *jax.tree.unflatten(treedef, leaves), shared=2)


def _precision() -> str | None:
    """The precision of matrix products: part of a traced program, so part of its cache key."""
    return jax.config.jax_default_matmul_precision


def _held(explainer: Explainer) -> tuple[list, Any]:
    """Splits an explainer into the arrays that it holds and its structure."""
    # A function without arrays is a Partial with none, so both kinds share one path.
    return jax.tree.flatten(
        explainer if isinstance(explainer, Partial) else Partial(door.hashable(explainer))
    )


def _shapes(tree: Any) -> tuple[Any, tuple]:
    """Splits a tree into its structure and its leaves' shapes, which can be the key of a cache."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple(
        jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves
    )


@functools.lru_cache(64)
def _explain_batch(one: memory.Traced, forward: memory.Traced) -> Callable[..., jax.Array]:
    """Makes the function of a batch from the traced map and the traced logits of one image.

    The explainer's arrays are passed with the variables.
    """

    def explain(
        shared: tuple[list, Variables],
        examples: Batch,
        keys: jax.Array,
    ) -> jax.Array:
        held, variables = shared
        images = as_float(examples["image"])
        each = jax.vmap(one, (0, 0, 0, None, None))
        if "label" in examples:
            return each(images, examples["label"], keys, held, variables)
        # Without labels, explain the predicted class of each image.
        logits = jax.vmap(forward, (0, None))(images, variables)
        maps = each(
            images,
            jnp.argmax(logits, -1).astype(jnp.int32),
            keys,
            held,
            variables,
        )
        # NaN logits predict no class: their map becomes NaN, and `batch` reports it.
        return jax.vmap(door.marked)(maps, logits)

    return explain


def _single(images: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of one image, as the model sees it."""
    if images.dtype == np.uint8:
        dtype = jnp.float32
    else:
        dtype = jax.dtypes.canonicalize_dtype(images.dtype)
    return jax.ShapeDtypeStruct(images.shape[1:], dtype)


def _check_finite(
    maps: np.ndarray,
    apply: Apply,
    variables: Variables,
    images: Any,
    size: int,
) -> None:
    """Raises InputError if a map is not finite because its image or its logits are not."""
    for start in range(0, len(maps), size):
        # A batch at a time, since the maps may lie on disk.
        finite = (
            np.isfinite(maps[start : start + size]).reshape(-1, math.prod(maps.shape[1:])).all(1)
        )
        if finite.all():
            continue
        # The cause is sought at the first bad map; one of finite logits is the explainer's own.
        number = start + int(np.argmin(finite))
        image = as_float(images[number : number + 1])
        if not np.isfinite(image).all():
            raise InputError(f"image {number} has NaN or infinity: {door.FLOATS}")
        door.logits(apply(variables, jnp.asarray(image)), 1)


@functools.lru_cache(64)
def _forward(
    apply: Apply,
    precision: str | None,
    treedef: Any,
    leaves: tuple,
) -> memory.Traced:
    """Traces the logits of one image as a function of `image, variables`."""
    image, variables = jax.tree.unflatten(treedef, leaves)
    model = door.classifier(apply, image.dtype)
    return memory.Traced(
        lambda image, variables: model(variables, image[None])[0],
        image,
        variables,
        shared=1,
    )
