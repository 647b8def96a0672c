"""Class activation maps: one tensor of the model, weighted by its effect on the class's logit.

One forward pass, and a backward pass down to the tensor only. `cut.cut` finds the tensor of
`layer` and `of`.
"""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine.cut import SIDES, Tokens, cut, require_tokens
from xinv.explain.engine.graph import one
from xinv.explain.guided import guided_backprop
from xinv.numbers import described, is_count, is_one_of, require, require_flag
from xinv.plugins import cached
from xinv.space import Choice, searched
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

LINEAR, CUBIC = ("linear", "bilinear", "trilinear"), ("cubic", "bicubic", "tricubic")
UPSAMPLING = ("nearest", "area", *LINEAR, *CUBIC, "lanczos3", "lanczos5")
"""Methods of `jax.image.resize`, also by their names for one and three axes; PyTorch's "area"."""

Rest = Callable[[jax.Array], jax.Array]
"""The model from the tensor on: [1,h,w,c] -> logits [K]."""


@searched(of=Choice(SIDES), upsample=Choice((None, "nearest", "area", "bilinear", "bicubic")))
@cached
def gradcam(
    layer: str | int | None = None,
    of: str = "output",
    upsample: str | None = None,
    relu: bool = True,
    tokens: Tokens | None = None,
) -> Explainer:
    """Grad-CAM: the tensor's channels, weighted by their mean gradient (Selvaraju et al. 2017).

    Args:
      layer: a tensor's name, a convolution's index, or None for the model's
        own choice; see `cut.cut`.
      of: "output" of the layer, or its "input".
      upsample: one of `UPSAMPLING`, or None to leave the map at the tensor's size.
      relu: whether negative evidence is dropped, as in the paper.
      tokens: rows and columns of a transformer's patches, if its tokens are named or
        their grid is not found.

    Returns:
      An explainer with a map [h,w,1], in logit; [H,W,1] if upsampled to the image's size.

    Raises:
      InputError: unknown `of` or `upsample`; no such layer, or its tensor is not
        [1,h,w,c] or not of `tokens`.
    """

    def cams(activation: jax.Array, rest: Rest, label: Array) -> jax.Array:
        # Eq. 1: the mean gradient of a channel is its weight.
        alpha = _slope(activation, rest, label).mean((1, 2), keepdims=True)
        # Eq. 2, but for the ReLU, which `_map` applies.
        return (alpha * activation).sum(-1, keepdims=True)[0]

    return _map(cams, layer, of, upsample, relu, tokens)


@searched(of=Choice(SIDES), upsample=Choice((None, "nearest", "area", "bilinear", "bicubic")))
@cached
def gradcam_plus_plus(
    layer: str | int | None = None,
    of: str = "output",
    upsample: str | None = None,
    relu: bool = True,
    tokens: Tokens | None = None,
) -> Explainer:
    """Grad-CAM++: one weight per position and channel (Chattopadhyay et al. 2018, eq. 5, 7, 19).

    The score is the exponential of the logit. Its factor exp(logit), common to all weights, is left
    out, as in other libraries.

    Args:
      layer, of, upsample, relu, tokens: as for `gradcam`.

    Returns:
      An explainer with a map [h,w,1]; [H,W,1] if upsampled.

    Raises:
      InputError: as for `gradcam`.
    """

    def cams(activation: jax.Array, rest: Rest, label: Array) -> jax.Array:
        slope = _slope(activation, rest, label)
        # Eq. 19, g being the gradient: g² / (2g² + g³·ΣA); 0 where nothing has an effect.
        below = 2 * slope**2 + activation.sum((1, 2), keepdims=True) * slope**3
        share = jnp.where(
            below == 0,
            0,
            slope**2 / jnp.where(below == 0, 1, below),
        )
        # Eq. 7: the sum over positions of share and positive gradient weighs a channel.
        weight = (share * jax.nn.relu(slope)).sum((1, 2), keepdims=True)
        return (weight * activation).sum(-1, keepdims=True)[0]

    return _map(cams, layer, of, upsample, relu, tokens)


@cached
def class_cams(
    layer: str | int | None = None,
    of: str = "output",
    upsample: str | None = None,
    relu: bool = True,
    tokens: Tokens | None = None,
) -> Explainer:
    """Σ-CAM: one Grad-CAM for every class, whatever the label (Zhao et al. 2021, section 3.3).

    Args:
      layer, of, upsample, relu, tokens: as for `gradcam`.

    Returns:
      An explainer with a map [h,w,K] for K classes; [H,W,K] if upsampled.

    Raises:
      InputError: as for `gradcam`.
    """

    def cams(activation: jax.Array, rest: Rest, label: Array) -> jax.Array:
        # One backward pass per class, mapped over the rows of the identity.
        logits, pull = jax.vjp(rest, activation)
        (slopes,) = jax.vmap(pull)(jnp.eye(len(logits), dtype=logits.dtype))
        return jnp.einsum(
            "kc,hwc->hwk",
            door.marked(slopes.mean((2, 3))[:, 0], logits),
            activation[0],
        )

    return _map(cams, layer, of, upsample, relu, tokens)


