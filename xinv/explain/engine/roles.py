"""Roles of values, inferred from their equations: the scale of a normalisation, a gate, a softmax.

A primitive alone is ambiguous: `max(0, x)` is a ReLU of a signal or a guard of a variance, `exp` an
activation or half a softmax. Values have roles, and rules ask for them.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from xinv.explain.engine.graph import CUSTOM, Equation, Graph, Value, evaluate, inside
from xinv.explain.engine.primitives import (
    REARRANGING,
    WEIGHTED,
    dependent,
    is_fixed,
    is_pointwise,
    is_rearranging,
    joined,
    stretch,
)
from xinv.types import InputError

REDUCING = frozenset({"reduce_max", "reduce_sum", "reduce_window_max", "reduce_window_sum"})
ROOTS = frozenset({"log", "pow", "rsqrt", "sqrt"})
SOFTMAX, LOG_SOFTMAX = "softmax", "log_softmax"
HEADS = frozenset({SOFTMAX, LOG_SOFTMAX, "logistic"})
_SMALL = 1e-3
_POINTS = (-40.0, 0.0, 1.0, 40.0)
_QUOTIENT = frozenset({"add", "div", "integer_pow", "max", "mul", "reduce_sum"}) | REARRANGING
_SHIFTING = (
    frozenset({"activation", "is_finite", "max", "reduce_max", "select_n", "stop_gradient", "sub"})
    | REARRANGING
)
_LOGARITHM = frozenset({"abs", "add", "exp", "log", "reduce_sum"}) | _SHIFTING


def spreads(equations: Iterable[Equation]) -> set[Value]:
    """Finds variances, norms, energies: sums of squares or absolute values, and their functions."""
    # Squares, summed or not, and the sums among them.
    even: set[Value] = set()
    summed: set[Value] = set()
    for equation in equations:
        values = dependent(equation.inputs)
        if _is_even(equation):
            even.update(equation.outputs)
            if equation.name in WEIGHTED or summed.intersection(values):
                summed.update(equation.outputs)
        elif (
            values
            and all(value in even for value in values)
            and (_keeps(equation) or is_fixed(equation))
        ):
            even.update(equation.outputs)
            if equation.name in REDUCING | WEIGHTED | {"linear"} or summed.intersection(values):
                summed.update(equation.outputs)
    return summed


def scales(equations: Iterable[Equation]) -> set[Value]:
    """Finds the factors and divisors of normalisations: roots of spreads, and their functions."""
    equations = list(equations)
    spread = spreads(equations)
    found = set()
    for equation in equations:
        values = dependent(equation.inputs)
        # A root of spreads alone, or a function of scales and spreads, with a scale among them.
        root = equation.name in ROOTS and all(value in spread for value in values)
        made = (
            all(value in spread | found for value in values)
            and found.intersection(values)
            and _keeps(equation)
        )
        if values and (root or made):
            found.update(equation.outputs)
    # Dividing by a spread itself normalises too: x / sum |x|.
    return found | {e.inputs[1] for e in equations if e.name == "div" and e.inputs[1] in spread}


def _is_even(equation: Equation) -> bool:
    """Tells if the equation is a square or an absolute value."""
    if equation.name == "integer_pow":
        return equation.params["y"] % 2 == 0
    if equation.name == "pow" and equation.inputs[1].number is not None:
        return equation.inputs[1].number % 2 == 0
    values = dependent(equation.inputs)
    same = len(values) == 2 and values[0] is values[1]
    return equation.name in ("abs", "square") or (same and equation.name in WEIGHTED | {"mul"})


def _keeps(equation: Equation) -> bool:
    """Tells if functions of a role's values alone keep the role."""
    return equation.name in REDUCING or is_rearranging(equation) or is_pointwise(equation)


def normalised(equations: Iterable[Equation], held: set[Value]) -> set[Value]:
    """Finds the results of normalisations before their shift: products with a scale, also moved."""
    found: set[Value] = set()
    for equation in equations:
        values = dependent(equation.inputs)
        # A product with a held scale; later scales and moves keep it so, a shift ends it.
        scaled = is_held(equation, held) is not None
        kept = len(values) == 1 and values[0] in found
        if scaled or (
            kept and (equation.name in ("mul", "div", "neg") or is_rearranging(equation))
        ):
            found.update(equation.outputs)
    return found


def is_held(equation: Equation, held: set[Value]) -> int | None:
    """Returns the operand, a signal, that a held scale multiplies or divides; None without one."""
    if equation.name not in ("mul", "div") or len(dependent(equation.inputs)) != 2:
        return None
    left, right = equation.inputs
    if right in held and left not in held:
        return 0
    if equation.name == "mul" and left in held and right not in held:
        return 1
    return None


