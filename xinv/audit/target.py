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
import numpy as np

from xinv.audit import weights
from xinv.audit.recorded import are_probabilities
from xinv.explain import door
from xinv.images import as_float
from xinv.types import Array, InputError, Key, Model, Variables

FORMS = (
    "give 'package.module:function', a function without arguments that returns (apply, variables) "
    "or a Model"
)
_HALF_PRECISION = 0.05
"""By how much rounding may change logits, as a share of the largest: generous for bfloat16."""


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
    arrays, form = weights.split(variables)
    if not weights.is_finite(arrays):
        raise InputError(f"the weights of target.function {path!r} hold NaN or infinite values")

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
    return Own(
        bound,
        arrays,
        weights.fingerprint(path, arrays),
        train,
        _source(module),
    )


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


def _taking(fn: Callable | None, form: weights.Form) -> Callable | None:
    """Returns `fn` as a function of the arrays among the variables."""
    # `embed` and `head` are optional
    if fn is None:
        return None

    def call(arrays: list, *inputs: Array) -> Any:
        return fn(form.whole(arrays), *inputs)

    return call


def _trainer(train: Callable, form: weights.Form, path: str) -> Callable[..., list]:
    """Returns the user's training as a function that returns the arrays among the variables."""
    name = f"`train` beside target.function {path!r}"

    def call(images: Any, labels: Array, key: Key) -> list:
        try:
            variables = train(as_float(np.asarray(images[:])), labels, key)
        except Exception as error:  # the user's code may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{name} raised {reason}") from error

        # The weights of a shadow model go where those of the target do
        arrays, found = weights.split(variables)
        difference = form.difference(found)
        if difference:
            raise InputError(f"{name} returns other variables than load: {difference}")
        if not weights.is_finite(arrays):
            raise InputError(f"{name} returns NaN or infinite weights")
        return arrays

    return call


def require_classifier(own: Own, path: str, images: Any, classes: int) -> None:
    """Checks that the model answers images [N,H,W,C] with finite logits of as many classes.

    An image must have the same logits alone and among others.

    Raises:
      InputError: it does not.
    """
    # The model sees images as attacks and explainers will show them
    inputs = as_float(images)
    logits = _answers(own, path, inputs)
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
    # Maps are of one image, predictions of a batch: both must be of the same function
    alone = _answers(own, path, inputs[:1])
    if np.abs(alone[0] - logits[0]).max() > _HALF_PRECISION * np.abs(logits).max():
        raise InputError(
            f"target.function {path!r} answers an image alone otherwise than among others: "
            "put the model in its evaluation mode (stored batch statistics, no dropout)"
        )


def _answers(own: Own, path: str, inputs: Array) -> np.ndarray:
    """Returns the logits [N,K] of images, float32."""
    # Compiled, as it will be: what only works on values fails here
    try:
        output = jax.jit(own.model.apply)(own.variables, inputs)
    except Exception as error:  # the user's code may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"target.function {path!r} cannot treat images {list(inputs.shape)}: {lines[0]}"
        ) from error
    return np.asarray(door.logits(output, len(inputs)), np.float32)


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
    except Exception as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"target.function {path!r}: importing {name!r} raised {reason}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"target.function {path!r}: module {name!r} has no function {attribute!r}")
    return module, function


def _refuse(*_: Any, **__: Any) -> Any:
    raise InputError("a target.function is not trained by xinv's recipes: write `train` beside it")
