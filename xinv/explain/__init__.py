"""Explanations of any JAX classifier.

>>> import jax, numpy as np
>>> from xinv import explain
>>> def apply(variables, images):
...     return images.reshape(len(images), -1) @ variables
>>> variables = np.eye(16, 3, dtype=np.float32)  # the logit of class k is pixel k
>>> images = np.full((2, 4, 4, 1), 0.5, np.float32)
>>> explainer = explain.build("input_x_gradient")
>>> maps = explain.batch(explainer, apply, variables, images, [0, 2], jax.random.key(0))
>>> maps[:, 0, :, 0].tolist()  # the first rows of pixels, explained for classes 0 and 2
[[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]]

An explainer maps `(apply, variables, image[H,W,C], label[], key)` to a map [h,w,c] of that one
image. It is pure, so jit and vmap it, or let `batch` do both for a data set. `normalise` puts its
maps on a common scale.

| method | shows | cost of a map, forward + backward passes |
|---|---|---|
| gradient, saliency | where the class's score reacts to the intensity | 1 + 1 |
| input_x_gradient | the same, times the intensity | 1 + 1 |
| integrated_gradients | each pixel's part of the score, from a baseline on | steps + steps |
| deeplift | the same, without the integral | 2 + 1 |
| lrp | the score, handed back layer by layer | 1 + 1, and up to 4 products more per layer |
| smoothgrad, vargrad | any other map, less noisy; or how noisy it is | samples × that map |
| deconvolution, guided_backprop | sharp patterns, little dependent on the class | 1 + 1 |
| gradcam, gradcam_plus_plus | regions of the last feature map for the class | 1 + a small part |
| guided_gradcam | those patterns in those regions | 2 + 1 and a small part |
| class_cams | one Grad-CAM per class | 1 + a small part per class |
| constituent_cams | the terms of Grad-CAM, one per channel | 1 + a small part |
| occlusion | where covering a window lowers the score | windows + 1, and 0 |
| lime | a sparse linear model of the score on superpixels | samples + 0 |
| kernel_shap | Shapley values of superpixels, by regression | samples + 0 |
| shapley_sampling | the same without bias, by random orders | samples × superpixels + 0 |
| anchors | the superpixels sufficient for the prediction | hundreds to thousands + 0 |
| protodash | the mean of the most similar reference images | 0; the reference once a batch |
| removal_trajectory | the confidence as a map's pixels are removed | that map, and steps + 1 |

On which models. Gradients and sampling methods need nothing but a function. If another method
has no correct rule for an operation, it raises an error that names the operation:

| model | deeplift | lrp | guided, deconvolution | CAMs |
|---|---|---|---|---|
| CNN, ResNet, DenseNet | complete | BatchNorm folded | by ReLUs | last map before pooling |
| Layer-, Group-, RMSNorm | complete | scale held constant | no clip of a variance | the same |
| squeeze-excitation, GLU | complete | to the signal, or as `gates` says | by ReLUs | the same |
| EfficientNet, ConvNeXt | complete | as above | refused without a ReLU | last map of an extent |
| ViT, Swin, Mixer | complete | AttnLRP | refused without a ReLU | tokens, as a grid |
| scan over layers, sort, top_k | complete | to the elements taken | by ReLUs | the same |
| softmax or sigmoid at the end | of that | of the logits below | of that | of that |
| one logit (binary; label 0) | yes | yes | yes | yes |
| bfloat16, float16 | in float32 | in float32 | in float32 | in float32 |

Anchors and ProtoDash compare classes and need two. `layers` lists the tensors that CAMs can be made
of.

For a first look: gradcam, coarse and cheap. For numbers that add up to the score: deeplift, lrp or,
on any smooth function, integrated_gradients. The passes of one map go through the model together,
as one batch, as far as memory allows.

How to extend. Write `xinv/explain/margin.py`:

    '''The gradient of a class's lead over its strongest rival.'''

    import jax
    import jax.numpy as jnp

    from xinv.explain import door
    from xinv.numbers import require_flag
    from xinv.plugins import cached
    from xinv.types import Apply, Array, Explainer, Key, Variables


    @cached
    def margin(absolute: bool = True) -> Explainer:
        '''The derivative of the logit's lead over the best other class, [H,W,C].

        Args:
          absolute: whether to drop the sign.
        '''
        require_flag(absolute=absolute)

        def explain(
            apply: Apply, variables: Variables, image: Array, label: Array, key: Key
        ) -> jax.Array:
            def lead(image: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits = apply(variables, image[None])[0]
                rivals = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits)
                return logits[label] - rivals.max(), logits

            slope, logits = jax.grad(lead, has_aux=True)(image)
            # A logit that is not finite becomes an error instead of a map
            return door.marked(jnp.abs(slope) if absolute else slope, logits)

        # Bad input gets one sentence; `least` only if fewer classes make no sense
        return door.checked(explain, least=2)

Import it below, name it in `FACTORIES` and give it a row in the first table. From outside of xinv
one line registers it:

    explain.FACTORIES += (margin,)

Configs then have it as `dict(name="margin", normalise="absolute_minmax")` among
`config.explanations`. The contract tests of `tests/test_explain_contract.py` run it unasked, and
`tests/test_explain_parameters.py` asks for a row in its table: another value per parameter.
`xinv.numbers` has checks of numbers, such as `require_positive`.
"""