def softmaxes(graph: Graph) -> Graph:
    """Rewrites each softmax and log_softmax as one equation, its axes as `params["axes"]`."""
    position: dict[Value, int] = {}
    equations: list[Equation] = []
    for equation in graph.equations:
        found = _softmax(equation, equations, position) or _log_softmax(
            equation, equations, position
        )
        equations.append(found or equation)
        position.update(dict.fromkeys(equation.outputs, len(equations) - 1))
    return graph._replace(equations=tuple(equations))


def _softmax(
    equation: Equation,
    equations: Sequence[Equation],
    position: dict[Value, int],
) -> Equation | None:
    """exp(x) / Σ exp(x), with or without the maximum subtracted before; or exp(log_softmax(x))."""
    # exp(log_softmax(x)), as in a model that computes log-probabilities first.
    if equation.name == "exp":
        place = position.get(equation.inputs[0])
        before = None if place is None else equations[place]
        if before is None or before.name != LOG_SOFTMAX:
            return None
        return stretch(SOFTMAX, equation, before.inputs[0], [before])._replace(params=before.params)
    if equation.name not in ("div", "mul"):
        return None
    # A quotient, or a product with an inverse, of one value with several ways to it.
    way = joined(equation, equations, position, lambda e: e.name in _QUOTIENT)
    if way is None:
        return None
    root, steps = way
    exponential, masks = _exponential(root, equations, position)
    sums = []
    for number, step in enumerate(steps):
        if step.name == "reduce_sum":
            sums.append(number)
    if exponential is None or len(sums) != 1:
        return None
    # Before the sum only moves, after it moves, one inversion and guards from 0.
    before = steps[: sums[0]]
    total = steps[sums[0]]
    after = steps[sums[0] + 1 :]
    inverted = sum(_inverts(step) for step in after)
    known = all(step.outputs[0].shape == root.shape and is_rearranging(step) for step in before)
    known &= all(is_rearranging(step) or _inverts(step) or _guards(step) for step in after)
    # The numerator must be the exponential itself.
    numerators = equation.inputs[:1] if equation.name == "div" else equation.inputs
    known &= bool(
        {root, *(value for step in before for value in step.outputs)}.intersection(numerators)
    )
    if not known or inverted != (equation.name == "mul"):
        return None
    # Take in the subtraction of the maximum, which cancels.
    start, shift = _shifted(exponential.inputs[0], equations, position)
    softmax = stretch(
        SOFTMAX,
        equation,
        start,
        [*shift, exponential, *masks, *steps],
    )
    return softmax._replace(params={"axes": total.params["axes"]})


def _exponential(
    value: Value,
    equations: Sequence[Equation],
    position: dict[Value, int],
) -> tuple[Equation | None, list[Equation]]:
    """Follows a value through masks up to an exponential; returns it, or None, and the masks."""
    masks: list[Equation] = []
    while value in position:
        step = equations[position[value]]
        if step.name == "exp":
            return step, masks[::-1]
        # A mask sets some elements and leaves the others in place.
        if (
            not is_rearranging(step)
            or step.outputs[0].shape != value.shape
            or len(dependent(step.inputs)) != 1
        ):
            break
        masks.append(step)
        (value,) = dependent(step.inputs)
    return None, []


def _inverts(step: Equation) -> bool:
    """Tells if the equation is 1/x."""
    if step.name == "integer_pow":
        return step.params["y"] == -1
    return step.name == "div" and step.inputs[0].is_all(1)


def _guards(step: Equation) -> bool:
    """Tells if the equation keeps a sum from 0 by a small number, not a learned one."""
    numbers = []
    for value in step.inputs:
        if value.constant is not None:
            numbers.append(value.number)
    return step.name in ("add", "max") and all(n is not None and 0 <= n <= _SMALL for n in numbers)


def partitions(equations: Iterable[Equation]) -> set[Value]:
    """Finds the divisors of softmaxes: sums of exponentials, and functions of such sums alone."""
    exponentials: set[Value] = set()
    found: set[Value] = set()
    for equation in equations:
        values = dependent(equation.inputs)
        if equation.name == "exp":
            exponentials.update(equation.outputs)
        # Exponentials, their sums, and what follows, but for a logsumexp.
        elif values and all(value in exponentials for value in values):
            if equation.name == "reduce_sum":
                found.update(equation.outputs)
            elif is_rearranging(equation):
                exponentials.update(equation.outputs)
        elif (
            values
            and all(value in found for value in values)
            and equation.name != "log"
            and _keeps(equation)
        ):
            found.update(equation.outputs)
    return found


