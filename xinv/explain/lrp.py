"""Layer-wise relevance propagation (Bach et al. 2015): the logit, shared out among the pixels.

A weighted layer z = Σ x·w + b hands relevance back in proportion to its terms; a rule selects and
weighs these. One forward and one backward pass per map, and for each layer the products of its
rule. All other operations:

| operation | rule |
|---|---|
| convolution, matrix product with weights | the composite's; a BatchNorm beside it is folded in |
| function of one value (ReLU, GELU, swish) | passes relevance on |
| sum (residual, mean, interpolation), difference | in proportion to the terms |
| max-pooling, sorting, top_k, choice | all to the element taken |
| normalisation (Layer, Group, Instance, RMS, LRN) | constant scale (Ali et al. 2022), bias |
| BatchNorm without a layer to fold it into | passes relevance on |
| position embedding | a term of a sum, which absorbs its share |
| softmax | x·(R - p ΣR) (AttnLRP, Achtibat et al. 2024, eq. 13) |
| product of two signals (attention, bilinear) | half to each, by the terms (AttnLRP, eq. 15) |
| product with a gate (squeeze-excite, GLU) | to the signal (Arras et al. 2017), or half to each |
| quotient of two signals | all to the dividend |
| softmax, log_softmax or sigmoid at the end | left out, to explain the logits, or refused |
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine import graph as graphs
from xinv.explain.engine import roles
from xinv.explain.engine.backward import EquationContext, Rule, walk
from xinv.explain.engine.graph import CUSTOM, Equation, Graph, Value, one
from xinv.explain.engine.layers import NAME, Layer, is_layer, layered
from xinv.explain.engine.lrp_rules import RULES, stabilised
from xinv.explain.engine.pooling import compared
from xinv.explain.engine.primitives import (
    POOLING,
    SHAPING,
    SORTING,
    SUMMING,
    WEIGHTED,
    dependent,
    fused,
    is_pointwise,
    is_rearranging,
    unruled,
)
from xinv.numbers import (
    described,
    is_number,
    is_one_of,
    optional,
    require,
    require_flag,
    require_not_negative,
)
from xinv.plugins import cached
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

STARTS = ("class", "logits")
POOLS = ("winner", "average")
GATES = ("signal", "uniform")
SUM_EPSILON = 1e-6
"""Epsilon of sums and means of values: without weights it has nothing to do but avoid 0/0."""


class Composite(NamedTuple):
    """The rules of convolutions, of dense layers and of the first layer, and their settings."""

    convolution: str
    dense: str
    first: str | None = None
    epsilon: float = 1e-6
    bias: bool = True
    pool: str = "winner"
    start: str = "class"
    gates: str = "signal"


COMPOSITES = {
    "epsilon": Composite("epsilon", "epsilon"),
    "zplus": Composite("zplus", "zplus"),
    "alpha_beta": Composite("alpha_beta", "alpha_beta"),
    "gamma": Composite("gamma", "gamma"),
    "flat": Composite("flat", "flat"),
    "w2": Composite("w2", "w2"),
    "zbox": Composite("zbox", "zbox"),
    "epsilon_plus": Composite("zplus", "epsilon"),
    "epsilon_plus_flat": Composite("zplus", "epsilon", "flat"),
    "epsilon_alpha2_beta1": Composite("alpha_beta", "epsilon"),
    "epsilon_alpha2_beta1_flat": Composite("alpha_beta", "epsilon", "flat"),
    "epsilon_gamma_box": Composite("gamma", "epsilon", "zbox"),
    "gnime": Composite(
        "zplus",
        "zplus",
        "zplus_ones",
        1e-9,
        False,
        "average",
        "logits",
    ),
}
"""Composites of one rule, by depth (named as in zennit), and of Jeong et al. 2022 ("gnime")."""


@cached
def lrp(
    rule: str = "epsilon_plus",
    epsilon: float | None = None,
    alpha: float | None = None,
    gamma: float | None = None,
    low: float | tuple[float, ...] | None = None,
    high: float | tuple[float, ...] | None = None,
    bias: bool | None = None,
    pool: str | None = None,
    start: str | None = None,
    gates: str = "signal",
) -> Explainer:
    """Layer-wise relevance propagation.

    Args:
      rule: one of `COMPOSITES`: "epsilon", "zplus", "alpha_beta", "gamma", "flat", "w2",
        "zbox" for all layers; "epsilon_plus", "epsilon_alpha2_beta1" (each also with "_flat")
        and "epsilon_gamma_box", named after the rules of dense layers, of convolutions and of
        the first layer; "gnime".
      epsilon: added to each layer's denominators, with their sign. None is 1e-6, for "gnime" 1e-9.
      alpha: of "alpha_beta"; beta is alpha - 1. None is 2.
      gamma: of "gamma", the extra weight of positive weights. None is 0.25.
      low, high: of "zbox", the range of intensities: a number, or one per channel of the image.
        None is 0 and 1. They belong to the image as given: a model's own standardisation or
        resizing applies to them too.
      bias: whether biases absorb relevance; "flat" and "zbox" give a layer's bias none, but those
        of normalisations and positions theirs. None is True, for "gnime" False.
      pool: "winner", or "average" to treat max-pooling as average pooling. None is "winner", for
        "gnime" "average".
      start: "class" hands back the label's logit, "logits" all logits. None is
        "class", for "gnime" "logits".
      gates: "signal" hands the relevance of a product with a gate to the signal (Arras et al. 2017,
        section 3.1); "uniform" half to each (AttnLRP). A gate is a sigmoid, a tanh or their clipped
        forms, or a factor repeated over positions; a product of two others is split in either case.

    Returns:
      An explainer with a map [H,W,C], in logit.

    Raises:
      InputError: unknown `rule`, `pool`, `start` or `gates`, a number out of range, or one
        that `rule` does not read; or the model has an equation, named in the message,
        without a correct rule in LRP.
    """
    composite = _composite(
        rule,
        epsilon=epsilon,
        bias=bias,
        pool=pool,
        start=start,
        gates=gates,
    )
    # A number without effect under this rule is refused, not ignored.
    used = {composite.convolution, composite.dense, composite.first}
    alpha = optional("alpha", alpha, 2.0, "LRP's alpha_beta", "alpha_beta" in used)
    gamma = optional("gamma", gamma, 0.25, "LRP's gamma", "gamma" in used)
    low = optional("low", low, 0.0, "LRP's zbox", "zbox" in used)
    high = optional("high", high, 1.0, "LRP's zbox", "zbox" in used)
    low, high = _box(composite, low, high)
    require(
        is_number(alpha) and alpha >= 1,
        "alpha",
        alpha,
        "finite and at least 1",
    )
    require_not_negative(gamma=gamma, epsilon=composite.epsilon)
    parameters = {"alpha_beta": {"alpha": float(alpha)}, "gamma": {"gamma": float(gamma)}}

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # Rewrite the model until each equation is one operation of the table above.
        graph = fused(
            graphs.trace(
                one(apply, variables),
                image,
                lambda e: e.name not in CUSTOM,
            )
        )
        graph = roles.headless(roles.softmaxes(graph))
        # Rules depend on the role of values: scales, gates, sums of a softmax.
        held = roles.scales(graph.equations)
        normalised = frozenset(roles.normalised(graph.equations, held))
        graph = layered(compared(graph), normalised)
        bounds = _bounds(graph, held, image, low, high) if "zbox" in used else {}
        gates = roles.Gates(graph)
        sums = roles.partitions(graph.equations)
        rules = _Rules(composite, parameters, held, normalised, gates, bounds, sums)
        logits, pull = walk(graph, image, rules)
        # The signal at the output is relevance, so the logits themselves.
        if composite.start == "logits":
            chosen = logits
        else:
            chosen = logits * jax.nn.one_hot(label, len(logits))
        return door.marked(pull(chosen.astype(logits.dtype)), logits)

    return explain


def _composite(rule: str, **given: float | bool | str | None) -> Composite:
    """Returns the composite of that name, with the given fields replaced."""
    if not is_one_of(rule, COMPOSITES):
        raise InputError(
            f"rule={described(rule)} is no LRP rule: choose one of {', '.join(COMPOSITES)}"
        )
    # None leaves the composite's own setting.
    composite = COMPOSITES[rule]._replace(
        **{name: value for name, value in given.items() if value is not None}
    )
    require_flag(bias=composite.bias)
    for name, allowed in ("pool", POOLS), ("start", STARTS), ("gates", GATES):
        value = getattr(composite, name)
        if not is_one_of(value, allowed):
            raise InputError(
                f"{name}={described(value)} is unknown to lrp: choose one of {', '.join(allowed)}"
            )
    return composite


def _box(composite: Composite, *ends: float | tuple[float, ...]) -> list[np.ndarray]:
    """Returns the ends of the z-box as arrays [] or [C].

    Raises:
      InputError: they are not finite, or low <= 0 <= high does not hold for a box of all layers,
        most of whose inputs are 0 somewhere.
    """
    try:
        low, high = (np.asarray(end) for end in ends)
    except ValueError:  # ragged
        low = high = np.asarray(None)
    # Numbers in order, then the stricter needs of a box for every layer.
    numbers = all(
        end.dtype.kind in "fiu" and end.ndim <= 1 and np.isfinite(end).all() for end in (low, high)
    )
    given = " and ".join(
        f"{name}={described(end)}" for name, end in zip(("low", "high"), ends, strict=True)
    )
    if not numbers or (low.ndim and high.ndim and len(low) != len(high)) or (low > high).any():
        raise InputError(
            f"{given} are no range: give finite numbers, or one per channel, low <= high"
        )
    if "zbox" in (composite.convolution, composite.dense):
        if low.ndim + high.ndim:
            raise InputError(
                "bounds per channel are the image's: choose epsilon_gamma_box, whose zbox treats no"
                " other"
            )
        if not low <= 0 <= high:
            raise InputError(
                f"{given} leave out 0, which layers read: choose epsilon_gamma_box for the image's"
                " range"
            )
    return [np.float32(low), np.float32(high)]


def _bounds(
    graph: Graph,
    held: set[Value],
    image: Array,
    low: np.ndarray,
    high: np.ndarray,
) -> dict[Value | None, list[Array]]:
    """Finds the range of each first layer's input, for an image between `low` and `high`.

    The entry of None is the range of all other layers' inputs.
    """
    # Collect the equations between the image and its first layers.
    first = [e for e in graph.equations if e.name == NAME and e.params["layer"].first]
    needed = {value for equation in first for value in equation.inputs}
    upstream = []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            upstream.append(equation)
    # An image's own mean or maximum has no fixed range: the box would be wrong.
    for equation in upstream:
        if (
            equation.name in {"linear", *SORTING, *POOLING, "reduce_sum"}
            or roles.is_held(equation, held) is not None
        ):
            raise InputError(
                "zbox needs the range of what the first layer reads, which this model shifts or"
                " scales by statistics of each image: choose another rule for the first layer, such"
                " as epsilon_plus_flat"
            )
    # Moves and casts keep a range of one number, and 0 stays known as 0.
    if low.ndim + high.ndim == 0 and all(
        equation.name in SHAPING | {"convert_element_type"} for equation in upstream
    ):
        return {None: [low, high]}
    for end in low, high:
        if end.ndim and len(end) != image.shape[-1]:
            raise InputError(
                f"a bound has {len(end)} numbers but the image {image.shape[-1]} channels"
            )
    # Send both ends through the standardisation; a negative scale swaps them.
    ends = [jnp.broadcast_to(end, image.shape).astype(image.dtype) for end in (low, high)]
    arrays = [graphs.evaluate(upstream[::-1], {graph.input: end}) for end in ends]
    pairs = {}
    for e in first:
        pairs[e.inputs[0]] = [graphs.read(found, e.inputs)[0] for found in arrays]
    return {None: [low, high]} | {
        value: [jnp.minimum(*pair), jnp.maximum(*pair)] for value, pair in pairs.items()
    }


class _Rules(NamedTuple):
    """Chooses the rule of each equation.

    Attributes:
      composite: the rules of layers.
      parameters: those of each rule.
      held: scales of normalisations, treated as constants.
      normalised: results of a product with such a scale.
      gates: ranks the factors of products.
      bounds: ranges of the inputs of first layers.
      partitions: sums of exponentials outside any known softmax.
    """

    composite: Composite
    parameters: dict[str, dict[str, float]]
    held: set[Value]
    normalised: frozenset[Value]
    gates: roles.Gates
    bounds: dict[Value | None, list[Array]]
    partitions: set[Value]

    def __call__(self, equation: Equation) -> Rule | None:
        """Returns the rule of an equation; None if no signal flows through it."""
        if not any(value.carries for value in equation.outputs):
            return None
        if equation.name == NAME:
            return self._layer(equation)
        # The order matters: a rule of the table comes before a more general one.
        small = min(self.composite.epsilon, SUM_EPSILON)
        if equation.name in POOLING and self.composite.pool == "average":
            return functools.partial(_average, small)
        if any(value.carries for value in equation.inputs):
            if equation.name == roles.SOFTMAX:
                return functools.partial(_softmax, equation.params["axes"])
            if equation.name in ("mul", "div", *WEIGHTED) and len(dependent(equation.inputs)) == 2:
                return self._product(equation)
            if self.composite.bias and _absorbs(equation, self.normalised):
                return functools.partial(_proportional, self.composite.epsilon)
            if is_pointwise(equation) and len(dependent(equation.inputs)) == 1:
                # If a constant repeats the value, the engine sums over the repetitions.
                return _pass
            if equation.name in SUMMING or (equation.name in WEIGHTED and not is_layer(equation)):
                return functools.partial(_proportional, small)
            if (
                is_rearranging(equation)
                or equation.name in {"max", "min", "select_n"} | POOLING | SORTING | MOVING
            ):
                return EquationContext.derivative
        raise unruled("lrp", equation)

    def _layer(self, equation: Equation) -> Rule:
        """Returns the rule of a weighted layer: by its place, first, dense or convolution."""
        layer: Layer = equation.params["layer"]
        name = self.composite.dense if layer.dense else self.composite.convolution
        name = self.composite.first if layer.first and self.composite.first else name
        # Without a bias in the denominator, none of the relevance is absorbed.
        if not self.composite.bias:
            layer = layer._replace(bias=jnp.zeros_like(layer.bias))
        parameters = self.parameters.get(name, {})
        if name == "zbox":
            low, high = self.bounds.get(equation.inputs[0], self.bounds[None])
            parameters = {"low": low, "high": high}
        rule = functools.partial(RULES[name], **parameters)
        return lambda context: [
            rule(
                layer,
                context.inputs[0],
                context.signals[0],
                self.composite.epsilon,
            )
        ]

    def _product(self, equation: Equation) -> Rule:
        """Returns the rule of a product or quotient of two values of the image."""
        if self.partitions.intersection(equation.inputs):
            raise InputError(
                "lrp has no rule for a quotient of exponentials and their sum that is no softmax:"
                " if it is meant to be one, write it as jax.nn.softmax"
            )
        # A scale is held, a divisor receives nothing, a gate gives way to its signal.
        signal = roles.is_held(equation, self.held)
        if signal is None and equation.name == "div":
            signal = 0
        if signal is None and equation.name == "mul" and self.composite.gates == "signal":
            shape = equation.outputs[0].shape
            # The factor that looks less like a gate is the signal; equals share.
            left, right = (self.gates.rank(value, shape) for value in equation.inputs)
            signal = None if left == right else int(left > right)
        if signal is None:
            return functools.partial(_uniform, min(self.composite.epsilon, SUM_EPSILON))
        return lambda context: [context.signals[0] if place == signal else None for place in (0, 1)]


MOVING = frozenset({"dynamic_slice", "dynamic_update_slice", "gather", "pad", "scatter"})
"""Primitives that copy elements to places that may depend on the image."""


def _absorbs(equation: Equation, normalised: frozenset[Value]) -> bool:
    """Tells if the equation adds a bias: a normalisation's shift, or one varying over positions."""
    if equation.name not in ("add", "sub") or len(dependent(equation.inputs)) != 1:
        return False
    # One along a single axis belongs to a layer; along several, it is a position embedding.
    left, right = equation.inputs
    value, shift = (left, right) if left.constant is None else (right, left)
    return value in normalised or sum(size > 1 for size in shift.shape) > 1


