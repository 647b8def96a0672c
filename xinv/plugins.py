"""Finds a plug-in by name among a package's public factories; there is no registry to edit."""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.numbers import described, is_count
from xinv.types import InputError

TOLD = ("logits",)
"""Parameters by which the pipeline tells a factory the form of its data."""


def build(
    package: ModuleType,
    kind: str,
    name: str,
    hyper: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Calls the factory `name` of `package.FACTORIES` with `hyper`.

    Args:
      package: a package with `FACTORIES`, the tuple of its public factory functions.
      kind: the word of an error message for a plug-in of this package, for example "explainer".
      name: the factory.
      hyper: its parameters; lists become tuples, so that factories may be cached on them.
      given: values of the pipeline; a factory receives those named by its parameters.

    Returns:
      The plug-in.

    Raises:
      InputError: no factory has this name, or its parameters are others; the message lists the
        allowed ones.
    """
    # The pipeline's own values come first: a config cannot override them
    factory = find(package, kind, name)
    parameters = inspect.signature(factory).parameters
    given = {key: value for key, value in (given or {}).items() if key in parameters}
    allowed = [key for key in parameters if key not in given]
    # Compare names here: the TypeError of a wrong call would not list the allowed ones
    unknown = sorted(set(hyper) - set(allowed))
    if unknown:
        raise InputError(
            f"{kind} {name!r} has no parameter {unknown[0]!r}: it takes"
            f" {', '.join(allowed) or 'none'}"
        )
    missing = []
    for key in allowed:
        if parameters[key].default is inspect.Parameter.empty and key not in hyper:
            missing.append(key)
    if missing:
        raise InputError(f"{kind} {name!r} needs a value for {', '.join(missing)}")

    # A factory knows more of its parameters than their types: its own error comes first
    what = f"{kind} {name!r}"
    try:
        made = factory(**{key: _hashable(value) for key, value in hyper.items()}, **given)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError):
        _require_values(factory, what, hyper)
        raise
    _require_values(factory, what, hyper)
    return made


def cached(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a factory return the same object for the same arguments, however they are spelled.

    The identity of a plug-in is the cache key of `jit`: a second object would compile again. Lists
    become tuples and NumPy's numbers Python's; arrays are compared by their values.
    """
    made: dict[Any, Any] = {}
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*arguments: Any, **keywords: Any) -> Any:
        # Positional, keyword and default arguments of one call share one key
        bound = signature.bind(
            *map(_hashable, arguments), **{key: _hashable(x) for key, x in keywords.items()}
        )
        bound.apply_defaults()
        key = tuple((name, _key(value)) for name, value in bound.arguments.items())
        if key not in made:
            made[key] = factory(*bound.args, **bound.kwargs)
        return made[key]

    call.is_factory = True
    return call


def _key(value: Any) -> Any:
    """Returns a hashable key of an argument; 1, 1.0 and True have three different ones."""
    if isinstance(value, jax.core.Tracer):
        raise InputError(
            "an argument of a factory is fixed when it is called, and cannot be traced by jit or"
            " vmap"
        )
    # Arrays count by content: type, shape and bytes
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return "array", array.dtype.str, array.shape, array.tobytes()
    if isinstance(value, tuple):
        return type(value), tuple(map(_key, value))
    # A value without a hash counts by its contents
    try:
        hash(value)
    except TypeError:
        return type(value), _contents(value)
    return type(value), value


def _contents(value: Any) -> Any:
    """Returns a key of a value without a hash: its elements, or else its text."""
    return _key(np.asarray(value)) if hasattr(value, "__array__") else repr(value)


def takes(package: ModuleType, kind: str, name: str, parameter: str) -> bool:
    """Tests if the factory `name` of `package.FACTORIES` has this parameter.

    Raises:
      InputError: no factory has this name.
    """
    return parameter in inspect.signature(find(package, kind, name)).parameters


