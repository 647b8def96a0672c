"""What kind of function each equation is of the values that depend on the input, and graphs rewritten by kind."""

from collections.abc import Iterable, Sequence

import jax

from xinv.explain.graph import CUSTOM, Equation, Graph, Slot, evaluate, inside

_POINTWISE = """
  abs activation add add_any and ceil clamp convert_element_type copy cos div eq erf exp exp2 expm1 floor
  ge gt integer_pow is_finite le log log1p logistic lt max min mul name ne neg not or pow round rsqrt
  select_n sign sin sqrt square stop_gradient sub tan tanh xor
"""
POINTWISE = frozenset(_POINTWISE.split())
"""Primitives whose output at a position depends on their inputs at that position alone, where shapes are equal."""

_REARRANGING = """broadcast_in_dim concatenate convert_element_type copy dynamic_slice expand_dims gather name neg pad
  reshape rev select_n slice squeeze stop_gradient transpose"""
REARRANGING = frozenset(_REARRANGING.split())
"""Primitives that copy each element to some places, where their other operands do not depend on the input."""

SUMMING = frozenset({"add", "add_any", "cumsum", "reduce_sum", "reduce_window_sum", "sub"})
POOLING = frozenset({"reduce_max", "reduce_window_max"})
WEIGHTED = frozenset({"conv_general_dilated", "depthwise", "dot_general"})
_DATA = {"select_n": slice(1, None), "gather": slice(0, 1), "dynamic_slice": slice(0, 1), "pad": slice(0, 1)}


def dependent(slots: Iterable[Slot]) -> list[Slot]:
    """Those that depend on the input."""
    return [slot for slot in slots if slot.constant is None]


def is_pointwise(equation: Equation) -> bool:
    """Whether the output at a position depends on the inputs at that position alone."""
    if equation.name in CUSTOM:
        return all(inner.name in POINTWISE for inner in inside(equation))
    return equation.name in POINTWISE


def is_unary(equation: Equation) -> bool:
    """Whether it is a function of one value, position by position."""
    values = dependent(equation.inputs)
    return len(values) == 1 and is_pointwise(equation) and values[0].shape == equation.outputs[0].shape


def is_rearranging(equation: Equation) -> bool:
    """Whether each of its outputs is plus or minus one element of its inputs, always the same one, or a constant."""
    data = equation.inputs[_DATA.get(equation.name, slice(None))]
    return equation.name in REARRANGING and len(dependent(data)) == len(dependent(equation.inputs))


def is_linear(equation: Equation) -> bool:
    """Whether it is linear, up to a constant, in what depends on the input."""
    if equation.name in WEIGHTED | {"mul"}:
        return len(dependent(equation.inputs)) == 1
    if equation.name == "div":
        return equation.inputs[1].constant is not None
    return equation.name in SUMMING or is_rearranging(equation)


def fused(graph: Graph) -> Graph:
    """Every function of one value, position by position, as one equation named "activation".

    So x·sigmoid(x) or where(x > 0, x, x/10) are seen as what they are and not as products or choices of two signals.
    """
    position: dict[Slot, int] = {}
    equations: list[Equation] = []
    for equation in graph.equations:
        steps = interior(equation, equations, position)
        equations.append(equation if steps is None else _activation(equation, *steps))
        position.update(dict.fromkeys(equation.outputs, len(equations) - 1))
    return pruned(graph._replace(equations=tuple(equations)))


def pruned(graph: Graph) -> Graph:
    """Without the equations that the output does not depend on."""
    needed, kept = {graph.output}, []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    return graph._replace(equations=tuple(kept[::-1]))


def interior(
    equation: Equation, equations: Sequence[Equation], position: dict[Slot, int]
) -> tuple[Slot, list[Equation]] | None:
    """The one value that an equation with several dependent operands is a pointwise function of, and the way there."""
    shape, frontier, found = equation.outputs[0].shape, set(dependent(equation.inputs)), set()
    if len(dependent(equation.inputs)) < 2 or not is_pointwise(equation):
        return None
    while len(frontier) > 1:
        latest = max(frontier, key=lambda slot: position.get(slot, -1))
        number = position.get(latest, -1)
        if number < 0 or latest.shape != shape or not is_pointwise(equations[number]):
            return None
        found.add(number)
        frontier.remove(latest)
        frontier.update(dependent(equations[number].inputs))
    (root,) = frontier
    return (root, [equations[number] for number in sorted(found)]) if root.shape == shape else None


def _activation(equation: Equation, root: Slot, inner: Sequence[Equation]) -> Equation:
    steps = [*inner, equation]

    def run(value: jax.Array) -> list[jax.Array]:
        return [evaluate(steps, {root: value})[equation.outputs[0]]]

    return Equation("activation", {}, (root,), equation.outputs, run)
