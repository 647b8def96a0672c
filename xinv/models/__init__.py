"""Networks as pure functions.

>>> import jax, numpy as np
>>> from xinv import models
>>> model = models.build("cnn", classes=10, width=0.125)
>>> images = np.zeros((2, 32, 32, 1), np.float32)
>>> variables = model.init(jax.random.key(0), images)
>>> model.apply(variables, images).shape
(2, 10)

Each factory returns a `xinv.types.Model`.
"""

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
    """Builds a network by its name.

    Args:
      name: of the factory.
      hyper: the factory's parameters.

    Returns:
      The network.

    Raises:
      InputError: an unknown name or parameter; lists those that exist.
    """
    return plugins.build(sys.modules[__name__], "model", name, hyper)
