"""Checks of everything that enters an explainer: the image, the label and the model's output.

Shapes and types are checked whenever an explainer is traced. Values are checked where they are
known, so not under `jit` and `vmap`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.numbers import described
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

LOGITS = "apply must return logits, an array [N,K]"
EXPLAINED = "an explainer takes"
FLOATS = "images are finite floats, as a rule in [0,1], or uint8"


def checked(explain: Explainer, least: int = 1, draws: bool = False) -> Explainer:
    """Adds checks of model, image, label, key and logits to an explainer; it computes in float32.

    A model of float16 or bfloat16 images gets them in its type; noise, sums and
    fits are float32 at least.

    Args:
      explain: the explainer, of a float32 or float64 image.
      least: the number of classes that the method needs.
      draws: whether the method reads the key.

    Returns:
      The explainer with checks.

    Raises:
      InputError: at the call, for an image other than finite floats [H,W,C], a label that is no
        class, no key for a method with random draws, or a model that is no function or returns no
        finite logits [N,K].
    """

    @functools.wraps(explain)
    def call(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        image = _image(image)
        _check_label(label)
        if draws:
            check_key(key)
        # Half types are too coarse for sums over samples and pixels.
        wide = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        explanation = explain(
            classifier(apply, image.dtype, label, least),
            variables,
            wide,
            label,
            key,
        )
        # A map that is not finite: report logits that are not, the usual cause.
        if is_known(explanation) and not is_finite(explanation):
            logits(apply(variables, image[None]), 1)
        return explanation.astype(wide.dtype)

    return call


def logits(output: Any, count: int) -> jax.Array:
    """Returns the output of a model for `count` images, finite [count,K], as float32 at least.

    Raises:
      InputError: it is anything else.
    """
    # From structure over shape and type to values, so that the first error is the most useful.
    if isinstance(output, tuple | list | Mapping):
        raise InputError(f"{LOGITS}, not {_parts(output, count)}")
    if not isinstance(output, jax.Array | np.ndarray):
        raise InputError(f"{LOGITS}, not a {type(output).__name__}")
    if output.ndim != 2 or output.shape[0] != count or output.shape[1] < 1:
        # One number an image is the commonest mistake, of binary classifiers.
        if output.shape == (count,):
            hint = ": give lambda v, x: apply(v, x)[:, None] for one logit an image"
        else:
            hint = ""
        raise InputError(f"{LOGITS}, not {list(output.shape)} for {count} images{hint}")
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise InputError(f"{LOGITS} of floats, not of {output.dtype}: give logits and no classes")
    if is_known(output) and not is_finite(output):
        raise InputError(
            f"{LOGITS} of finite numbers: the model gives NaN or infinity; look at its weights and"
            " the image"
        )
    output = jnp.asarray(output)
    return output.astype(jnp.promote_types(output.dtype, jnp.float32))


def images(given: Any) -> Any:
    """Checks the images of `batch`: array-like [N,H,W,C], uint8 or floats; integers become uint8.

    Raises:
      InputError: they are anything else, or an array in memory is not finite.
    """
    given = given if _is_array_like(given) else _array(given, "images")
    shape = tuple(given.shape)
    if len(shape) != 4:
        hint = {
            2: ": give images[None, ..., None] for one grey image",
            3: ": give images[None] for one image, images[..., None] for grey ones",
        }
        raise InputError(f"images are [N,H,W,C], not {list(shape)}{hint.get(len(shape), '')}")
    if 0 in shape:
        raise InputError(f"there is no image to explain: images are {list(shape)}")
    # Bytes have no NaN, floats may; other integers must be bytes.
    if given.dtype == np.uint8:
        return given
    if jnp.issubdtype(given.dtype, jnp.floating):
        _check_all_finite(given)
        return given
    if jnp.issubdtype(given.dtype, jnp.integer):
        return _bytes(np.asarray(given))
    raise InputError(f"{FLOATS}, not {given.dtype}")


def labels(given: Any, count: int, classes: int) -> np.ndarray:
    """Checks the labels of `batch` and returns them as int32 [N].

    Raises:
      InputError: they are not `count` integers from 0 to classes - 1.
    """
    values = _array(given, "labels")
    if values.shape != (count,):
        hints = {
            (count, classes): ": give labels.argmax(1) of one-hot ones",
            (count, 1): ": give labels[:, 0]",
        }
        hint = hints.get(values.shape, "")
        raise InputError(
            f"labels are [{count}], one for each image, not {list(values.shape)}{hint}"
        )
    if not jnp.issubdtype(values.dtype, jnp.integer):
        # Name the first value that is no integer, as an example.
        wrong = [value for value in values.tolist() if type(value) is not int]
        if wrong:
            raise InputError(f"labels are integers, not {values.dtype}: {wrong[0]!r} is no class")
        values = np.array(values.tolist())
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise InputError(f"label {wrong[0]} is no class of a model with classes 0 to {classes - 1}")
    return values.astype(np.int32)


def explainer(given: Any) -> Explainer:
    """Returns an explainer if it can be one.

    Raises:
      InputError: it is a name, a factory that was not called, or no function.
    """
    # The two commonest mistakes have their own message: a name, a factory without ().
    if isinstance(given, str):
        raise InputError(
            f"an explainer is a function, not the name {given!r}: give explain.build({given!r})"
        )
    if getattr(given, "is_factory", False):
        raise InputError(f"{given.__name__} makes explainers and is none: give {given.__name__}()")
    if not callable(given):
        raise InputError(
            f"an explainer is a function, such as explain.gradient(), not {described(given)}"
        )
    return given


def hashable(function: Callable) -> Callable:
    """Makes a function the key of a cache: itself, or its `__call__`, equal for equal objects."""
    try:
        hash(function)
    except TypeError:
        return function.__call__
    return function


def check_variables(variables: Variables) -> None:
    """Raises InputError for variables with leaves other than arrays and numbers."""
    for leaf in jax.tree.leaves(variables):
        try:
            jnp.result_type(leaf)
        except TypeError as error:
            raise InputError(
                f"variables hold {described(leaf)}, which is no array: leave it out of them, as"
                " equinox.partition does"
            ) from error


def check_out(out: Any, shape: tuple[int, ...]) -> None:
    """Raises InputError for an `out` that is neither None nor an array of the maps' shape."""
    if out is not None and not (isinstance(out, np.ndarray) and out.shape == shape):
        given = list(out.shape) if isinstance(out, np.ndarray) else described(out)
        raise InputError(f"out is {given} but must be a NumPy array {list(shape)}, as the maps")