import sys
from collections.abc import Mapping
from typing import Any

from xinv import plugins
from xinv.explain.anchors import anchors
from xinv.explain.batch import batch
from xinv.explain.cam import (
    class_cams,
    constituent_cams,
    gradcam,
    gradcam_plus_plus,
    guided_gradcam,
)
from xinv.explain.deeplift import deeplift
from xinv.explain.engine.cut import cut, layers
from xinv.explain.gradient import gradient, input_x_gradient, integrated_gradients, saliency
from xinv.explain.guided import deconvolution, guided_backprop
from xinv.explain.lime import lime
from xinv.explain.lrp import lrp
from xinv.explain.noise import smoothgrad, vargrad
from xinv.explain.normalise import SCALES, normalise
from xinv.explain.occlusion import occlusion
from xinv.explain.protodash import protodash
from xinv.explain.shap import kernel_shap, shapley_sampling
from xinv.explain.trajectory import removal_trajectory
from xinv.types import Explainer, InputError

FACTORIES = (
    anchors,
    class_cams,
    constituent_cams,
    deconvolution,
    deeplift,
    gradcam,
    gradcam_plus_plus,
    gradient,
    guided_backprop,
    guided_gradcam,
    input_x_gradient,
    integrated_gradients,
    kernel_shap,
    lime,
    lrp,
    occlusion,
    protodash,
    removal_trajectory,
    saliency,
    shapley_sampling,
    smoothgrad,
    vargrad,
)
__all__ = [
    "FACTORIES",
    "SCALES",
    "batch",
    "build",
    "cut",
    "layers",
    "normalise",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Explainer:
    """Builds an explainer by its name, for example `build("gradcam", upsample="bilinear")`.

    Args:
      name: of the factory.
      given: the pipeline's offers, such as `{"reference": images}`; a factory receives those among
        its parameters.
      hyper: the factory's parameters. A `base` explainer may be its name, too, or a section of its
        name and parameters: `base={"name": "gradcam", "upsample": "bilinear"}`.

    Returns:
      The explainer.

    Raises:
      InputError: an unknown name or parameter; lists those that exist.
    """
    base = hyper.get("base")
    if isinstance(base, str):
        base = {"name": base}
    if isinstance(base, Mapping):
        if "name" not in base:
            raise InputError(f"the base of explainer {name!r} has no name: give that of a factory")
        hyper["base"] = build(given=given, **base)
    return plugins.build(sys.modules[__name__], "explainer", name, hyper, given)
