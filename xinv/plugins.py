"""Finds a plug-in by name among a package's public factories; there is no registry to edit."""

import inspect
from types import ModuleType
from typing import Any

from xinv.types import InputError


def build(package: ModuleType, kind: str, name: str, hyper: dict[str, Any]) -> Any:
    """Calls the factory `name` of `package.FACTORIES` with `hyper`.

    `FACTORIES` is the package's tuple of public factory functions. `kind` is what an error calls a plug-in of this
    package, for example "explainer".

    Raises:
      InputError: no factory has that name, or it takes no such parameter; the message lists what exists.
    """
    factories = {factory.__name__: factory for factory in package.FACTORIES}
    if name not in factories:
        raise InputError(f"unknown {kind} {name!r}: choose one of {', '.join(sorted(factories))}")
    factory = factories[name]
    allowed = inspect.signature(factory).parameters
    unknown = sorted(set(hyper) - set(allowed))
    if unknown:
        raise InputError(f"{kind} {name!r} has no parameter {unknown[0]!r}: it takes {', '.join(allowed) or 'none'}")
    missing = [p.name for p in allowed.values() if p.default is p.empty and p.name not in hyper]
    if missing:
        raise InputError(f"{kind} {name!r} needs a value for {', '.join(missing)}")
    return factory(**{key: _hashable(value) for key, value in hyper.items()})


def _hashable(value: Any) -> Any:
    """Lists as tuples, so that factories may be cached on their arguments."""
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value
