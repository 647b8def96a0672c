"""Explanations of any JAX classifier: `build("gradcam", upsample="bilinear")` gives a `xinv.types.Explainer`.

An explainer maps `(apply, variables, image[H,W,C], label[], key)` to a map [h,w,c] of that one image. It is pure, so
jit and vmap it, or let `batch` do both for a data set; `normalise` puts its maps on a common scale.

| method | shows | passes per map: forward + backward |
|---|---|---|
| gradient | where the class's score reacts to the intensity | 1 + 1 |
| input_x_gradient | the same, times the intensity | 1 + 1 |
| gradcam | the regions of the last feature map that speak for the class | 1 + a small part |
"""

import sys
from typing import Any

from xinv import plugins
from xinv.explain.batch import batch
from xinv.explain.cam import gradcam
from xinv.explain.cut import cut
from xinv.explain.gradient import gradient, input_x_gradient
from xinv.explain.normalise import SCALES, normalise
from xinv.types import Explainer

__all__ = ["SCALES", "batch", "build", "cut", "gradcam", "gradient", "input_x_gradient", "normalise"]

FACTORIES = (gradient, input_x_gradient, gradcam)


def build(name: str, **hyper: Any) -> Explainer:
    """Calls the factory of that name; InputError lists the names and the parameters there are."""
    return plugins.build(sys.modules[__name__], "explainer", name, hyper)