def complete(package: ModuleType, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `hyper` with the defaults of its factory, as far as JSON can hold them.

    The hash of a stage is made from this: a changed default gives another result. A section of
    `hyper` with a name of its own is completed too. Parameters of `TOLD` are left out: the hash of
    the data has its form.
    """
    # An unknown name is reported by `build`; here it has no defaults
    factories = _factories(package)
    name = hyper["name"]
    known = isinstance(name, str) and name in factories
    parameters = inspect.signature(factories[name]).parameters if known else {}
    # Functions and arrays have no JSON form
    plain = (str, int, float, bool, tuple, type(None))
    defaults = {
        key: value.default
        for key, value in parameters.items()
        if isinstance(value.default, plain) and key not in TOLD
    }
    # A factory may take another factory's section
    inner = {}
    for key, value in hyper.items():
        if isinstance(value, Mapping) and "name" in value:
            inner[key] = complete(package, value)
    return {**defaults, **hyper, **inner}


def find(package: ModuleType, kind: str, name: str) -> Callable[..., Any]:
    """Returns the factory `name` of `package.FACTORIES`.

    Raises:
      InputError: no factory has this name; the message lists all names.
    """
    factories = _factories(package)
    if not isinstance(name, str) or name not in factories:
        raise InputError(f"unknown {kind} {name!r}: choose one of {', '.join(sorted(factories))}")
    return factories[name]


def _require_values(
    factory: Callable[..., Any],
    what: str,
    hyper: Mapping[str, Any],
) -> None:
    """Raises InputError for a value that the annotation of its parameter does not allow."""
    annotated = typing.get_type_hints(factory)
    for key, value in hyper.items():
        if key not in annotated or _fits(value, annotated[key]):
            continue
        if value is None:
            raise InputError(f"{what} has None for {key}, which it does not allow")
        raise InputError(
            f"{what} has {described(value)} for {key}, which must be {_words(annotated[key])}"
        )


_PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def _fits(value: Any, annotation: Any) -> bool:
    """Tells if a value is of an annotated type, as far as a config can hold such a type."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool | np.bool_)
    if annotation is int:
        return is_count(value, -math.inf)
    if annotation is float:
        return _is_float(value)
    if annotation is str:
        return isinstance(value, str)
    if origin in (tuple, list, Sequence):
        return _fits_each(value, arguments)
    # Sections, arrays and functions are looked into by their factories
    return value is not None or annotation in (Any, object)


def _fits_each(values: Any, annotations: Sequence[Any]) -> bool:
    if not isinstance(values, list | tuple):
        return False
    if len(annotations) == 1 or annotations[1:] == (...,):
        return all(_fits(value, annotations[0]) for value in values)
    if len(values) != len(annotations):
        return False
    return all(_fits(value, one) for value, one in zip(values, annotations, strict=True))


def _is_float(value: Any) -> bool:
    """Tells if it is a number; an infinite one is for its factory to judge."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return not math.isnan(value)


def _words(annotation: Any) -> str:
    """Returns an annotated type in words."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if annotation in (None, type(None)):
        return "None"
    if origin in (tuple, list, Sequence):
        if arguments[1:] in ((), (...,)):
            return f"a list, each of it {_words(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(map(_words, arguments))}"
    return _PLAIN.get(annotation, f"a {getattr(annotation, '__name__', annotation)}")


def _factories(package: ModuleType) -> dict[str, Callable[..., Any]]:
    return {factory.__name__: factory for factory in package.FACTORIES}


def _hashable(value: Any) -> Any:
    if isinstance(value, list) or type(value) is tuple:
        return tuple(_hashable(item) for item in value)
    if isinstance(value, np.generic) or _is_number(value):
        return value.item()
    return value


def _is_number(value: Any) -> bool:
    """Tests if a value is an array without axes whose number is known."""
    # A tracer has no value yet
    if not isinstance(value, np.ndarray | jax.Array) or isinstance(value, jax.core.Tracer):
        return False
    return value.ndim == 0 and (jnp.issubdtype(value.dtype, np.number) or value.dtype == bool)
