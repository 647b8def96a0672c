"""Examples of docstrings and pages, to run as a stranger would."""

import doctest
import re
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def block(page: str, heading: str) -> str:
    """The first Python code below a heading of a page, as it is written."""
    text = (ROOT / page).read_text().split(f"\n## {heading}\n")[1]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def example(module: ModuleType) -> dict[str, Any]:
    """Runs the example that opens a package, without the package's own names; returns its names."""
    text = module.__doc__.partition("How to extend.")[0]
    test = doctest.DocTestParser().get_doctest(text, {}, module.__name__, module.__file__, 0)
    assert test.examples
    found = doctest.DocTestRunner().run(test, clear_globs=False)
    assert not found.failed
    return test.globs
