"""Targets that xinv did not train: a function of the user's own, or what a service released.

target.function = "my_package.my_module:load"     load() -> (apply, variables), or a xinv.types.Model
target.recorded = "release.npz"                   prediction [N,K], explanation/<name> [N,h,w,c], labels [N]
"""

import hashlib
import importlib
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv import data
from xinv.explain import door
from xinv.images import as_float
from xinv.types import Array, InputError, Key, Model, Variables

FORMS = "give 'package.module:function', a function without arguments that returns (apply, variables) or a Model"
_CHUNK = 256  # examples read at once
_ROUNDING = 1e-3  # of probabilities that were computed in half precision


class Own(NamedTuple):
    """A model of the user's own.

    Attributes:
      model: its `apply`, `embed` and `head` take `variables`; it has no `init` and `train`.
      variables: the arrays among the leaves of the user's variables, in a list.
      fingerprint: hash of the weights: others are another result.
      train: `(images, labels, key) -> variables` of that form, for shadow models; None where the module has none.
    """

    model: Model
    variables: Variables
    fingerprint: str
    train: Callable[..., Variables] | None


class Recorded(NamedTuple):
    """What a service released about each image of a data set.

    Attributes:
      prediction: probabilities, float32 [N,K].
      explanations: by name, float32 [N,h,w,c].
      fingerprint: hash of the content.
    """

    prediction: Array
    explanations: dict[str, Array]
    fingerprint: str


def load(path: str) -> Own:
    """Imports and calls the function that `path` names, and takes the weights from what it returns.

    Beside the function the module may have `train(images, labels[N], key) -> variables`, for shadow models; its images
    are float32 [N,H,W,C] in [0,1], as those of `apply`.

    Raises:
      InputError: there is no such function, it raises, or it returns no model with finite weights.
    """
    module, function = _find(path)
    try:
        found = function()
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"target.function {path!r} raised {type(error).__name__}: {error}") from error
    if isinstance(found, Model):
        raise InputError(f"target.function {path!r} returns a Model without weights: return (model, variables)")
    if not isinstance(found, tuple) or len(found) != 2 or not (callable(found[0]) or isinstance(found[0], Model)):
        raise InputError(f"target.function {path!r} returns {type(found).__name__}: {FORMS}")
    given, variables = found
    leaves, treedef = jax.tree.flatten(variables)
    moves = tuple(_is_array(leaf) for leaf in leaves)
    arrays = _arrays(leaves, moves)
    if not _is_finite(arrays):
        raise InputError(f"the weights of target.function {path!r} hold NaN or infinite values")
    # Functions, numbers and keys among the leaves, as Equinox and NNX have them, stay with the model.
    rest = [None if is_array else leaf for leaf, is_array in zip(leaves, moves, strict=True)]

    def taking(fn: Callable | None) -> Callable | None:
        def call(arrays: list, *inputs: Array) -> Any:
            given = iter(arrays)
            whole = [next(given) if is_array else leaf for leaf, is_array in zip(rest, moves, strict=True)]
            return fn(jax.tree.unflatten(treedef, whole), *inputs)

        return fn and call

    model = given if isinstance(given, Model) else Model(None, given, None)
    bound = Model(_refuse, taking(model.apply), _refuse, taking(model.embed), taking(model.head))
    train = getattr(module, "train", None)
    return Own(bound, arrays, _hash(path, *arrays), train and _trainer(train, treedef, moves, path))


def _trainer(train: Callable, treedef: Any, moves: tuple[bool, ...], path: str) -> Callable[..., list]:
    """The user's training as a function that returns the arrays among the variables."""

    def call(images: Any, labels: Array, key: Key) -> list:
        try:
            variables = train(as_float(np.asarray(images[:])), labels, key)
        except Exception as error:  # the user's code may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"`train` beside target.function {path!r} raised {reason}") from error
        leaves, found = jax.tree.flatten(variables)
        if found != treedef or tuple(map(_is_array, leaves)) != moves:
            raise InputError(
                f"`train` beside target.function {path!r} returns variables of another structure than load"
            )
        arrays = _arrays(leaves, moves)
        if not _is_finite(arrays):
            raise InputError(f"`train` beside target.function {path!r} returns NaN or infinite weights")
        return arrays

    return call


