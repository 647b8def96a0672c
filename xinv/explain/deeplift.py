"""DeepLIFT's rescale rule. Two forward passes, image and baseline, and one backward pass per map.

The multiplier of a function of one value is its change over its input's change. Products of two
values of the image have the multipliers of their midpoint, maxima pass their change to the winners,
and a normalisation is taken at the smaller of its two scales. With these rules the map sums to the
change of the logit, for every model.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine import graph as graphs
from xinv.explain.engine import roles
from xinv.explain.engine.backward import EquationContext, Rule, walk
from xinv.explain.engine.graph import CUSTOM, Equation, Value, one
from xinv.explain.engine.pooling import compared
from xinv.explain.engine.primitives import (
    POOLING,
    SORTING,
    WEIGHTED,
    fused,
    is_linear,
    is_pointwise,
    is_unary,
    unruled,
)
from xinv.numbers import require_flag
from xinv.plugins import cached
from xinv.types import Apply, Array, Explainer, Key, Variables

SMALLEST = 1e-10
"""Changes of an input below this count as none: the derivative is the multiplier, as in captum."""
ROUNDINGS = 4
"""Changes of a result by fewer units in its last place count as none."""


@cached
def deeplift(
    baseline: float | tuple[float, ...] | np.ndarray = 0.0, multiply_by_inputs: bool = True
) -> Explainer:
    """DeepLIFT with the rescale rule (Shrikumar et al. 2017, section 3.5.1).

    Args:
      baseline: an intensity, one per channel or an image [H,W,C].
      multiply_by_inputs: False leaves the multipliers, in logit per unit of intensity.

    Returns:
      An explainer with a map [H,W,C], in logit; it sums to logit(image) - logit(baseline).

    Raises:
      InputError: the model has an equation, named in the message, that is neither
        linear nor treated here.
    """
    baseline = door.baseline(baseline)
    require_flag(multiply_by_inputs=multiply_by_inputs)

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        start = door.filled(baseline, image)
        # Functions with an own derivative are inlined, unless they are functions of one value.
        graph = compared(
            fused(
                graphs.trace(
                    one(apply, variables),
                    image,
                    lambda e: e.name not in CUSTOM or is_unary(e),
                )
            )
        )
        # The walk evaluates both inputs, so that each rule sees the change of its equation.
        rules = functools.partial(_rules, roles.scales(graph.equations))
        logits, pull = walk(graph, image, rules, start)
        multipliers = pull(jax.nn.one_hot(label, len(logits), dtype=logits.dtype))
        return door.marked(
            multipliers * (image - start) if multiply_by_inputs else multipliers, logits
        )

    return explain


def _rules(held: set[Value], equation: Equation) -> Rule | None:
    """Chooses the rule of an equation; None leaves its own derivative."""
    if not any(value.carries for value in equation.outputs):
        return None
    # It blocks gradients, but a change of the value still changes the output.
    if equation.name == "stop_gradient":
        return lambda context: context.signals
    if not any(value.carries for value in equation.inputs):
        raise unruled("deeplift", equation, "integers")
    if is_linear(equation):
        return None
    # From special to general: the first rule that fits is taken.
    if equation.name in POOLING:
        return _winners
    if is_unary(equation):
        return _rescale
    signal = roles.is_held(equation, held)
    if signal is not None:
        return functools.partial(_normalise, signal)
    if equation.name in WEIGHTED | {"mul"}:
        return _midpoint
    if equation.name == "div":
        return _quotient
    if is_pointwise(equation):
        return _nearest
    if equation.name in SORTING and len(equation.inputs) == 1:
        return functools.partial(_nearest, axis=equation.params.get("dimension", -1))
    raise unruled("deeplift", equation)


def _ratio(change: jax.Array, by: jax.Array, otherwise: jax.Array) -> jax.Array:
    """Returns change / by, or `otherwise` where `by` is too small to divide by."""
    small = jnp.abs(by) < SMALLEST
    return jnp.where(small, otherwise, change / jnp.where(small, 1, by))


def _rescale(context: EquationContext) -> list[jax.Array | None]:
    """Eq. 11: signal · Δy/Δx."""
    (others, (other,)), (output,) = context.reference, context.outputs
    (signal,) = context.signals
    rounding = ROUNDINGS * jnp.finfo(output.dtype).eps
    rounding *= jnp.maximum(jnp.abs(output), jnp.abs(other))
    # The derivative is the limit of the ratio, for inputs that do not change.
    slopes = context.derivative()
    changes = zip(context.inputs, others, slopes, strict=True)
    found = []
    for x, x0, s in changes:
        if s is None:
            found.append(None)
            continue
        ratio = _ratio(signal * (output - other), x - x0, s)
        # A change of y by its last digits alone is noise, which a tiny Δx would make large.
        noise = jnp.abs(output - other) <= rounding
        noise &= jnp.abs(s * (x - x0)) <= rounding * jnp.abs(signal)
        found.append(jnp.where(noise, s, ratio))
    return found


def _midpoint(context: EquationContext) -> list[jax.Array | None]:
    """Δ(xy) = Δx·(y + y0)/2 + Δy·(x + x0)/2, which holds for any bilinear function."""
    # The derivative of a bilinear function at the midpoint is exactly this multiplier.
    middle = []
    for x, x0 in zip(context.inputs, context.reference[0], strict=True):
        middle.append((x + x0) / 2)
    return context._replace(inputs=middle).derivative()


def _quotient(context: EquationContext) -> list[jax.Array | None]:
    """Δ(x/y) = Δx·(1/y + 1/y0)/2 - Δy·(x + x0)/(2·y·y0)."""
    (x, y), ((x0, y0), _) = context.inputs, context.reference
    # The dividend's multiplier, then the divisor's; a constant dividend has none.
    to_x = context.signals[0] * (1 / y + 1 / y0) / 2
    to_y = -context.signals[0] * (x + x0) / (2 * y * y0)
    return [to_x if context.equation.inputs[0].carries else None, to_y]


def _normalise(place: int, context: EquationContext) -> list[jax.Array | None]:
    """Δ(xs) = Δx·s + Δs·x0 if |s| < |s0|, otherwise Δx·s0 + Δs·x.

    The midpoint of both is exact too. But a constant baseline has variance 0 and thus a scale s0 of
    a thousand, and terms of such a size would have to cancel.
    """
    ((x0, y0), (x, y)) = (
        (values[place], values[1 - place]) for values in (context.reference[0], context.inputs)
    )
    signal = context.signals[0]
    quotient = context.equation.name == "div"
    s, s0 = (1 / y, 1 / y0) if quotient else (y, y0)
    # Whichever scale is the smaller multiplies Δx, the other end's x multiplies Δs.
    smaller = jnp.abs(s) < jnp.abs(s0)
    to_scale = signal * jnp.where(smaller, x0, x)
    if quotient:
        # Of x / y the scale is s = 1/y, and Δs = -s·s0·Δy.
        to_scale *= -s * s0
    back = [signal * jnp.where(smaller, s, s0), to_scale]
    if place == 0:
        return back
    return back[::-1]


def _nearest(context: EquationContext, axis: int | None = None) -> list[jax.Array | None]:
    """Gives the multipliers, nearest to the mean derivative of both ends, that explain the change.

    For a pointwise function of several values; with `axis`, for a function of the values along an
    axis, such as a sort.
    """
    others = context.reference[0]
    slopes = context.derivative()
    at_both = zip(slopes, context._replace(inputs=others).derivative(), strict=True)
    # Start from the mean of the derivatives at the image and at the baseline.
    back = []
    for slope, other in at_both:
        back.append(None if slope is None else (slope + other) / 2)
    places = [place for place, slope in enumerate(back) if slope is not None]
    moves = {place: context.inputs[place] - others[place] for place in places}
    outputs = zip(
        context.signals,
        context.outputs,
        context.reference[1],
        context.equation.outputs,
        strict=True,
    )
    change = sum(signal * (y - y0) for signal, y, y0, value in outputs if value.carries)
    # They leave a part of the output's change unexplained.
    missing, size = change, 0
    if axis is not None:
        missing = change.sum(axis, keepdims=True)
    for place, move in moves.items():
        known = back[place] * move
        square = move**2
        missing -= known if axis is None else known.sum(axis, keepdims=True)
        size += square if axis is None else square.sum(axis, keepdims=True)
    # Add it in proportion to each input's change: the correction of least norm.
    share = _ratio(missing, size, jnp.zeros_like(missing))
    corrected = []
    for place, slope in enumerate(back):
        corrected.append(None if slope is None else slope + share * moves[place])
    return corrected


def _winners(context: EquationContext) -> list[jax.Array | None]:
    """Sends max(y, y0) - y0 to the maximum of the image, the rest of y - y0 to the baseline's."""
    ((x,), (y,)), ((x0,), (y0,)) = (context.inputs, context.outputs), context.reference
    # As in the rescale rule of captum's max-pool: up at the image's winner, down at the baseline's.
    larger = jnp.maximum(y, y0)
    up = _to_winners(context, x, context.signals[0] * (larger - y0))
    down = _to_winners(context, x0, context.signals[0] * (y - larger))
    return [_ratio(up + down, x - x0, _to_winners(context, x, context.signals[0]))]


def _to_winners(
    context: EquationContext,
    x: jax.Array,
    signal: jax.Array,
) -> jax.Array:
    """The derivative of a maximum at x, for a given signal."""
    if context.equation.name != "reduce_max":
        return context._replace(inputs=[x]).derivative(signal)[0]
    # XLA may compute x twice, rounded otherwise: then none equals the maximum, and JAX's own
    # derivative is 0/0.
    axes = context.equation.params["axes"]
    winners = (x == x.max(axes, keepdims=True)).astype(x.dtype)
    # Ties share the signal; where rounding hides the winner, the first largest takes it.
    count = winners.sum(axes, keepdims=True)
    last = tuple(range(x.ndim - len(axes), x.ndim))
    rows = jnp.moveaxis(x, axes, last)
    first = jax.nn.one_hot(
        rows.reshape(*rows.shape[: last[0]], -1).argmax(-1), math.prod(rows.shape[last[0] :])
    )
    first = jnp.moveaxis(first.reshape(rows.shape).astype(x.dtype), last, axes)
    return jnp.expand_dims(signal, axes) * jnp.where(
        count > 0, winners / jnp.maximum(count, 1), first
    )
