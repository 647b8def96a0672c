"""Attacks: what an adversary rebuilds from observations. Each factory returns an `xinv.types.Attack`."""

import sys

from xinv import plugins
from xinv.attacks.decoder import decoder
from xinv.types import Attack

FACTORIES = (decoder,)


def build(name: str, **hyper: object) -> Attack:
    """The attack `name`; raises InputError, listing what exists, for an unknown name or parameter."""
    return plugins.build(sys.modules[__name__], "attack", name, hyper)


__all__ = ["build", "decoder"]
