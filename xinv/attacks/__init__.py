"""Attacks: what an adversary rebuilds from observations. Each factory returns an `xinv.types.Attack`."""

import sys
from collections.abc import Mapping
from typing import Any

from xinv import plugins
from xinv.attacks.activations import activations
from xinv.attacks.classes import class_inference
from xinv.attacks.decoder import decoder
from xinv.attacks.fredrikson import fredrikson
from xinv.attacks.joint import fit_jointly
from xinv.attacks.network import membership_network
from xinv.attacks.preimage import preimage
from xinv.attacks.reconstruction import gradient_reconstruction
from xinv.attacks.search import log_uniform_search
from xinv.attacks.surrogate import attention_transfer
from xinv.attacks.variance import variance_threshold
from xinv.types import Attack

FACTORIES = (
    activations,
    attention_transfer,
    class_inference,
    decoder,
    fredrikson,
    gradient_reconstruction,
    membership_network,
    preimage,
    variance_threshold,
)


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Attack:
    """The attack `name`; `given` is what it may take of the pipeline, as in `plugins.build`.

    Raises:
      InputError: an unknown name or parameter; lists what exists.
    """
    return plugins.build(sys.modules[__name__], "attack", name, hyper, given)


__all__ = [
    "activations",
    "attention_transfer",
    "build",
    "class_inference",
    "decoder",
    "fit_jointly",
    "fredrikson",
    "gradient_reconstruction",
    "log_uniform_search",
    "membership_network",
    "preimage",
    "variance_threshold",
]
