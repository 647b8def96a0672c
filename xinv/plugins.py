"""Finds a plug-in by name among a package's public factories; there is no registry to edit."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.types import InputError


def build(
    package: ModuleType,
    kind: str,
    name: str,
    hyper: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Calls the factory `name` of `package.FACTORIES` with `hyper`.

    Args:
      package: its `FACTORIES` is the tuple of its public factory functions.
      kind: what an error calls a plug-in of this package, for example "explainer".
      name: of the factory.
      hyper: its parameters; lists become tuples, so that factories may be cached on them.
      given: what the pipeline offers; a factory receives those that it has parameters for.

    Raises:
      InputError: no factory has that name, or its parameters are others; the message lists what
          exists.
    """
    factory = find(package, kind, name)
    parameters = inspect.signature(factory).parameters
    given = {key: value for key, value in (given or {}).items() if key in parameters}
    allowed = [key for key in parameters if key not in given]
    unknown = sorted(set(hyper) - set(allowed))
    if unknown:
        raise InputError(
            f"{kind} {name!r} has no parameter {unknown[0]!r}: it takes"
            f" {', '.join(allowed) or 'none'}"
        )
    missing = [
        key
        for key in allowed
        if parameters[key].default is inspect.Parameter.empty and key not in hyper
    ]
    if missing:
        raise InputError(f"{kind} {name!r} needs a value for {', '.join(missing)}")
    _require_values(factory, f"{kind} {name!r}", hyper)
    return factory(**{key: _hashable(value) for key, value in hyper.items()}, **given)


def cached(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that gives the same object for the same arguments, however they are spelled.

    Lists become tuples and NumPy's numbers Python's; arrays are compared by their values.
    """
    made: dict[Any, Any] = {}
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*arguments: Any, **keywords: Any) -> Any:
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
    """What two arguments have in common if and only if they are the same; 1, 1.0 and True are
    three.
    """
    if isinstance(value, jax.core.Tracer):
        raise InputError(
            "an argument of a factory is fixed when it is called, and cannot be traced by jit or"
            " vmap"
        )
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return "array", array.dtype.str, array.shape, array.tobytes()
    if isinstance(value, tuple):
        return type(value), tuple(map(_key, value))
    try:
        hash(value)
    except TypeError:
        return type(value), _contents(value)
    return type(value), value


def _contents(value: Any) -> Any:
    """What tells a value without a hash from others of its type."""
    return _key(np.asarray(value)) if hasattr(value, "__array__") else repr(value)


def takes(package: ModuleType, kind: str, name: str, parameter: str) -> bool:
    """Whether the factory `name` of `package.FACTORIES` has that parameter.

    Raises InputError as `build` does.
    """
    return parameter in inspect.signature(find(package, kind, name)).parameters


def complete(package: ModuleType, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """`hyper`, with the name of its factory, and the defaults of that factory that can be written
    down as JSON.

    What a stage's hash must hold: a changed default is another result. A section within `hyper`
    that names a factory itself is completed too.
    """
    factories = _factories(package)
    name = hyper["name"]
    known = isinstance(name, str) and name in factories
    parameters = inspect.signature(factories[name]).parameters if known else {}
    plain = (str, int, float, bool, tuple, type(None))
    defaults = {
        key: value.default for key, value in parameters.items() if isinstance(value.default, plain)
    }
    inner = {}
    for key, value in hyper.items():
        if isinstance(value, Mapping) and "name" in value:
            inner[key] = complete(package, value)
    return {**defaults, **hyper, **inner}


def find(package: ModuleType, kind: str, name: str) -> Callable[..., Any]:
    """The factory `name` of `package.FACTORIES`.

    Raises InputError, listing what exists, for another name.
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
    """InputError if a parameter is None whose annotation does not allow that."""
    empty = [key for key, value in hyper.items() if value is None]
    if not empty:
        return
    annotated = typing.get_type_hints(factory)
    for key in empty:
        if key in annotated and not _allows_none(annotated[key]):
            raise InputError(f"{what} has None for {key}, which it does not allow")


def _allows_none(annotation: Any) -> bool:
    return annotation in (Any, None, type(None), object) or type(None) in typing.get_args(
        annotation
    )


def _factories(package: ModuleType) -> dict[str, Callable[..., Any]]:
    return {factory.__name__: factory for factory in package.FACTORIES}


def _hashable(value: Any) -> Any:
    if isinstance(value, list) or type(value) is tuple:
        return tuple(_hashable(item) for item in value)
    if isinstance(value, np.generic) or _is_number(value):
        return value.item()
    return value


def _is_number(value: Any) -> bool:
    """Whether it is an array without axes that holds one known number."""
    if not isinstance(value, np.ndarray | jax.Array) or isinstance(value, jax.core.Tracer):
        return False
    return value.ndim == 0 and (jnp.issubdtype(value.dtype, np.number) or value.dtype == bool)
