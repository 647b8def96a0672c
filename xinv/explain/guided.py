"""Backward passes that treat ReLUs in their own way. One forward and one backward pass per map.

A ReLU is recognised by what it computes and not by its name: a maximum with 0, the minimum with a constant of a ReLU6,
a clamp from 0, written by hand or inside `jax.nn.relu` and `jax.nn.relu6`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from xinv.explain.backward import Rule, Site, vjp
from xinv.explain.graph import Equation, one
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables


@functools.cache
def deconvolution() -> Explainer:
    """The gradient whose signal each ReLU rectifies, whatever its input (Zeiler and Fergus 2014). The map is [H,W,C].

    Raises:
      InputError: the model has no ReLU.
    """
    return _rectified("deconvolution", lambda site: jax.nn.relu(site.signals[0]))


@functools.cache
def guided_backprop() -> Explainer:
    """The gradient whose signal each ReLU rectifies, besides masking it (Springenberg et al. 2015). The map is [H,W,C].

    Raises:
      InputError: the model has no ReLU.
    """
    return _rectified("guided_backprop", _guided)


def is_relu(equation: Equation) -> bool:
    """Whether it is a ReLU or one of the two halves of a ReLU6."""
    if equation.name == "clamp":
        return equation.inputs[0].is_all(0) and equation.inputs[1].carries
    carried = any(slot.carries for slot in equation.inputs)
    upper = equation.name == "min" and any(slot.static for slot in equation.inputs)
    return carried and (upper or (equation.name == "max" and any(slot.is_all(0) for slot in equation.inputs)))


def _guided(site: Site) -> jax.Array:
    """Eq. in section 3.4: R = (x > 0)·(R > 0)·R, and x < 6 for a ReLU6; strictly, whatever the derivative at ties."""
    if site.equation.name == "clamp":
        low, value, high = site.inputs
        active = (value > low) & (value < high)
    else:
        left, right = site.inputs if site.equation.inputs[0].carries else site.inputs[::-1]
        active = left > right if site.equation.name == "max" else left < right
    return jnp.where(active, jax.nn.relu(site.signals[0]), 0)


def _rectified(name: str, back: Callable[[Site], jax.Array]) -> Explainer:
    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        found = []

        def rules(equation: Equation) -> Rule | None:
            if not is_relu(equation):
                return None
            found.append(equation)
            return lambda site: [back(site) if slot.carries else None for slot in equation.inputs]

        logits, pull = vjp(one(apply, variables), image, rules)
        if not found:
            raise InputError(f"{name} changes the backward pass of ReLUs, and the model has none")
        return pull(jax.nn.one_hot(label, len(logits), dtype=logits.dtype))

    return explain
