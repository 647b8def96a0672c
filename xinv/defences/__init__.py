"""Defences: what a service does to an observation before it is released. Each factory returns an
`xinv.types.Defence`.

`init` fits a defence to the defender's own observations and images; `release` applies it to what is
asked for, example by example. None of them touches the model, so its accuracy stays
(`reverse_sigmoid` and `truncate` keep the label, `round_to` can make ties).

| defence | changes | learns | queries it withstands |
|---|---|---|---|
| gnime | the map, by a generator trained against an inverter | two networks | any number |
| pgd (OND) | the map, by gradient ascent on an inverter's error | one network | any number |
| gaussian (RND) | the map, by noise of a stated distortion | one number | `withstands` |
| rescale, clip, mask, quantise | the map's size, its range, its small values, its digits | nothing | any number |
| noise | the map, by noise of a stated deviation | nothing | 1/f, until a fraction f of its distortion is left |
| truncate, round_to, reverse_sigmoid | the prediction | nothing | any number |
"""

import sys
from collections.abc import Mapping
from typing import Any

from xinv import plugins
from xinv.defences.chain import chain
from xinv.defences.gaussian import gaussian
from xinv.defences.gnime import gnime
from xinv.defences.pgd import pgd
from xinv.defences.release import each, release, withstands
from xinv.defences.transforms import (
    clip,
    mask,
    noise,
    quantise,
    rescale,
    reverse_sigmoid,
    round_to,
    truncate,
)
from xinv.types import Defence

FACTORIES = (
    clip,
    gaussian,
    gnime,
    mask,
    noise,
    pgd,
    quantise,
    rescale,
    reverse_sigmoid,
    round_to,
    truncate,
)
__all__ = [
    "FACTORIES",
    "build",
    "chain",
    "each",
    "release",
    "withstands",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Defence:
    """The defence `name`; InputError, listing what exists, for an unknown name or parameter.

    `given` is what the pipeline offers to those that have parameters for it: a training's "recipe".
    """
    return plugins.build(sys.modules[__name__], "defence", name, hyper, given)
