"""The gradient and what is made of it directly. One forward and one backward pass per map."""

import functools

import jax

from xinv.explain.graph import one
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

SCORES = {"logit": lambda logits: logits, "probability": jax.nn.softmax}
"""What of the logits [K] is explained."""


@functools.cache
def gradient(of: str = "logit") -> Explainer:
    """The derivative of one class's score with respect to the image.

    The map is [H,W,C], in score per unit of intensity (Simonyan et al. 2014; Zhao et al. 2021, section 4.2).

    Args:
      of: "logit", which other libraries explain, or "probability", the prediction after softmax.

    Raises:
      InputError: `of` is neither.
    """
    if of not in SCORES:
        raise InputError(f"of={of!r} is no score to explain: choose one of {', '.join(SCORES)}")

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        return jax.grad(lambda image: SCORES[of](one(apply, variables)(image))[label])(image)

    return explain


@functools.cache
def input_x_gradient(of: str = "logit") -> Explainer:
    """The gradient times the image, elementwise; [H,W,C], in score (Shrikumar et al. 2016). See `gradient`."""
    base = gradient(of)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        return image * base(apply, variables, image, label, key)

    return explain
