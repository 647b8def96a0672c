"""Networks as pure functions: `build("cnn", classes=10)` gives a `xinv.types.Model`."""

import sys
from typing import Any

from xinv import plugins
from xinv.models.cnn import cnn
from xinv.models.convnext import convnext
from xinv.models.decoder import decoder
from xinv.models.densenet import densenet
from xinv.models.detector import detector
from xinv.models.gnime import gnime_decoder
from xinv.models.mobilenet import mobilenet_v2
from xinv.models.module import linen
from xinv.models.resnet import resnet
from xinv.models.tcnn import dropout_tcnn, tcnn
from xinv.models.vit import vit
from xinv.types import Model

__all__ = [
    "build",
    "cnn",
    "convnext",
    "decoder",
    "densenet",
    "detector",
    "dropout_tcnn",
    "gnime_decoder",
    "linen",
    "mobilenet_v2",
    "resnet",
    "tcnn",
    "vit",
]

FACTORIES = (
    cnn,
    convnext,
    decoder,
    densenet,
    detector,
    dropout_tcnn,
    gnime_decoder,
    mobilenet_v2,
    resnet,
    tcnn,
    vit,
)


def build(name: str, **hyper: Any) -> Model:
    """Calls the factory of that name; InputError lists the names and the parameters there are."""
    return plugins.build(sys.modules[__name__], "model", name, hyper)