def _pass(context: EquationContext) -> list[jax.Array | None]:
    """Passes relevance on, unchanged."""
    return [context.signals[0] if value.carries else None for value in context.equation.inputs]


def _proportional(epsilon: float, context: EquationContext) -> list[jax.Array | None]:
    """Gives each term of a sum its share of it."""
    # Of a linear function Σ c·x, the derivative times x gives the terms.
    back = context.derivative(context.signals[0] / stabilised(context.outputs[0], epsilon))
    found = []
    for value, share in zip(context.inputs, back, strict=True):
        found.append(share if share is None else value * share)
    return found


def _uniform(epsilon: float, context: EquationContext) -> list[jax.Array | None]:
    """Gives the terms of a bilinear function their share, half to each factor."""
    # Half of a share with ε/2 has the denominator 2z + ε of AttnLRP's eq. 15.
    return [share / 2 for share in _proportional(epsilon / 2, context)]


def _softmax(axes: tuple[int, ...], context: EquationContext) -> list[jax.Array | None]:
    """x·(R - p ΣR), the first term of a Taylor series at x; its constant term absorbs the rest."""
    (value,), (share,), (relevance,) = context.inputs, context.outputs, context.signals
    return [value * (relevance - share * relevance.sum(axes, keepdims=True))]


def _average(epsilon: float, context: EquationContext) -> list[jax.Array | None]:
    """Treats max-pooling as the sum over its window."""
    params, (value,) = context.equation.params, context.inputs

    def run(value: jax.Array) -> jax.Array:
        if context.equation.name == "reduce_max":
            return value.sum(params["axes"])
        # The same windows, with a sum in place of the maximum.
        shape = params["window_dimensions"], params["window_strides"], params["padding"]
        return jax.lax.reduce_window(
            value,
            0.0,
            jax.lax.add,
            *shape,
            params["base_dilation"],
            params["window_dilation"],
        )

    # A mean in place of the sum would give the same shares.
    output, pull = jax.vjp(run, value)
    return [value * pull(context.signals[0] / stabilised(output, epsilon))[0]]
