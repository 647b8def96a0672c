"""Kinds of equations, by the values that depend on the input, and graphs rewritten by kind."""

from collections.abc import Callable, Iterable, Sequence

import jax

from xinv.explain.engine.graph import CUSTOM, LONGEST, Equation, Graph, Value, evaluate, inside
from xinv.types import InputError

_POINTWISE = """
  abs acos acosh activation add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
  convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
  integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not
  optimization_barrier or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square
  stop_gradient sub tan tanh xor
"""
POINTWISE = frozenset(_POINTWISE.split())
"""Primitives with an output, at each position, of the inputs there alone, for equal shapes."""

_REARRANGING = """
  broadcast_in_dim concatenate convert_element_type copy dynamic_slice dynamic_update_slice
  expand_dims gather name neg pad reduce_precision reshape rev scatter select_n slice split squeeze
  stack stop_gradient transpose
"""
REARRANGING = frozenset(_REARRANGING.split())
"""Primitives that copy each element to some places, if their other operands are constants."""

RESHAPING = frozenset({"expand_dims", "reshape", "squeeze"})
STILL = frozenset(
    {"convert_element_type", "copy", "name", "optimization_barrier", "reduce_precision"}
)
"""Primitives that change neither values, but for rounding, nor their places."""
SHAPING = RESHAPING | {"broadcast_in_dim", "transpose"}
"""Primitives that change nothing but the shape, or repeat values."""
SUMMING = frozenset(
    {"add", "add_any", "cumsum", "linear", "reduce_sum", "reduce_window_sum", "scatter-add", "sub"}
)
"""Primitives that add up values; "linear" is a stretch of sums, see `fused`."""
POOLING = frozenset({"reduce_max", "reduce_window_max"})
SORTING = frozenset({"cummax", "cummin", "reduce_min", "reduce_window_min", "sort", "top_k"})
"""Primitives that select inputs by their values."""
WEIGHTED = frozenset({"conv_general_dilated", "depthwise", "dot_general"})
_DATA = {
    "select_n": slice(1, None),
    "gather": slice(0, 1),
    "dynamic_slice": slice(0, 1),
    "dynamic_update_slice": slice(0, 2),
    "pad": slice(0, 1),
    "scatter": slice(0, 3, 2),
}


_WAYS = {
    "cond": "compute both branches and choose with jnp.where",
    "scan": f"use a loop of at most {LONGEST} steps",
    "while": f"use a jax.lax.scan or fori_loop of a fixed number of steps, at most {LONGEST}",
}
"""Ways to rewrite operations without any rule."""


def dependent(values: Iterable[Value]) -> list[Value]:
    """Lists the values that depend on the input."""
    return [value for value in values if value.constant is None]


def unruled(method: str, equation: Equation, of: str = "values") -> InputError:
    """Makes the error of a method without a rule for an equation, with a way out for its user."""
    way = _WAYS.get(equation.name, "compute it by other operations")
    return InputError(
        f"{method} has no rule for {equation.name!r} of {of} that depend on the image: {way}, or"
        " choose a method that needs no rules, such as integrated_gradients or occlusion"
    )


def is_pointwise(equation: Equation) -> bool:
    """Tells if the output at a position depends on the inputs at that position alone."""
    if equation.name in CUSTOM:
        return all(inner.name in POINTWISE for inner in inside(equation))
    return equation.name in POINTWISE


def is_unary(equation: Equation) -> bool:
    """Tells if the equation is a function of one value, position by position."""
    # Constants may be broadcast, the value must not be.
    values = dependent(equation.inputs)
    return (
        len(values) == 1 and is_pointwise(equation) and values[0].shape == equation.outputs[0].shape
    )


def is_rearranging(equation: Equation) -> bool:
    """Tells if each output is always the same element of the inputs, up to its sign, or fixed."""
    # Indices, tests and padding values must be constants: only data may depend on the input.
    data = equation.inputs[_DATA.get(equation.name, slice(None))]
    return equation.name in REARRANGING and len(dependent(data)) == len(dependent(equation.inputs))


def is_linear(equation: Equation) -> bool:
    """Tells if the equation is linear, up to a constant, in its inputs that are no constants."""
    # A product is linear in one factor, a quotient in its dividend.
    if equation.name in WEIGHTED | {"mul"}:
        return len(dependent(equation.inputs)) == 1
    if equation.name == "div":
        return equation.inputs[1].constant is not None
    return equation.name in SUMMING or is_rearranging(equation)


def is_fixed(equation: Equation) -> bool:
    """Tells if the equation is linear without learned numbers: a sum, a mean, an interpolation."""
    learned = []
    for value in equation.inputs:
        if value.constant is not None and not value.literal:
            learned.append(value)
    return is_linear(equation) and not learned