def _log_softmax(
    equation: Equation,
    equations: Sequence[Equation],
    position: dict[Value, int],
) -> Equation | None:
    """x - log Σ exp(x), with or without the maximum subtracted."""
    if equation.name != "sub" or len(dependent(equation.inputs)) != 2:
        return None
    way = joined(equation, equations, position, lambda e: e.name in _LOGARITHM)
    if way is None or not {"exp", "log", "reduce_sum"} <= {step.name for step in way[1]}:
        return None
    if any(step.name == "activation" and step.outputs[0].shape == way[0].shape for step in way[1]):
        # An activation of x itself, not of its maximum.
        return None
    # Take in the subtraction of the maximum, which cancels.
    root, before = _shifted(way[0], equations, position)
    axes = next(step.params["axes"] for step in way[1] if step.name == "reduce_sum")
    return stretch(LOG_SOFTMAX, equation, root, [*before, *way[1]])._replace(params={"axes": axes})


def _shifted(
    value: Value,
    equations: Sequence[Equation],
    position: dict[Value, int],
) -> tuple[Value, list[Equation]]:
    """Returns x and the steps to x - max(x), for such a value; for any other, itself."""
    if value not in position or equations[position[value]].name != "sub":
        return value, []
    last = equations[position[value]]
    # x - max(x): the maximum may pass guards for infinities and stop_gradient.
    way = joined(last, equations, position, lambda e: e.name in _SHIFTING)
    if (
        way is None
        or way[0].shape != value.shape
        or not any(step.name == "reduce_max" for step in way[1])
    ):
        return value, []
    return way[0], [*way[1], last]


def headless(graph: Graph) -> Graph:
    """Removes the softmax, log_softmax or sigmoid at the end of a graph: its output are the logits.

    Raises:
      InputError: the model ends in probabilities computed together, as of [1 - p, p].
    """
    position = {}
    for number, equation in enumerate(graph.equations):
        position.update(dict.fromkeys(equation.outputs, number))
    # Walk back from the output, the latest value first, until a head or a signal is found.
    frontier = {graph.output}
    passed = []
    while True:
        latest = max(frontier, key=lambda value: position.get(value, -1))
        if latest not in position:
            return _unsquashed(graph, passed)
        step = graph.equations[position[latest]]
        alone = len(frontier) == 1
        if alone and step.name in HEADS:
            return _beheaded(graph, [*passed, step])
        # A product of one value with several ways to it, as p / p.sum(), is passed as a whole.
        product = step.name in ("mul", "div") and len(dependent(step.inputs)) == 2
        if alone and product:
            whole = joined(step, graph.equations, position, _is_of_shares)
        else:
            whole = None
        if whole is not None:
            passed.append(step)
            frontier = {whole[0]}
            continue
        if product or step.name == "reduce_sum" or not _is_of_shares(step):
            return _unsquashed(graph, passed)
        passed.append(step)
        frontier.remove(latest)
        frontier.update(dependent(step.inputs))


def _is_of_shares(step: Equation) -> bool:
    """Tells if the equation may lie between values and their shares of a sum."""
    return step.name in ("linear", "reduce_sum") or is_pointwise(step) or is_rearranging(step)


def _beheaded(graph: Graph, steps: Sequence[Equation]) -> Graph:
    """Replaces those of the graph's last steps that change values by the identity."""
    if any(step.name == "linear" or len(dependent(step.inputs)) != 1 for step in steps):
        raise InputError(
            "the model ends in probabilities that it computes from one another: return its logits,"
            " whose relevance or multipliers are defined"
        )
    # Moves stay: they carry the logits to the output's shape.
    changed = {}
    for step in steps:
        if not is_rearranging(step) or step.name == "neg":
            changed[id(step)] = step
    equations = []
    for equation in graph.equations:
        if id(equation) in changed:
            names = dict(
                name="name",
                params={"name": "logits"},
                inputs=tuple(dependent(equation.inputs)),
            )
            equation = equation._replace(**names, evaluate=lambda value: [value])
        equations.append(equation)
    return graph._replace(equations=tuple(equations))


