"""Class activation maps: one tensor of the model, weighted by what it does to the class's logit.

One forward pass, and a backward pass down to the tensor only. `graph.cut` says which tensor `layer` and `of` stand for.
"""

import functools

import jax

from xinv.explain.cut import cut
from xinv.explain.graph import one
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

UPSAMPLING = ("nearest", "linear", "bilinear", "cubic", "bicubic", "lanczos3", "lanczos5")
"""Methods of `jax.image.resize`; linear and bilinear are the same for maps, and so are cubic and bicubic."""


@functools.cache
def gradcam(
    layer: str | int | None = None, of: str = "output", upsample: str | None = None, relu: bool = True
) -> Explainer:
    """Grad-CAM: the tensor's channels, weighted by their mean gradient and summed (Selvaraju et al. 2017, eq. 1 and 2).

    The map is [h,w,1], in logit; [H,W,1] if upsampled to the image's size.

    Args:
      layer: a tensor's name, a convolution's index, or None for the model's own choice; see `cut.cut`.
      of: "output" of the layer, or its "input".
      upsample: a method of `jax.image.resize`, or None to leave the map at the tensor's size.
      relu: whether negative evidence is dropped, as in the paper.

    Raises:
      InputError: unknown `of` or `upsample`; no such layer, or its tensor is not [1,h,w,c].
    """
    _check(upsample)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        activation, rest = activations(apply, variables, image, layer, of)
        slope = jax.grad(lambda activation: rest(activation)[label])(activation)
        alpha = slope.mean((1, 2), keepdims=True)  # eq. 1
        cam = (alpha * activation).sum(-1, keepdims=True)[0]  # eq. 2
        return resize(jax.nn.relu(cam) if relu else cam, image, upsample)

    return explain


def activations(apply: Apply, variables: Variables, image: Array, layer: str | int | None, of: str):
    """`cut.cut` of the model at a feature map [1,h,w,c].

    Raises:
      InputError: no such layer, or its tensor has no spatial axes.
    """
    activation, rest = cut(one(apply, variables), image, layer, of)
    if activation.ndim != 4:
        name = "the default layer" if layer is None else f"layer {layer!r}"
        raise InputError(f"a class activation map needs a tensor [1,h,w,c], but {name} is {list(activation.shape)}")
    return activation, rest


def resize(cam: jax.Array, image: Array, upsample: str | None) -> jax.Array:
    """`cam` [h,w,c] at the height and width of `image`, or as it is for None."""
    return cam if upsample is None else jax.image.resize(cam, (*image.shape[:2], cam.shape[-1]), upsample)


def _check(upsample: str | None) -> None:
    if upsample is not None and upsample not in UPSAMPLING:
        raise InputError(f"upsample={upsample!r} is no method: choose None or one of {', '.join(UPSAMPLING)}")
