"""Examples of docstrings, run as a stranger would."""

import doctest
from types import ModuleType
from typing import Any


def example(module: ModuleType) -> dict[str, Any]:
    """Runs the example that opens a package, without the package's own names; returns its names."""
    text = module.__doc__.partition("How to extend.")[0]
    test = doctest.DocTestParser().get_doctest(text, {}, module.__name__, module.__file__, 0)
    assert test.examples
    found = doctest.DocTestRunner().run(test, clear_globs=False)
    assert not found.failed
    return test.globs
