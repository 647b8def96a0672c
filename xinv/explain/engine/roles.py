"""What values are for, told from how they are computed: the scale of a normalisation, a gate, a softmax.

A primitive does not tell: `max(0, x)` is a ReLU of a signal and a guard of a variance, `exp` an activation or half a
softmax. Values have roles, and rules ask for them.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from xinv.explain.engine.graph import CUSTOM, Equation, Graph, Slot, inside
from xinv.explain.engine.primitives import (
    REARRANGING,
    WEIGHTED,
    dependent,
    is_pointwise,
    is_rearranging,
    joined,
    stretch,
)

REDUCING = frozenset({"reduce_max", "reduce_sum", "reduce_window_max", "reduce_window_sum"})
ROOTS = frozenset({"log", "pow", "rsqrt", "sqrt"})
SOFTMAX, LOG_SOFTMAX = "softmax", "log_softmax"
_SHIFTING = frozenset({"is_finite", "max", "reduce_max", "select_n", "stop_gradient", "sub"}) | REARRANGING
_LOGARITHM = frozenset({"add", "exp", "log", "reduce_sum"}) | _SHIFTING


def spreads(equations: Iterable[Equation]) -> set[Slot]:
    """Sums of squares or of absolute values, and what is computed of such alone: variances, norms, energies."""
    even: set[Slot] = set()  # squares, summed or not
    summed: set[Slot] = set()
    for equation in equations:
        values = dependent(equation.inputs)
        if _is_even(equation):
            even.update(equation.outputs)
            if equation.name in WEIGHTED or summed.intersection(values):
                summed.update(equation.outputs)
        elif values and all(slot in even for slot in values) and _keeps(equation):
            even.update(equation.outputs)
            if equation.name in REDUCING or summed.intersection(values):
                summed.update(equation.outputs)
    return summed


def scales(equations: Iterable[Equation]) -> set[Slot]:
    """What normalisations multiply or divide by: roots of spreads, and what is computed of such alone."""
    equations = list(equations)
    spread, found = spreads(equations), set()
    for equation in equations:
        values = dependent(equation.inputs)
        root = equation.name in ROOTS and all(slot in spread for slot in values)
        made = all(slot in spread | found for slot in values) and found.intersection(values) and _keeps(equation)
        if values and (root or made):
            found.update(equation.outputs)
    # Dividing by a spread itself normalises too: x / sum |x|.
    return found | {e.inputs[1] for e in equations if e.name == "div" and e.inputs[1] in spread}


def _is_even(equation: Equation) -> bool:
    """Whether it is the square or the absolute value of something."""
    if equation.name == "integer_pow":
        return equation.params["y"] % 2 == 0
    values = dependent(equation.inputs)
    same = len(values) == 2 and values[0] is values[1]
    return equation.name in ("abs", "square") or (same and equation.name in WEIGHTED | {"mul"})


def _keeps(equation: Equation) -> bool:
    return equation.name in REDUCING or is_rearranging(equation) or is_pointwise(equation)


def normalised(equations: Iterable[Equation], held: set[Slot]) -> set[Slot]:
    """What normalisations give before they shift it: products with a scale, and what scales or moves such."""
    found: set[Slot] = set()
    for equation in equations:
        values = dependent(equation.inputs)
        scaled = is_held(equation, held) is not None
        kept = len(values) == 1 and values[0] in found
        if scaled or (kept and (equation.name in ("mul", "div", "neg") or is_rearranging(equation))):
            found.update(equation.outputs)
    return found


def is_held(equation: Equation, held: set[Slot]) -> int | None:
    """Which operand of a product or quotient is a signal that a held scale multiplies; None where none is."""
    if equation.name not in ("mul", "div") or len(dependent(equation.inputs)) != 2:
        return None
    left, right = equation.inputs
    if right in held and left not in held:
        return 0
    return 1 if equation.name == "mul" and left in held and right not in held else None


def softmaxes(graph: Graph) -> Graph:
    """Each softmax and log_softmax as one equation of that name; the axes it sums over are `params["axes"]`."""
    position: dict[Slot, int] = {}
    equations: list[Equation] = []
    for equation in graph.equations:
        found = _softmax(equation, equations, position) or _log_softmax(equation, equations, position)
        equations.append(found or equation)
        position.update(dict.fromkeys(equation.outputs, len(equations) - 1))
    return graph._replace(equations=tuple(equations))


def _softmax(equation: Equation, equations: Sequence[Equation], position: dict[Slot, int]) -> Equation | None:
    """exp(x) / Σ exp(x), with or without the maximum subtracted before."""
    if equation.name != "div":
        return None
    way = joined(equation, equations, position, lambda e: e.name in {"div", "reduce_sum"} | REARRANGING)
    if way is None or way[0] not in position or equations[position[way[0]]].name != "exp":
        return None
    sums = [step for step in way[1] if step.name == "reduce_sum"]
    (shifted,), exponential = equations[position[way[0]]].inputs, equations[position[way[0]]]
    if len(sums) != 1 or sums[0].inputs[0] is not way[0]:
        return None
    root, before = _shifted(shifted, equations, position)
    softmax = stretch(SOFTMAX, equation, root, [*before, exponential, *way[1]])
    return softmax._replace(params={"axes": sums[0].params["axes"]})


def _log_softmax(equation: Equation, equations: Sequence[Equation], position: dict[Slot, int]) -> Equation | None:
    """x - log Σ exp(x), with or without the maximum subtracted."""
    if equation.name != "sub" or len(dependent(equation.inputs)) != 2:
        return None
    way = joined(equation, equations, position, lambda e: e.name in _LOGARITHM)
    if way is None or not {"exp", "log", "reduce_sum"} <= {step.name for step in way[1]}:
        return None
    root, before = _shifted(way[0], equations, position)
    axes = next(step.params["axes"] for step in way[1] if step.name == "reduce_sum")
    return stretch(LOG_SOFTMAX, equation, root, [*before, *way[1]])._replace(params={"axes": axes})


def _shifted(slot: Slot, equations: Sequence[Equation], position: dict[Slot, int]) -> tuple[Slot, list[Equation]]:
    """x and the steps to x - max(x), where that is what the slot is; otherwise the slot itself."""
    if slot not in position or equations[position[slot]].name != "sub":
        return slot, []
    last = equations[position[slot]]
    way = joined(last, equations, position, lambda e: e.name in _SHIFTING)
    if way is None or way[0].shape != slot.shape or not any(step.name == "reduce_max" for step in way[1]):
        return slot, []
    return way[0], [*way[1], last]


def headless(graph: Graph) -> Graph:
    """A graph without the softmax, log_softmax or sigmoid that it ends in: its output are the logits."""
    makers = {slot: equation for equation in graph.equations for slot in equation.outputs}
    slot = graph.output
    while slot in makers and is_rearranging(makers[slot]) and len(dependent(makers[slot].inputs)) == 1:
        (slot,) = dependent(makers[slot].inputs)
    last = makers.get(slot)
    if last is None or last.name not in (SOFTMAX, LOG_SOFTMAX, "logistic"):
        return graph
    same = last._replace(name="name", params={"name": "logits"}, evaluate=lambda value: [value])
    return graph._replace(equations=tuple(same if e is last else e for e in graph.equations))


class Gates:
    """Ranks values by how much they look like a gate that lets a signal pass, and not like a signal."""

    def __init__(self, graph: Graph):
        self.makers = {slot: equation for equation in graph.equations for slot in equation.outputs}

    def rank(self, slot: Slot, shape: Sequence[int]) -> tuple[bool, bool, bool]:
        """Whether a factor of a product of that shape lies in [0,1], is repeated, is bounded; the first counts most."""
        repeated = int(np.prod(slot.shape)) < int(np.prod(shape))
        while (equation := self.makers.get(slot)) is not None:
            name = equation.name
            bounds = self._bounds(equation)
            if name in (SOFTMAX, "logistic") or 0 in bounds:
                return True, repeated, True
            if name == "tanh" or bounds:
                return False, repeated, True
            values = dependent(equation.inputs)
            moves = is_rearranging(equation) or name in ("mul", "div", "add", "sub")
            if len(values) != 1 or not moves:
                break
            repeated |= int(np.prod(values[0].shape)) < int(np.prod(slot.shape)) and name == "broadcast_in_dim"
            slot = values[0]
        return False, repeated, False

    def _bounds(self, equation: Equation) -> tuple[float | None, ...]:
        """The two numbers that it bounds a value between; none where it does not."""
        if equation.name == "clamp":
            return equation.inputs[0].number, equation.inputs[2].number
        if equation.name in CUSTOM:
            steps = [step for step in inside(equation) if step.name in ("clamp", "max", "min")]
        else:
            values = dependent(equation.inputs)
            before = self.makers.get(values[0]) if len(values) == 1 else None
            steps = [step for step in (before, equation) if step is not None]
        sides = {step.name: slot.number for step in steps for slot in step.inputs if slot.constant is not None}
        return (sides["max"], sides["min"]) if {"max", "min"} <= sides.keys() else ()