def require_classifier(own: Own, path: str, images: Any, classes: int) -> None:
    """InputError unless the model answers some images [N,H,W,C] with finite logits of as many classes."""
    inputs = as_float(images)
    try:
        output = own.model.apply(own.variables, inputs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"target.function {path!r} cannot treat images {list(inputs.shape)}: {reason}") from error
    logits = np.asarray(door.logits(output, len(inputs)), np.float32)
    if logits.shape[1] != classes:
        raise InputError(f"target.function {path!r} has {logits.shape[1]} classes, and the data set {classes}")
    if not np.isfinite(logits).all():
        raise InputError(f"target.function {path!r} answers NaN or infinite logits")
    if len(logits) > 1 and _are_probabilities(logits):
        raise InputError(
            f"target.function {path!r} answers probabilities (all in [0,1], each row sums to 1): return the logits, "
            "or the logarithms of the probabilities"
        )


def read(path: str | Path, dataset: data.Dataset, label: str) -> Recorded:
    """Reads what a service released from an npz file, and checks it against the data set.

    Arrays: "prediction" [N,K], probabilities; "explanation/<name>" [N,h,w,c] for any number of names; and "labels" [N],
    the data set's labels in the order of the other arrays, by which the order is checked.

    Raises:
      InputError: the file is missing or damaged, or an array is missing, of another length or order, or not finite.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"target.recorded {str(path)!r} does not exist: give an npz file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"target.recorded {str(path)!r} cannot be read: {error}") from None
    what = f"target.recorded {str(path)!r}"
    prefix = "explanation/"
    maps = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    found = recorded(what, dataset, label, arrays.get("prediction"), maps)
    if "labels" not in arrays:
        raise InputError(f"{what} has no array 'labels', so that the order is unknown: add the data set's labels [N]")
    if not np.array_equal(arrays["labels"], dataset.labels[label]):
        raise InputError(f"{what} is in another order than the data set: its labels differ from the label {label!r}")
    return found


def recorded(what: str, dataset: data.Dataset, label: str, prediction: Any, explanations: dict[str, Any]) -> Recorded:
    """Checks predictions and explanations of every image of a data set; errors call them `what`.

    Raises:
      InputError: an array is missing, of another length or shape, not finite, or predictions are no probabilities.
    """
    count, classes = len(dataset.images), len(dataset.classes[label])
    if prediction is None:
        raise InputError(f"{what} has no array 'prediction': give probabilities [N,K]")
    arrays = {"prediction": (prediction, 2)}
    arrays |= {f"explanation/{name}": (array, 4) for name, array in explanations.items()}
    digest = hashlib.sha256()
    for name, (array, axes) in arrays.items():
        shape, dtype = np.shape(array), np.dtype(array.dtype)
        if len(shape) != axes or shape[0] != count or dtype.kind not in "fiu":
            expected = "[N,K]" if axes == 2 else "[N,h,w,c]"
            raise InputError(
                f"{what} has {name!r} of {dtype} {list(shape)}: it must be numbers {expected}, N = {count}"
            )
        for start in range(0, count, _CHUNK):
            part = np.ascontiguousarray(array[start : start + _CHUNK], np.float32)
            if not np.isfinite(part).all():
                raise InputError(f"{what} has NaN or infinite values in {name!r}")
            if axes == 2 and not _are_probabilities(part):
                raise InputError(
                    f"{what} has predictions that are no probabilities: each row must lie in [0,1] and sum to 1"
                )
            digest.update(part.tobytes())
        digest.update(f"{name} {shape}".encode())
    if prediction.shape[1] != classes:
        raise InputError(f"{what} has predictions of {prediction.shape[1]} classes, and the data set {classes}")
    return Recorded(prediction, explanations, digest.hexdigest()[:16])


def _find(path: str) -> tuple[Any, Callable]:
    """The module and the function of "module:function"; the working directory is searched too."""
    name, _, attribute = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not name or not attribute:
        raise InputError(f"target.function is {path!r}: {FORMS}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"target.function {path!r} cannot be imported ({error}): {FORMS}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"target.function {path!r}: module {name!r} has no function {attribute!r}")
    return module, function


def _arrays(leaves: list, moves: tuple[bool, ...]) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf, is_array in zip(leaves, moves, strict=True) if is_array]


def _is_finite(arrays: list[np.ndarray]) -> bool:
    floats = (array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact))
    return all(np.isfinite(array.astype(np.float32)).all() for array in floats)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return True
    return isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _are_probabilities(rows: np.ndarray) -> bool:
    sums = rows.sum(axis=1)
    return bool(rows.min() >= -_ROUNDING and rows.max() <= 1 + _ROUNDING and np.abs(sums - 1).max() <= 10 * _ROUNDING)


def _hash(path: str, *arrays: Any) -> str:
    digest = hashlib.sha256(path.encode())
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _refuse(*_: Any, **__: Any) -> Any:
    raise InputError("a target.function is not trained by xinv's recipes: write `train` beside it")