def fused(graph: Graph) -> Graph:
    """Rewrites stretches between one value and another as single equations.

    A function of one value, position by position, is an "activation": x·sigmoid(x) or where(x >
    0, x, x/10) are seen as such and not as products or choices of two signals; x·x is a
    "square". Sums with a common source, as in x - mean(x), are one "linear" equation. Equal
    equations of equal inputs are one.
    """
    graph = _once(graph)
    position: dict[Value, int] = {}
    equations: list[Equation] = []
    for equation in graph.equations:
        # First try it as a function of one value, position by position.
        steps = interior(equation, equations, position)
        name = "activation"
        if (
            steps is not None
            and equation.name == "mul"
            and all(step.name in STILL for step in steps[1])
        ):
            name = "square"
        if steps is None:
            # Otherwise try it as a sum of one value.
            steps = joined(equation, equations, position, is_fixed)
            name = "linear"
        if steps is not None and all(map(is_rearranging, (*steps[1], equation))):
            # Slices that meet again: each rearranges by itself.
            steps = None
        equations.append(equation if steps is None else stretch(name, equation, *steps))
        position.update(dict.fromkeys(equation.outputs, len(equations) - 1))
    return pruned(graph._replace(equations=tuple(equations)))


def _once(graph: Graph) -> Graph:
    """Removes equations that repeat an earlier one."""
    same: dict[Value, Value] = {}
    first: dict[tuple, Equation] = {}
    kept = []
    for equation in graph.equations:
        inputs = tuple(same.get(value, value) for value in equation.inputs)
        equation = equation._replace(inputs=inputs)
        # Constants of one number are compared by it, all other values by identity.
        values = tuple(
            value if value.number is None else (value.number, value.shape, value.dtype)
            for value in inputs
        )
        # Only cheap equations without randomness or inner functions are compared.
        earlier = equation
        if equation.name in POINTWISE | REARRANGING | {"reduce_max", "reduce_sum"}:
            earlier = first.setdefault((equation.name, repr(equation.params), values), equation)
        if earlier is equation:
            kept.append(equation)
        else:
            same.update(zip(equation.outputs, earlier.outputs, strict=True))
    return graph._replace(equations=tuple(kept), output=same.get(graph.output, graph.output))


def pruned(graph: Graph) -> Graph:
    """Removes equations that the output does not depend on."""
    needed = {graph.output}
    kept = []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    return graph._replace(equations=tuple(kept[::-1]))


def interior(
    equation: Equation,
    equations: Sequence[Equation],
    position: dict[Value, int],
) -> tuple[Value, list[Equation]] | None:
    """Finds the one value that an equation of several operands is a pointwise function of.

    Returns:
      the value and the steps from it, or None; arguments as for `joined`.
    """
    shape = equation.outputs[0].shape

    def pointwise(step: Equation) -> bool:
        return is_pointwise(step) and step.outputs[0].shape == shape

    found = joined(equation, equations, position, pointwise)
    if found is not None and found[0].shape == shape:
        return found
    return None


def joined(
    equation: Equation,
    equations: Sequence[Equation],
    position: dict[Value, int],
    allowed: Callable[[Equation], bool],
) -> tuple[Value, list[Equation]] | None:
    """Finds the one value that several operands of an equation come from.

    Args:
      equation: the end of all ways from that value.
      equations: those before it, in order.
      position: the number of the equation that made each value.
      allowed: true for equations that may lie on the way, the last one among them.

    Returns:
      the value and the steps from it, or None.
    """
    frontier = set(dependent(equation.inputs))
    found = set()
    if len(dependent(equation.inputs)) < 2 or not allowed(equation):
        return None
    # Replace the latest value by its maker's inputs, until all ways have met.
    while len(frontier) > 1:
        latest = max(frontier, key=lambda value: position.get(value, -1))
        number = position.get(latest, -1)
        if number < 0 or not allowed(equations[number]):
            return None
        found.add(number)
        frontier.remove(latest)
        frontier.update(dependent(equations[number].inputs))
    (root,) = frontier
    return root, [equations[number] for number in sorted(found)]


def stretch(
    name: str,
    equation: Equation,
    root: Value,
    inner: Sequence[Equation],
) -> Equation:
    """Makes one equation of the steps from `root` to the outputs of `equation`."""
    # Evaluated anew as a function of `root`, so its derivative is that of all steps.
    steps = [*inner, equation]

    def run(array: jax.Array) -> list[jax.Array]:
        arrays = evaluate(steps, {root: array})
        return [arrays[value] for value in equation.outputs]

    return Equation(name, {}, (root,), equation.outputs, run)
