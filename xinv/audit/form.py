"""The form of a config: sections, lists of names, names, numbers and flags.

Factories check their own parameters. Here are the settings of the pipeline itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from xinv.audit.results import Config
from xinv.numbers import described, is_count, is_one_of
from xinv.types import InputError

LOGITS = "logits"
PREDICTIONS = ("probabilities", LOGITS)
"""Forms of the predictions that a service releases."""
REGIONS = ("bright", "ellipse")
"""Regions of an image whose relevance an analysis measures."""
_ANY = "*"
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


SECTION = Kind(lambda value: isinstance(value, Mapping), "a section with settings of its own")
LIST = Kind(_is_list, "a list of names, such as ('one', 'two')")
TEXT = Kind(_is_text, "text")
FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
NUMBER = Kind(lambda value: is_count(value, 0), "a whole number of at least 0")
COUNT = Kind(lambda value: is_count(value, 1), "a whole number of at least 1")
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
    "seed": NUMBER,
    "seeds": COUNT,
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