def _unsquashed(graph: Graph, steps: Sequence[Equation]) -> Graph:
    """Removes a sigmoid, or its logarithm, that the graph's last steps compute."""
    # Evaluate ever more of the last steps at a few points, and compare with a sigmoid.
    for count in range(1, len(steps) + 1):
        last = steps[:count]
        if not _is_static(last[-1]):
            break
        (start,) = dependent(last[-1].inputs)
        found = []
        with jax.ensure_compile_time_eval():
            for number in _POINTS:
                arrays = evaluate(
                    last[::-1],
                    {
                        start: np.full(
                            start.shape,
                            number,
                            start.dtype,
                        )
                    },
                )
                found.append(float(np.ravel(arrays[graph.output])[0]))
        sigmoid = 1 / (1 + np.exp(-np.array(_POINTS)))
        if np.allclose(found, sigmoid, atol=_SMALL) or np.allclose(
            found, np.log(sigmoid), atol=_SMALL
        ):
            return _beheaded(graph, last)
    return graph


def _is_static(step: Equation) -> bool:
    """Tells if the step is a function of one value with constants known at trace time."""
    constants = [value for value in step.inputs if value.constant is not None]
    alone = step.name != "linear" and len(dependent(step.inputs)) == 1
    return alone and all(value.static for value in constants)


class Gates:
    """Ranks values by their likeness to a gate that lets a signal pass, not to a signal."""

    def __init__(self, graph: Graph):
        self.makers = {}
        for equation in graph.equations:
            self.makers.update(dict.fromkeys(equation.outputs, equation))

    def rank(self, value: Value, shape: Sequence[int]) -> tuple[bool, bool, bool]:
        """Tells if a factor of a product of that shape is in [0,1], repeated, bounded.

        The first counts most.
        """
        repeated = int(np.prod(value.shape)) < int(np.prod(shape))
        # Walk up through moves and affine steps; the factor is scale · value + shift.
        scale, shift = 1.0, 0.0
        while (equation := self.makers.get(value)) is not None:
            if equation.name in (SOFTMAX, "logistic"):
                bounds = (0.0, 1.0)
            else:
                bounds = self._bounds(equation)
            if bounds:
                # The bounds, seen at the factor: within [0,1] it is a sigmoid or a hard one.
                numbers = []
                for bound in bounds:
                    if bound is not None:
                        numbers.append(scale * bound + shift)
                unit = len(numbers) == 2 and min(numbers) > -_SMALL and max(numbers) < 1 + _SMALL
                return unit, repeated, True
            if equation.name == "tanh":
                return False, repeated, True
            values = dependent(equation.inputs)
            moves = is_rearranging(equation) or equation.name in ("mul", "div", "add", "sub")
            if len(values) != 1 or not moves:
                break
            one, other = _affine(equation)
            scale, shift = scale * one, scale * other + shift
            larger = int(np.prod(values[0].shape)) < int(np.prod(value.shape))
            repeated |= larger and equation.name == "broadcast_in_dim"
            value = values[0]
        return False, repeated, False

    def _bounds(self, equation: Equation) -> tuple[float | None, ...]:
        """Returns the two numbers between which the equation bounds a value, or nothing."""
        if equation.name == "clamp":
            return equation.inputs[0].number, equation.inputs[2].number
        # As relu6: clips inside a function with its own derivative, or two in a row.
        if equation.name in CUSTOM:
            steps = []
            for step in inside(equation):
                if step.name in ("clamp", "max", "min"):
                    steps.append(step)
        else:
            values = dependent(equation.inputs)
            before = self.makers.get(values[0]) if len(values) == 1 else None
            steps = [step for step in (before, equation) if step is not None]
        sides = {}
        for step in steps:
            for value in step.inputs:
                if value.constant is not None:
                    sides[step.name] = value.number
        if {"max", "min"} <= sides.keys():
            return (sides["max"], sides["min"])
        return ()


def _affine(equation: Equation) -> tuple[float, float]:
    """Returns scale and shift of an affine function of one value; NaN if unknown at trace time."""
    if equation.name == "neg":
        return -1.0, 0.0
    if equation.name not in ("mul", "div", "add", "sub"):
        return 1.0, 0.0
    numbers = []
    for value in equation.inputs:
        numbers.append(value.number if value.constant is not None else None)
    left, right = numbers
    # The constant operand, and whether the value is the first one.
    number, first = (right, True) if equation.inputs[0].constant is None else (left, False)
    if number is None or (equation.name == "div" and not first):
        return float("nan"), float("nan")
    match equation.name:
        case "mul":
            return number, 0.0
        case "div":
            return 1 / number, 0.0
        case "add":
            return 1.0, number
    if first:
        return (1.0, -number)
    return (-1.0, number)
