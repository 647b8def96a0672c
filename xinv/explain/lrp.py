"""Layer-wise relevance propagation (Bach et al. 2015): the logit, handed back to the pixels in proportion.

A layer z = Σ x·w + b hands relevance back by the shares of its terms; which terms count is the rule. Sums (residual,
average pooling) share by their terms, max-pooling hands all to the winner, and a function of one value passes its
relevance on. One forward and one backward pass per map, and for each layer the products that its rule needs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xinv.explain import graph as graphs
from xinv.explain.backward import Rule, Site, walk
from xinv.explain.graph import CUSTOM, Equation, one
from xinv.explain.kinds import POOLING, SUMMING, fused, is_rearranging, is_unary
from xinv.explain.layers import NAME, Layer, layered
from xinv.explain.pooling import compared
from xinv.explain.shares import SHARES, stabilised
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

STARTS = ("class", "logits")
POOLS = ("winner", "average")
SUM_EPSILON = 1e-6
"""Sums and means of values have no weights to be robust against: their epsilon only keeps 0/0 away."""


class Composite(NamedTuple):
    """Which rule treats which layers, and what goes with it."""

    convolution: str
    dense: str
    first: str | None = None
    epsilon: float = 1e-6
    bias: bool = True
    pool: str = "winner"
    start: str = "class"


RULES = {name: Composite(name, name) for name in ("epsilon", "zplus", "alpha_beta", "gamma", "flat", "w2", "zbox")} | {
    "epsilon_plus": Composite("zplus", "epsilon"),
    "epsilon_plus_flat": Composite("zplus", "epsilon", "flat"),
    "epsilon_alpha2_beta1": Composite("alpha_beta", "epsilon"),
    "epsilon_alpha2_beta1_flat": Composite("alpha_beta", "epsilon", "flat"),
    "epsilon_gamma_box": Composite("gamma", "epsilon", "zbox"),
    "gnime": Composite("zplus", "zplus", "zplus_ones", 1e-9, False, "average", "logits"),
}
"""Rules for all layers, composites by depth (named as in zennit), and that of Jeong et al. 2022."""


@functools.cache
def lrp(
    rule: str = "epsilon_plus",
    epsilon: float | None = None,
    alpha: float = 2.0,
    gamma: float = 0.25,
    low: float = 0.0,
    high: float = 1.0,
    bias: bool | None = None,
    pool: str | None = None,
    start: str | None = None,
) -> Explainer:
    """Layer-wise relevance propagation. The map [H,W,C] is in logit.

    Args:
      rule: one of `RULES`: "epsilon", "zplus", "alpha_beta", "gamma", "flat", "w2", "zbox" for all layers;
        "epsilon_plus", "epsilon_alpha2_beta1" (each also with "_flat") and "epsilon_gamma_box", whose first name is the
        rule of dense layers, the second of convolutions and the third of the first layer; "gnime".
      epsilon: added to each layer's denominators, with their sign. None is 1e-6, for "gnime" 1e-9.
      alpha: of "alpha_beta"; beta is alpha - 1.
      gamma: of "gamma", how much more positive weights count.
      low, high: of "zbox", the range of intensities.
      bias: whether biases absorb relevance. None is True, for "gnime" False.
      pool: "winner", or "average" to treat max-pooling as average pooling. None is "winner", for "gnime" "average".
      start: "class" hands back the label's logit, "logits" all logits. None is "class", for "gnime" "logits".

    Raises:
      InputError: unknown `rule`, `pool` or `start`, or a number out of range; or the model has an equation, named in
        the message, that LRP has no sound rule for.
    """
    composite = _composite(rule, epsilon=epsilon, bias=bias, pool=pool, start=start)
    if alpha < 1 or gamma < 0 or low > 0 or high < 0:
        raise InputError(f"need alpha >= 1, gamma >= 0 and low <= 0 <= high: got {alpha}, {gamma}, {low} and {high}")
    parameters = {"alpha_beta": {"alpha": alpha}, "gamma": {"gamma": gamma}, "zbox": {"low": low, "high": high}}
    rules = functools.partial(_rules, composite, parameters)

    def explain(apply: Apply, variables: Variables, image: Array, label: Array, key: Key) -> jax.Array:
        graph = layered(compared(fused(graphs.trace(one(apply, variables), image, lambda e: e.name not in CUSTOM))))
        logits, pull = walk(graph, image, rules)
        return pull(logits if composite.start == "logits" else logits * jax.nn.one_hot(label, len(logits)))

    return explain


def _composite(rule: str, **given: float | bool | str | None) -> Composite:
    """The composite of that name, with the fields that were given."""
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is no LRP rule: choose one of {', '.join(RULES)}")
    composite = RULES[rule]._replace(**{name: value for name, value in given.items() if value is not None})
    for name, value, allowed in ("pool", composite.pool, POOLS), ("start", composite.start, STARTS):
        if value not in allowed:
            raise InputError(f"{name}={value!r} is unknown to lrp: choose one of {', '.join(allowed)}")
    return composite


def _rules(composite: Composite, parameters: dict[str, dict[str, float]], equation: Equation) -> Rule | None:
    if not any(slot.carries for slot in equation.outputs):
        return None
    if equation.name == NAME:
        return _layer_rule(composite, parameters, equation.params["layer"])
    if equation.name in POOLING and composite.pool == "average":
        return functools.partial(_average, min(composite.epsilon, SUM_EPSILON))
    if any(slot.carries for slot in equation.inputs):
        if is_unary(equation) or equation.name == "stop_gradient":
            return _pass
        if is_rearranging(equation) or equation.name in POOLING | {"max", "min"}:
            return Site.derivative
        if equation.name in SUMMING:
            return functools.partial(_proportional, min(composite.epsilon, SUM_EPSILON))
    raise InputError(f"lrp has no rule for {equation.name!r} of values that depend on the image")


def _layer_rule(composite: Composite, parameters: dict[str, dict[str, float]], layer: Layer) -> Rule:
    name = composite.dense if layer.dense else composite.convolution
    name = composite.first if layer.first and composite.first else name
    layer = layer if composite.bias else layer._replace(bias=jnp.zeros_like(layer.bias))
    share = functools.partial(SHARES[name], **parameters.get(name, {}))
    return lambda site: [share(layer, site.inputs[0], site.signals[0], composite.epsilon)]


def _pass(site: Site) -> list[jax.Array | None]:
    return [site.signals[0] if slot.carries else None for slot in site.equation.inputs]


def _proportional(epsilon: float, site: Site) -> list[jax.Array | None]:
    """Each term of a sum receives its share of it."""
    back = site.derivative(site.signals[0] / stabilised(site.outputs[0], epsilon))
    return [share if share is None else value * share for value, share in zip(site.inputs, back, strict=True)]


def _average(epsilon: float, site: Site) -> list[jax.Array | None]:
    """Max-pooling, as if it were the sum over its window."""
    params, (value,) = site.equation.params, site.inputs

    def run(value: jax.Array) -> jax.Array:
        if site.equation.name == "reduce_max":
            return value.sum(params["axes"])
        shape = params["window_dimensions"], params["window_strides"], params["padding"]
        return jax.lax.reduce_window(
            value, 0.0, jax.lax.add, *shape, params["base_dilation"], params["window_dilation"]
        )

    output, pull = jax.vjp(run, value)
    return [value * pull(site.signals[0] / stabilised(output, epsilon))[0]]
