"""Targets that xinv did not train: a function of the user's own, with its weights.

target.function = "my_package.my_module:load"    load() -> (apply, variables), or (Model, variables)
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.audit.recorded import are_probabilities
from xinv.explain import door
from xinv.images import as_float
from xinv.types import Array, InputError, Key, Model, Variables

FORMS = (
    "give 'package.module:function', a function without arguments that returns (apply, variables) "
    "or a Model"
)


class Own(NamedTuple):
    """A model of the user's own.

    Attributes:
      model: its `apply`, `embed` and `head` take `variables`; it has no `init` and `train`.
      variables: the arrays among the leaves of the user's variables, in a list.
      fingerprint: hash of the weights: others are another result.
      train: `(images, labels, key) -> variables` of that form, for shadow models; None if the
        module has none.
      source: hash of the module's code, by which other training is another result.
    """

    model: Model
    variables: Variables
    fingerprint: str
    train: Callable[..., Variables] | None
    source: str = ""


class _Form(NamedTuple):
    """The form of the user's variables, of which only the arrays are passed to functions.

    Attributes:
      treedef: their structure.
      moves: per leaf, if it is an array.
      rest: the other leaves, such as functions, numbers and keys in Equinox and NNX; None for each
        array.
    """

    treedef: Any
    moves: tuple[bool, ...]
    rest: list

    def whole(self, arrays: list) -> Variables:
        """Returns the user's variables with these arrays."""
        # In the order of the leaves
        given = iter(arrays)
        leaves = []
        for leaf, is_array in zip(self.rest, self.moves, strict=True):
            leaves.append(next(given) if is_array else leaf)
        return jax.tree.unflatten(self.treedef, leaves)


def load(path: str) -> Own:
    """Imports and calls the function at `path`, and takes the weights from its result.

    Beside the function the module may have `train(images, labels[N], key) -> variables`, for shadow
    models; its images are float32 [N,H,W,C] in [0,1], as those of `apply`.

    Raises:
      InputError: there is no such function, it raises, or it returns no model with finite weights.
    """
    module, function = _find(path)
    given, variables = _called(function, path)

    # Take the arrays among the weights
    leaves, treedef = jax.tree.flatten(variables)
    moves = tuple(map(_is_array, leaves))
    arrays = _arrays(leaves, moves)
    if not _is_finite(arrays):
        raise InputError(f"the weights of target.function {path!r} hold NaN or infinite values")
    rest = [None if is_array else leaf for leaf, is_array in zip(leaves, moves, strict=True)]
    form = _Form(treedef, moves, rest)

    # Let every function of the model take the arrays alone
    model = given
    if not isinstance(given, Model):
        model = Model(None, given, None)
    bound = Model(
        init=_refuse,
        apply=_taking(model.apply, form),
        train=_refuse,
        embed=_taking(model.embed, form),
        head=_taking(model.head, form),
    )
    train = getattr(module, "train", None)
    if train is not None:
        train = _trainer(train, form, path)
    return Own(bound, arrays, _hash(path, *arrays), train, _source(module))


def _source(module: Any) -> str:
    """Returns the hash of a module's code; "" if it has no file."""
    path = getattr(module, "__file__", None)
    if path is None:
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _called(function: Callable, path: str) -> tuple[Any, Variables]:
    """Returns the model and the variables that the user's function returns."""
    # Checked one by one, so that a message names the first mistake
    try:
        found = function()
    except Exception as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"target.function {path!r} raised {reason}") from error
    if isinstance(found, Model):
        raise InputError(
            f"target.function {path!r} returns a Model without weights: return (model, variables)"
        )
    is_pair = isinstance(found, tuple) and len(found) == 2
    if not is_pair or not (callable(found[0]) or isinstance(found[0], Model)):
        raise InputError(f"target.function {path!r} returns {type(found).__name__}: {FORMS}")
    return found


def _taking(fn: Callable | None, form: _Form) -> Callable | None:
    """Returns `fn` as a function of the arrays among the variables."""
    # `embed` and `head` are optional
    if fn is None:
        return None

    def call(arrays: list, *inputs: Array) -> Any:
        return fn(form.whole(arrays), *inputs)

    return call


def _trainer(train: Callable, form: _Form, path: str) -> Callable[..., list]:
    """Returns the user's training as a function that returns the arrays among the variables."""
    name = f"`train` beside target.function {path!r}"

    def call(images: Any, labels: Array, key: Key) -> list:
        try:
            variables = train(as_float(np.asarray(images[:])), labels, key)
        except Exception as error:  # the user's code may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{name} raised {reason}") from error

        # The weights of a shadow model go where those of the target do
        leaves, treedef = jax.tree.flatten(variables)
        moves = tuple(map(_is_array, leaves))
        if treedef != form.treedef or moves != form.moves:
            raise InputError(f"{name} returns variables of another structure than load")
        arrays = _arrays(leaves, moves)
        if not _is_finite(arrays):
            raise InputError(f"{name} returns NaN or infinite weights")
        return arrays

    return call


def require_classifier(own: Own, path: str, images: Any, classes: int) -> None:
    """Checks that the model answers images [N,H,W,C] with finite logits of as many classes.

    Raises:
      InputError: it does not.
    """
    # The model sees images as attacks and explainers will show them
    inputs = as_float(images)
    try:
        output = own.model.apply(own.variables, inputs)
    except Exception as error:  # the user's code may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"target.function {path!r} cannot treat images {list(inputs.shape)}: {lines[0]}"
        ) from error
    logits = np.asarray(door.logits(output, len(inputs)), np.float32)
    if logits.shape[1] != classes:
        raise InputError(
            f"target.function {path!r} has {logits.shape[1]} classes, and the data set {classes}"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"target.function {path!r} answers NaN or infinite logits")
    # One row may sum to 1 by chance; explainers of probabilities differ from those of logits
    if len(logits) > 1 and are_probabilities(logits):
        raise InputError(
            f"target.function {path!r} answers probabilities (all in [0,1], each row sums to 1): "
            "return the logits, or the logarithms of the probabilities"
        )


def _find(path: str) -> tuple[Any, Callable]:
    """Returns the module and the function of "module:function", also in the working directory."""
    # The config may hold anything
    name = attribute = ""
    if isinstance(path, str):
        name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise InputError(f"target.function is {path!r}: {FORMS}")
    # A program that is started elsewhere has not the working directory on its path
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"target.function {path!r} cannot be imported ({error}): {FORMS}"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"target.function {path!r}: module {name!r} has no function {attribute!r}")
    return module, function


def _arrays(leaves: list, moves: tuple[bool, ...]) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf, is_array in zip(leaves, moves, strict=True) if is_array]


def _is_finite(arrays: list[np.ndarray]) -> bool:
    for array in arrays:
        # NumPy knows bfloat16 only by its conversion
        floating = jnp.issubdtype(array.dtype, jnp.inexact)
        if floating and not np.isfinite(array.astype(np.float32)).all():
            return False
    return True


def _is_array(leaf: Any) -> bool:
    # Random keys are arrays to JAX, and cannot be stored as such
    if isinstance(leaf, np.ndarray):
        return True
    return isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _hash(path: str, *arrays: Any) -> str:
    # Weights of the same values and other shapes are another model
    digest = hashlib.sha256(path.encode())
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _refuse(*_: Any, **__: Any) -> Any:
    raise InputError("a target.function is not trained by xinv's recipes: write `train` beside it")
