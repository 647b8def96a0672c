"""The form of a config: sections, lists of names, names, numbers and flags.

Factories check their own parameters. Here are the settings of the pipeline itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from xinv.audit.results import Config
from xinv.numbers import described, is_count, is_number, is_one_of
from xinv.types import InputError

LOGITS = "logits"
PREDICTIONS = ("probabilities", LOGITS)
"""Forms of the predictions that a service releases."""
REGIONS = ("bright", "ellipse")
"""Regions of an image whose relevance an analysis measures."""
_ANY = "*"
_SEEDS = 2**31
"""JAX takes larger seeds for others: 2**32 is 0 again."""
_MOST = 1000
_FOLDER = re.compile(r"\w[\w.+=,() -]*")


class Kind(NamedTuple):
    """A kind of setting.

    Attributes:
      holds: tells if a value is of the kind.
      allowed: the kind in words.
    """

    holds: Callable[[Any], bool]
    allowed: str


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_published(value: Any) -> bool:
    """Tests for figures with all that a report reads; without a spread it is None."""
    if not isinstance(value, list | tuple):
        return False
    for entry in value:
        if not isinstance(entry, Mapping) or "spread" not in entry:
            return False
        if not all(_is_text(entry.get(name)) for name in ("arm", "metric", "source")):
            return False
        if not is_number(entry.get("value")) or not _is_text(entry.get("note", "")):
            return False
        for name in ("spread", "band"):
            if entry.get(name) is not None and not is_number(entry[name]):
                return False
    return True


SECTION = Kind(lambda value: isinstance(value, Mapping), "a section with settings of its own")
LIST = Kind(_is_list, "a list of names, such as ('one', 'two')")
TEXT = Kind(_is_text, "text")
FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
SEED = Kind(
    lambda value: is_count(value, 0) and value < _SEEDS,
    f"a whole number from 0 to {_SEEDS - 1}",
)
SEEDS = Kind(
    lambda value: is_count(value, 1) and value <= _MOST,
    f"a whole number from 1 to {_MOST}",
)
COUNT = Kind(lambda value: is_count(value, 1), "a whole number of at least 1")
PUBLISHED = Kind(
    _is_published,
    "a list of sections, each with texts arm, metric and source, and numbers value and spread",
)
PREDICTION = Kind(
    lambda value: is_one_of(value, PREDICTIONS),
    " or ".join(map(repr, PREDICTIONS)),
)
FOLDER = Kind(
    lambda value: _is_text(value) and _FOLDER.fullmatch(value) is not None,
    "the name of a folder: letters, digits and -_.+=,() after a first letter or digit",
)

FORM = {
    "unit": FOLDER,
    "seed": SEED,
    "seeds": SEEDS,
    "data": SECTION,
    "data.source": SECTION,
    "data.transform": SECTION,
    "data.roles": SECTION,
    "data.auxiliary": SECTION,
    "data.auxiliary.source": SECTION,
    "data.auxiliary.transform": SECTION,
    "data.auxiliary.roles": SECTION,
    "target": SECTION,
    "target.label": TEXT,
    "target.roles": LIST,
    "target.train": SECTION,
    "evaluation": SECTION,
    "evaluation.label": TEXT,
    "evaluation.roles": LIST,
    "evaluation.train": SECTION,
    "shadows": SECTION,
    "shadows.*": SECTION,
    "shadows.*.label": TEXT,
    "shadows.*.roles": LIST,
    "shadows.*.train": SECTION,
    "attributes": SECTION,
    "attributes.*": SECTION,
    "attributes.*.label": TEXT,
    "attributes.*.roles": LIST,
    "attributes.*.train": SECTION,
    "service": SECTION,
    "service.prediction": PREDICTION,
    "explanations": SECTION,
    "explanations.*": SECTION,
    "defences": SECTION,
    "defences.*": SECTION,
    "defences.*.train": SECTION,
    "defender": SECTION,
    "defender.role": TEXT,
    "defender.held_out": TEXT,
    "attack": SECTION,
    "attack.train": SECTION,
    "arms": SECTION,
    "arms.*": SECTION,
    "arms.*.inputs": LIST,
    "arms.*.attack": SECTION,
    "arms.*.train_view": SECTION,
    "arms.*.train_view.roles": LIST,
    "arms.*.train_view.defences": LIST,
    "arms.*.train_view.members": TEXT,
    "arms.*.test_view": SECTION,
    "arms.*.test_view.defences": LIST,
    "arms.*.test_view.members": TEXT,
    "arms.*.known": TEXT,
    "arms.*.population": TEXT,
    "arms.*.evaluate": FLAG,
    "arms.*.control_of": TEXT,
    "metrics": SECTION,
    "metrics.*": SECTION,
    "metrics.*.*": SECTION,
    "analysis": SECTION,
    "report": SECTION,
    "report.role": TEXT,
    "report.examples": COUNT,
    "report.published": PUBLISHED,
    "report.positive_control": FLAG,
}
"""The kind of each setting by its path; "*" stands for any name. Outer sections come first."""


def require_form(config: Config) -> None:
    """Checks that each setting of the pipeline has its kind.

    Raises:
      InputError: one is not.
    """
    # Outer sections come first in the table, so that inner settings may rely on them
    for pattern, kind in FORM.items():
        for path, value in _found(config, pattern.split(".")):
            if not kind.holds(value):
                raise InputError(f"{path} is {described(value)} but must be {kind.allowed}")


def _found(section: Config, pattern: list[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of each setting of a pattern."""
    # One step of the path at a time
    first, *rest = pattern
    names = list(section) if first == _ANY else [first]
    for name in names:
        # A missing setting has an error of its own
        if name not in section:
            continue
        here = f"{path}.{name}" if path else str(name)
        if not rest:
            yield here, section[name]
        else:
            yield from _found(section[name], rest, here)
