"""Checks what enters an explainer, the same for each of them: the image, the label, and what the model returns.

Shapes and types are checked whenever an explainer is traced; values where they are known, which under `jit` and `vmap`
they are not.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.types import Apply, Array, InputError, Variables

LOGITS = "apply must return logits, an array [N,K]"


def enter(apply: Apply, image: Array, label: Array, least: int = 1) -> Apply:
    """Checks an image and a label, and returns `apply` with a check of its logits.

    Args:
      apply: the model's.
      image: [H,W,C].
      label: [], an integer below the number of classes.
      least: the number of classes that the method needs.

    Returns:
      `apply`, whose logits are at least float32.

    Raises:
      InputError: at once for the image and the label, at the call for the model's output and a label out of range.
    """
    if np.ndim(image) != 3:
        hint = ": give image[..., None] if it has no channel axis" if np.ndim(image) == 2 else ""
        raise InputError(f"an explainer takes one image [H,W,C], not {list(np.shape(image))}{hint}")
    if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
        raise InputError(f"an explainer takes an image of floats in [0,1], not {jnp.result_type(image)}")
    if np.ndim(label) != 0 or not jnp.issubdtype(jnp.result_type(label), jnp.integer):
        raise InputError(f"a label is one integer, not {_described(label)}")

    def checked(variables: Variables, images: Array) -> jax.Array:
        output = logits(apply(variables, images), len(images))
        classes = output.shape[1]
        if classes < least:
            raise InputError(
                f"this method compares classes and the model has {classes} output: return two logits, [-z/2, z/2] of "
                "a binary classifier's z"
            )
        if is_known(label) and not 0 <= int(label) < classes:
            raise InputError(f"label {int(label)} is no class of a model with classes 0 to {classes - 1}")
        return output

    return checked


def logits(output: Any, count: int) -> jax.Array:
    """The output of a model for `count` images, at least float32, if it is an array [count,K] of finite floats.

    Raises:
      InputError: it is anything else.
    """
    if isinstance(output, tuple | list):
        raise InputError(f"{LOGITS}, not a {type(output).__name__}: give lambda v, x: apply(v, x)[0], or another part")
    if isinstance(output, dict):
        key = next(iter(output), None)
        raise InputError(
            f"{LOGITS}, not a dict of {', '.join(map(repr, output))}: give lambda v, x: apply(v, x)[{key!r}]"
        )
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        raise InputError(f"{LOGITS}, not a {type(output).__name__}")
    if len(output.shape) != 2 or output.shape[0] != count or output.shape[1] < 1:
        hint = ": give lambda v, x: apply(v, x)[:, None] for one logit an image" if output.shape == (count,) else ""
        raise InputError(f"{LOGITS}, not {list(output.shape)} for {count} images{hint}")
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise InputError(f"{LOGITS} of floats, not of {output.dtype}: give logits and no classes")
    if is_known(output) and not np.isfinite(np.asarray(output, np.float32)).all():
        raise InputError(
            f"{LOGITS} of finite numbers: the model gives NaN or infinity; look at its weights and the image"
        )
    return output.astype(jnp.promote_types(output.dtype, jnp.float32))


def images(given: Any) -> Any:
    """The images that `batch` was given, an array-like [N,H,W,C] of uint8 or floats; whole numbers become uint8.

    Raises:
      InputError: they are anything else.
    """
    given = given if hasattr(given, "shape") and hasattr(given, "dtype") else np.asarray(given)
    if len(given.shape) != 4:
        hint = {3: ": give images[None] for one image, images[..., None] for grey ones"}.get(len(given.shape), "")
        raise InputError(f"images are [N,H,W,C], not {list(given.shape)}{hint}")
    if len(given) == 0:
        raise InputError("there is no image to explain: images are [0,H,W,C]")
    if given.dtype == np.uint8 or jnp.issubdtype(given.dtype, jnp.floating):
        return given
    if jnp.issubdtype(given.dtype, jnp.integer):
        values = np.asarray(given)
        if values.min() >= 0 and values.max() <= 255:
            return values.astype(np.uint8)
    raise InputError(f"images are uint8, or floats in [0,1], not {given.dtype}")


def labels(given: Any, count: int, classes: int) -> np.ndarray:
    """The labels that `batch` was given, int32 [N].

    Raises:
      InputError: they are not `count` integers from 0 to classes - 1.
    """
    values = np.asarray(given)
    if values.shape != (count,):
        hints = {(count, classes): ": give labels.argmax(1) of one-hot ones", (count, 1): ": give labels[:, 0]"}
        hint = hints.get(values.shape, "")
        raise InputError(f"labels are [{count}], one for each image, not {list(values.shape)}{hint}")
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise InputError(f"labels are integers, not {values.dtype}: {values[0]!r} is no class")
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise InputError(f"label {wrong[0]} is no class of a model with classes 0 to {classes - 1}")
    return values.astype(np.int32)


def baseline(value: Any, words: tuple[str, ...] = ()) -> Any:
    """A baseline of intensities as float32 [], [C] or [H,W,C]; one of `words` as it is.

    Raises:
      InputError: it is neither.
    """
    if isinstance(value, str):
        if value in words:
            return value
        allowed = "".join(f", or {word!r}" for word in words)
        raise InputError(f"baseline={value!r} is no intensity: give a number, one per channel, an image{allowed}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"baseline={value!r} is no array: its rows differ in length") from error
    if array.dtype.kind not in "fiu" or array.ndim not in (0, 1, 3) or not np.isfinite(array).all():
        raise InputError(f"a baseline is a finite number, one per channel or an image [H,W,C], not {_described(value)}")
    return array.astype(np.float32)


def filled(value: Array, image: Array) -> jax.Array:
    """A baseline as an image of the shape of `image`.

    Raises:
      InputError: it has other channels, or another size.
    """
    value = np.asarray(value)
    if value.shape not in ((), image.shape[-1:], image.shape):
        raise InputError(f"the baseline is {list(value.shape)}, but the image {list(image.shape)}")
    return jnp.broadcast_to(jnp.asarray(value, image.dtype), image.shape)


def is_known(value: Any) -> bool:
    """Whether a value is a number or an array, and not traced."""
    return not isinstance(value, jax.core.Tracer)


@functools.singledispatch
def _described(value: Any) -> str:
    shape = list(np.shape(value))
    return f"{jnp.result_type(value)} {shape}" if shape else f"{value!r}"


@_described.register
def _(value: str) -> str:
    return repr(value)