@cached
def constituent_cams(
    layer: str | int | None = None,
    of: str = "output",
    upsample: str | None = None,
    relu: bool = False,
    tokens: Tokens | None = None,
) -> Explainer:
    """∂-CAM: the terms of Grad-CAM's sum, one per channel (Zhao et al. 2021, section 3.3).

    Negative evidence is kept unless `relu`, so that the terms sum to the map of
    `gradcam(relu=False)`.

    Args:
      layer, of, upsample, relu, tokens: as for `gradcam`.

    Returns:
      An explainer with a map [h,w,c] for c channels; [H,W,c] if upsampled.

    Raises:
      InputError: as for `gradcam`.
    """

    def cams(activation: jax.Array, rest: Rest, label: Array) -> jax.Array:
        return (_slope(activation, rest, label).mean((1, 2), keepdims=True) * activation)[0]

    return _map(cams, layer, of, upsample, relu, tokens)


@searched(of=Choice(SIDES), upsample=Choice(("nearest", "area", "bilinear", "bicubic")))
@cached
def guided_gradcam(
    layer: str | int | None = None,
    of: str = "output",
    upsample: str = "bilinear",
    tokens: Tokens | None = None,
) -> Explainer:
    """Guided backpropagation times the upsampled Grad-CAM (Selvaraju et al. 2017, section 3.2).

    Args:
      layer, of, tokens: as for `gradcam`.
      upsample: one of `UPSAMPLING`; the map always has the image's size.

    Returns:
      An explainer with a map [H,W,C].

    Raises:
      InputError: as for `gradcam` and `guided_backprop`.
    """
    if upsample is None:
        raise InputError(
            "guided_gradcam's maps have the image's size: choose upsample among"
            f" {', '.join(UPSAMPLING)}"
        )
    # The pattern of pixels from one method, the region from the other.
    coarse = gradcam(layer, of, upsample, tokens=tokens)
    fine = guided_backprop()

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        return fine(apply, variables, image, label, key) * coarse(
            apply, variables, image, label, key
        )

    return explain


def _map(
    cams: Callable[..., jax.Array],
    layer: str | int | None,
    of: str,
    upsample: str | None,
    relu: bool,
    tokens: Tokens | None,
) -> Explainer:
    """Makes the explainer of `cams(activation [1,h,w,c], rest, label) -> [h,w,...]`."""
    # Refuse a wrong option now, before anything is traced.
    if upsample is not None and not is_one_of(upsample, UPSAMPLING):
        raise InputError(
            f"upsample={described(upsample)} is no method: choose None or one of"
            f" {', '.join(UPSAMPLING)}"
        )
    if not is_one_of(of, SIDES):
        raise InputError(
            f"of={described(of)} is no side of a layer: choose one of {', '.join(SIDES)}"
        )
    require_flag(relu=relu)
    require_tokens(tokens)
    named = layer is None or isinstance(layer, str) or is_count(layer, -sys.maxsize)
    require(named, "layer", layer, "None, a tensor's name or a convolution's index")

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # Open the model at the tensor: all before it runs once and is held fixed.
        activation, rest = cut(one(apply, variables), image, layer, of, tokens)
        if activation.ndim != 4:
            name = "the default layer" if layer is None else f"layer {layer!r}"
            raise InputError(
                f"a class activation map needs a tensor [1,h,w,c], but {name} is"
                f" {list(activation.shape)}: of tokens [1,T,C] give their rows and columns as"
                " tokens=(h, w)"
            )
        cam = cams(activation, rest, label)
        # The ReLU comes before upsampling, as in the paper.
        cam = jax.nn.relu(cam) if relu else cam
        if upsample is None:
            return cam
        return _resize(cam, image.shape[:2], upsample)

    return explain


def _resize(cam: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
    """Resizes a map [h,w,c] to [H,W,c]."""
    if method != "area":
        return jax.image.resize(cam, (*size, cam.shape[-1]), method)
    # jax.image has no "area": it is one small matrix product per axis.
    rows, columns = (
        jnp.asarray(_overlaps(*lengths), cam.dtype)
        for lengths in zip(cam.shape, size, strict=False)
    )
    return jnp.einsum("Hh,Ww,hwc->HWc", rows, columns, cam, precision="highest")


def _overlaps(inputs: int, outputs: int) -> np.ndarray:
    """Returns weights [outputs,inputs]: an output is the mean of the inputs its stretch touches."""
    i = np.arange(outputs)[:, None]
    j = np.arange(inputs)
    # Output i covers [i, i+1) · inputs / outputs; in whole numbers, to be exact.
    touched = (j * outputs < (i + 1) * inputs) & ((j + 1) * outputs > i * inputs)
    return touched / touched.sum(1, keepdims=True)


def _slope(activation: jax.Array, rest: Rest, label: Array) -> jax.Array:
    """The gradient of the label's logit at the tensor."""

    def score(activation: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = rest(activation)
        return logits[label], logits

    # One forward pass from the tensor on serves the gradient and the check of NaN.
    slope, logits = jax.grad(score, has_aux=True)(activation)
    return door.marked(slope, logits)