def baseline(value: Any, words: tuple[str, ...] = ()) -> Any:
    """Returns a baseline of intensities as float64 [], [C] or [H,W,C]; one of `words` as it is.

    Raises:
      InputError: it is neither.
    """
    allowed = "".join(f", or {word!r}" for word in words)
    if isinstance(value, str):
        if value in words:
            return value
        raise InputError(
            f"baseline={value!r} is no intensity: give a number, one per channel, an image{allowed}"
        )
    array = _array(value, "a baseline")
    # Shape and type alone: the image's channels are not known yet, see `filled`.
    is_numeric = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(
        array.dtype, jnp.integer
    )
    if not is_numeric or array.ndim not in (0, 1, 3) or array.size == 0 or not is_finite(array):
        raise InputError(
            f"a baseline is a finite number, one per channel, an image [H,W,C]{allowed}, not"
            f" {described(value)}"
        )
    return array.astype(np.float64)


def filled(value: Array, image: Array) -> jax.Array:
    """Broadcasts a baseline to the shape of `image`.

    Raises:
      InputError: it has other channels, or another size.
    """
    value = np.asarray(value)
    grey = (*image.shape[:-1], 1)
    if value.shape not in ((), (1,), image.shape[-1:], grey, image.shape):
        raise InputError(f"the baseline is {list(value.shape)}, but the image {list(image.shape)}")
    return jnp.broadcast_to(jnp.asarray(value.astype(image.dtype)), image.shape)


def marked(values: Array, logits: jax.Array) -> jax.Array:
    """Replaces `values` by NaN if a class's logit is not finite; `checked` reports it."""
    return jnp.where(jnp.isfinite(logits).all(), values, jnp.nan)


def is_known(value: Any) -> bool:
    """Tells if a value is a number or an array, and not traced."""
    return not isinstance(value, jax.core.Tracer)


def is_finite(value: Array) -> bool:
    """Tells if every number of a known array is finite."""
    return bool(np.isfinite(np.asarray(value)).all())


def _image(given: Any) -> jax.Array:
    """Checks the image of an explainer, [H,W,C] of floats."""
    if not isinstance(given, jax.Array):
        given = _array(given, "an image")
    # Shape and type always; values unless the image is traced.
    _check_shape(EXPLAINED, given.shape)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        hint = ": give image / 255" if given.dtype == np.uint8 else ""
        raise InputError(f"an explainer takes an image of floats in [0,1], not {given.dtype}{hint}")
    if is_known(given) and not is_finite(given):
        raise InputError(
            "an explainer takes an image of finite floats, and this one has NaN or infinity"
        )
    return jnp.asarray(given)


def _check_shape(verb: str, shape: tuple[int, ...]) -> None:
    """Raises InputError unless this is the shape of one image."""
    # Name the way from the usual wrong shapes to the right one.
    hints = {
        2: ": give image[..., None] if it has no channel axis",
        4: ": give one of them" + (", or all to explain.batch" if verb == EXPLAINED else ""),
    }
    if len(shape) != 3:
        raise InputError(f"{verb} one image [H,W,C], not {list(shape)}{hints.get(len(shape), '')}")
    if 0 in shape:
        raise InputError(f"{verb} one image [H,W,C], not {list(shape)}, which is empty")


def _check_label(label: Any) -> None:
    """Raises InputError if the label is not one integer."""
    array = label if isinstance(label, jax.Array) else _array(label, "a label")
    if array.ndim == 0 and jnp.issubdtype(array.dtype, jnp.integer):
        return
    # One label in a list, or a one-hot vector: name the way to the integer.
    hint = ""
    if array.ndim == 1:
        if len(array) == 1:
            hint = ": give label[0]"
        else:
            hint = ": give label.argmax() of a one-hot one"
    raise InputError(f"a label is one integer, not {described(label)}{hint}")


def check_model(apply: Any) -> None:
    """Raises InputError for a model that is no function."""
    if not callable(apply):
        hint = ": give its apply" if callable(getattr(apply, "apply", None)) else ""
        raise InputError(
            f"apply is a function of variables and images, not {described(apply)}{hint}"
        )


def check_key(key: Any) -> None:
    """Raises InputError for anything but a key of JAX's, typed or raw."""
    is_key = False
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        is_key = key.ndim == 0 if typed else key.dtype == np.uint32
    if not is_key:
        raise InputError(f"key is {described(key)} but must be a key, such as jax.random.key(0)")


def image_shape(given: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of an image, for tracing, with its float type or else float32.

    Raises:
      InputError: it is no [H,W,C].
    """
    given = given if _is_array_like(given) else _array(given, "an image")
    _check_shape("a model is listed for", tuple(given.shape))
    is_float = jnp.issubdtype(given.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(
        given.shape, jax.dtypes.canonicalize_dtype(given.dtype) if is_float else jnp.float32
    )


def classifier(
    apply: Apply,
    dtype: np.dtype,
    label: Array | None = None,
    least: int = 1,
) -> Apply:
    """Wraps the model for images of type `dtype`, and checks its logits and a known label."""
    check_model(apply)

    def classify(variables: Variables, images: Array) -> jax.Array:
        # Images of another layout fail inside the model, with a message about its internals.
        try:
            output = apply(variables, images.astype(dtype))
        except Exception as error:
            _refuse_channels_first(images.shape, error)
            raise
        output = logits(output, len(images))
        # A method that compares classes is undefined for one logit.
        classes = output.shape[1]
        if classes < least:
            raise InputError(
                f"this method compares classes and the model has {classes} output: return two"
                " logits, [-z/2, z/2] of a binary classifier's z"
            )
        # JAX clamps an index out of range in silence: it would explain the last class.
        if label is not None and is_known(label) and not 0 <= int(label) < classes:
            raise InputError(
                f"label {int(label)} is no class of a model with classes 0 to {classes - 1}"
            )
        return output

    return classify


def _refuse_channels_first(shape: tuple[int, ...], error: Exception) -> None:
    """Raises InputError if images that a model fails on look like [N,C,H,W]."""
    # 1 or 3 channels in front of longer axes; for all others the model's own error is the best.
    if (
        isinstance(error, InputError)
        or len(shape) != 4
        or shape[1] not in (1, 3)
        or shape[-1] <= shape[1]
    ):
        return
    reason = " ".join(str(error).split())[:120]
    raise InputError(
        f"apply fails on images {list(shape)}, whose channels seem to come first: give images"
        f" [N,H,W,C], as by np.moveaxis(images, 1, -1), if they do ({reason})"
    ) from error


def _parts(output: Any, count: int) -> str:
    """Describes an output of several parts, and names the one that looks like logits."""
    name = type(output).__name__
    items = dict(output) if isinstance(output, Mapping) else dict(enumerate(output))
    if not items:
        return f"an empty {name}"
    shapes = {key: getattr(part, "shape", ()) for key, part in items.items()}
    # The first part [count,K], or else the first at all.
    fitting = (key for key, shape in shapes.items() if len(shape) == 2 and shape[0] == count)
    best = next(fitting, next(iter(items)))
    keys = f" of {', '.join(map(repr, items))}" if isinstance(output, Mapping) else ""
    return f"a {name}{keys}: give lambda v, x: apply(v, x)[{best!r}], or another part"


def _is_array_like(given: Any) -> bool:
    """Tells if `given` has a shape and a type that NumPy knows, in memory or not."""
    try:
        np.dtype(given.dtype)
        return isinstance(given.shape, tuple)
    except (AttributeError, TypeError):
        return False


def _array(given: Any, name: str) -> np.ndarray:
    """Converts a value to a NumPy array; InputError if it cannot be one."""
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"{name} cannot be made an array of numbers of one shape: {reason}"
        ) from error


def _bytes(values: np.ndarray) -> np.ndarray:
    """Converts whole numbers from 0 to 255 to uint8; InputError for others."""
    low = values.min()
    high = values.max()
    if low < 0 or high > 255:
        raise InputError(
            f"{FLOATS}, not {values.dtype} from {low} to {high}: divide them by their largest value"
        )
    return values.astype(np.uint8)


def _check_all_finite(given: Any, rows: int = 256) -> None:
    """Raises InputError naming the first image in memory with NaN or infinity."""
    if not isinstance(given, jax.Array | np.ndarray):
        return
    # In blocks: a copy of all images may not fit beside them.
    for start in range(0, len(given), rows):
        values = np.asarray(given[start : start + rows])
        if not is_finite(values):
            finite = np.isfinite(values).reshape(len(values), -1).all(1)
            raise InputError(
                f"image {start + int(np.argmin(finite))} has NaN or infinity: {FLOATS}"
            )
