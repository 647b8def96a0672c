"""Backward passes with a rule of their own for ReLUs. One forward and one backward pass per map.

A ReLU is recognised by its function and purpose, not by its name: max(x, 0), 0 - min(-x, 0),
clamp(x, 0, 6), where(x > 0, x, 0) and its relatives, x·(x > 0), and the minimum with a constant
next to one of these (ReLU6); written by hand or inside `jax.nn.relu` and `jax.nn.relu6`. No ReLUs
are the clip of a variance in a normalisation, the clips within a larger function of the same value
(hard-swish, CELU, PReLU), the two-sided clip of a shifted value (hard sigmoid) and the clip of the
image. Other functions, leaky ReLUs among them, keep their own derivative. A ReLU in yet another
form is refused, because its own derivative would pass for a rule.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine import graph as graphs
from xinv.explain.engine import roles
from xinv.explain.engine.backward import EquationContext, Rule, walk
from xinv.explain.engine.graph import CUSTOM, Equation, Graph, Value, one
from xinv.explain.engine.primitives import dependent, interior, is_pointwise, is_rearranging
from xinv.plugins import cached
from xinv.types import Apply, Array, Explainer, InputError, Key, Variables

GREATER, LESS = ("gt", "ge"), ("lt", "le")
PROBES = np.array([-1000, -2, -0.01, 0.01, 2, 1000])
"""Inputs of a function of one value, evaluated to recognise a ReLU."""
EXTREMES = frozenset({"argmax", "argmin", "cummax", "cummin", "reduce_max", "reduce_min", "sort"})
MOVING = EXTREMES | {
    "broadcast_in_dim",
    "concatenate",
    "cumsum",
    "expand_dims",
    "reshape",
    "slice",
    "squeeze",
    "stack",
}
"""Primitives by which a ReLU may be a choice along a new axis: of x and 0, or of cases in order."""
ENDS = frozenset({"mul", "neg", "reduce_max", "select_n", "slice", "sub"})
"""Primitives that may end such a choice."""
LONGEST = 32
"""Steps of such a choice."""


@cached
def deconvolution() -> Explainer:
    """Deconvolution: each ReLU rectifies the signal, whatever its input (Zeiler and Fergus 2014).

    Returns:
      An explainer with a map [H,W,C], in logit per unit of intensity.

    Raises:
      InputError: at the call, the model has no ReLU.
    """
    return _rectified("deconvolution", lambda clip, value, signal: jax.nn.relu(signal))


@cached
def guided_backprop() -> Explainer:
    """Guided backpropagation: a ReLU rectifies the signal and masks it (Springenberg et al. 2015).

    Returns:
      An explainer with a map [H,W,C], in logit per unit of intensity.

    Raises:
      InputError: at the call, the model has no ReLU.
    """
    return _rectified("guided_backprop", _guided)


class Clip(NamedTuple):
    """The function min(max(value, low), high); None is no bound.

    Attributes:
      value: the clipped value.
      low, high: constants, or None.
      mirrored: True for min(value, 0) of a value -x, whose readers change the sign again.
    """

    value: Value
    low: Value | None = None
    high: Value | None = None
    mirrored: bool = False


def rectifiers(equations: Sequence[Equation], image: Value | None = None) -> dict[Value, Clip]:
    """Finds every ReLU and every upper half of a ReLU6, by its output.

    Args:
      equations: in order of evaluation.
      image: the graph's input, whose own clip is no ReLU.
    """
    made: dict[Value, Equation] = {}
    clips: dict[Value, Clip] = {}
    for equation in equations:
        clip = _clip(equation, made)
        if clip is not None and clip.value.carries:
            clips[equation.outputs[0]] = clip
        made.update(dict.fromkeys(equation.outputs, equation))

    # Leave out clips with another purpose: of variances, and within larger functions.
    others = roles.spreads(equations) | _within(equations)
    clips = {
        output: clip
        for output, clip in clips.items()
        if output not in others and clip.value not in others
    }
    # A lower bound of 0 makes a ReLU; an upper bound next to one, in either order, its upper half.
    relus = {
        output: clip
        for output, clip in clips.items()
        if clip.low is not None and clip.low.is_all(0)
    }
    rectified = {clip.value for clip in relus.values()}
    halves = {
        o: clip
        for o, clip in clips.items()
        if clip.low is None and (clip.value in relus or o in rectified)
    }
    found = relus | halves
    # Two-sided clips of the image or of shifted values are no ReLUs; mirrored ones are.
    shifted = {output for output in found if _is_shifted(output, found, made, image)}
    return {output: clip for output, clip in found.items() if output not in shifted} | _mirrored(
        equations, clips, made
    )


def _within(equations: Sequence[Equation]) -> set[Value]:
    """Finds the values between one value and a pointwise function of it, on several ways."""
    position: dict[Value, int] = {}
    found: set[Value] = set()
    for number, equation in enumerate(equations):
        way = interior(equation, equations, position)
        position.update(dict.fromkeys(equation.outputs, number))
        if way is not None:
            found.update(value for step in way[1] for value in step.outputs)
    return found


def _is_shifted(
    output: Value,
    found: Mapping[Value, Clip],
    made: Mapping[Value, Equation],
    image: Value | None,
) -> bool:
    """Tells if the clip is one of two sides of a clip of the image or of a shifted value."""
    # One side alone is a ReLU whatever it clips.
    inner = found.get(found[output].value)
    outer = next((clip for clip in found.values() if clip.value is output), None)
    if inner is None and outer is None and found[output].high is None:
        return False
    # Follow affine steps upward: a learned number ends the search, a shift marks a hard sigmoid.
    value = found[output].value if inner is None else inner.value
    while value in made and made[value].name in (
        "add",
        "convert_element_type",
        "div",
        "mul",
        "neg",
        "sub",
    ):
        equation = made[value]
        numbers = []
        for operand in equation.inputs:
            if operand.constant is not None:
                numbers.append(operand.number)
        if len(dependent(equation.inputs)) != 1 or None in numbers:
            return False
        if equation.name in ("add", "sub") and numbers != [0]:
            return True
        (value,) = dependent(equation.inputs)
    # Follow moves up to the image, whose own clip is no ReLU.
    while value in made and is_rearranging(made[value]) and len(dependent(made[value].inputs)) == 1:
        (value,) = dependent(made[value].inputs)
    return value is image


def _mirrored(
    equations: Sequence[Equation],
    clips: Mapping[Value, Clip],
    made: Mapping[Value, Equation],
) -> dict[Value, Clip]:
    """Finds min(-x, 0) between two changes of sign: the ReLU of x."""
    found = {}
    for output, clip in clips.items():
        if clip.low is not None or not clip.high.is_all(0) or clip.value not in made:
            continue
        # Both its readers and the maker of its input must change the sign.
        readers = []
        for equation in equations:
            if output in equation.inputs:
                readers.append((equation, output))
        maker = made[clip.value]
        for value in dependent(maker.inputs):
            readers.append((maker, value))
        if all(_turns(*reader) for reader in readers):
            found[output] = clip._replace(mirrored=True)
    return found


def _turns(equation: Equation, value: Value) -> bool:
    """Tells if the equation changes the sign of that operand: -x, c - x or -c·x."""
    others = [other for other in equation.inputs if other is not value]
    if equation.name == "neg":
        return True
    if len(others) != 1 or others[0].constant is None:
        return False
    # c - x turns x, x - c does not.
    if equation.name == "sub":
        return equation.inputs[1] is value
    return equation.name == "mul" and others[0].number is not None and bool(others[0].number < 0)


def _clip(equation: Equation, made: Mapping[Value, Equation]) -> Clip | None:
    """Returns the equation as a clip between constants, or None; `made` maps values to makers."""
    inputs = equation.inputs
    if equation.name == "clamp":
        low, value, high = inputs
        if low.constant is not None and high.constant is not None:
            return Clip(value, low, high)
        return None
    if equation.name in ("max", "min"):
        value, bound = inputs if inputs[1].constant is not None else inputs[::-1]
        if bound.constant is None:
            return None
        return _one_sided(value, bound, equation.name == "max")
    if equation.name == "select_n":
        # where(x > c, ...) and x·(x > 0), by the comparison behind the choice.
        test, *cases = inputs
        return _chosen(made.get(test), cases)
    if equation.name == "mul":
        return _gated(*inputs, made) or _gated(*inputs[::-1], made)
    return None


def _one_sided(value: Value, bound: Value, below: bool) -> Clip:
    """A clip by one bound."""
    if below:
        return Clip(value, low=bound)
    return Clip(value, high=bound)


def _compared(test: Equation | None) -> tuple[Value, Value, bool] | None:
    """Reads a comparison with a constant: value, bound, and whether it asks for value > bound."""
    if test is None or test.name not in GREATER + LESS:
        return None
    left, right = test.inputs
    larger = test.name in GREATER
    if right.constant is not None:
        return (left, right, larger)
    return (right, left, not larger)


def _chosen(test: Equation | None, cases: Sequence[Value]) -> Clip | None:
    """Recognises where(x > c, x, c) as max(x, c), where(x > c, c, x) as min(x, c), and so on."""
    compared = _compared(test)
    if compared is None or len(cases) != 2:
        return None
    value, bound, larger = compared
    # The cases of a choice are in order: of False, of True.
    above, under = cases[::-1] if larger else cases
    other = under if above is value else above
    if value not in cases or bound.number is None or not other.is_all(bound.number):
        return None
    return _one_sided(value, bound, above is value)


def _gated(
    value: Value,
    gate: Value,
    made: Mapping[Value, Equation],
) -> Clip | None:
    """Recognises x·(x > 0) as max(x, 0)."""
    # The comparison is a boolean, converted to the type of x before the product.
    cast = made.get(gate)
    if cast is not None and cast.name == "convert_element_type":
        compared = _compared(made.get(cast.inputs[0]))
    else:
        compared = None
    if compared is None or compared[0] is not value or not compared[1].is_all(0) or not compared[2]:
        return None
    return Clip(value, low=compared[1])


def _guided(clip: Clip, value: jax.Array, signal: jax.Array) -> jax.Array:
    """Section 3.4: R = (x > 0)·(R > 0)·R, and x < 6 for a ReLU6; strictly, so 0 at ties."""
    if clip.mirrored:
        return jnp.where(value > 0, jax.nn.relu(signal), 0)
    over = True if clip.low is None else value > clip.low.constant
    under = True if clip.high is None else value < clip.high.constant
    return jnp.where(jnp.logical_and(over, under), jax.nn.relu(signal), 0)


def _rectified(name: str, back: Callable[[Clip, jax.Array, jax.Array], jax.Array]) -> Explainer:
    """Makes the explainer of ReLUs with the rule `back(clip, value, signal) -> signal`."""

    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        # Functions with an own derivative are inlined if they are a clip, as jax.nn.relu.
        graph = graphs.trace(
            one(apply, variables),
            image,
            lambda equation: _clip(equation, {}) is not None,
        )
        clips = rectifiers(graph.equations, graph.input)
        # Refuse a ReLU out of the rules' reach: the map would be silently wrong.
        _refuse_hidden(name, graph)
        _refuse_unknown(name, graph, clips)
        if not clips:
            raise InputError(
                f"{name} changes the backward pass of ReLUs, and the model has none: choose another"
                " method, such as gradient or lrp"
            )

        def rules(equation: Equation) -> Rule | None:
            clip = clips.get(equation.outputs[0])
            if clip is None:
                return None
            return functools.partial(send, clip)

        def send(clip: Clip, context: EquationContext) -> list[jax.Array | None]:
            inputs = context.equation.inputs
            # A mirrored ReLU is min(-x, 0): turn value and signal, there and back.
            sign = -1 if clip.mirrored else 1
            array = sign * context.inputs[inputs.index(clip.value)]
            signal = sign * back(clip, array, sign * context.signals[0])
            return [signal if value is clip.value else None for value in inputs]

        logits, pull = walk(graph, image, rules)
        return door.marked(
            pull(
                jax.nn.one_hot(
                    label,
                    len(logits),
                    dtype=logits.dtype,
                )
            ),
            logits,
        )

    return explain


def _refuse_hidden(name: str, graph: Graph) -> None:
    """Raises InputError if a loop, a branch or a function with its own derivative hides a ReLU.

    A function of one value (softplus, say) may compute with one; it counts as one if it ends in it.
    """
    for equation in graph.equations:
        # All equations inside, at any depth.
        inner = graphs.inside(equation)
        hidden = rectifiers(inner)
        if equation.name in CUSTOM and is_pointwise(equation):
            hidden = hidden.keys() & set(inner[-1].outputs)
        if hidden:
            raise InputError(
                f"{name} has a rule for ReLUs and cannot apply it inside {equation.name!r}: write"
                " the ReLU outside it"
            )


def _refuse_unknown(name: str, graph: Graph, clips: Mapping[Value, Clip]) -> None:
    """Raises InputError if several equations, none a known ReLU, together compute one."""
    position: dict[Value, int] = {}
    for number, equation in enumerate(graph.equations):
        # Functions of one value by several ways, and choices along a new axis.
        found = interior(equation, graph.equations, position) or _choosing(
            equation, graph.equations, position
        )
        position.update(dict.fromkeys(equation.outputs, number))
        if found is None or (found[0] in clips and clips[found[0]].low is not None):
            continue
        # A known clip among the steps has its rule, and a function around it is not checked.
        steps = [*found[1], equation]
        if clips.keys().isdisjoint(step.outputs[0] for step in steps) and _computes_relu(
            found[0], steps
        ):
            raise InputError(
                f"{name} has no rule for the ReLU that {equation.name!r} computes here: write it as"
                " jax.nn.relu"
            )


def _choosing(
    equation: Equation,
    equations: Sequence[Equation],
    position: Mapping[Value, int],
) -> tuple[Value, list[Equation]] | None:
    """Finds the value, of the equation's size, that an extremum over an axis chooses from.

    Returns:
      the value and the steps from it, or None.
    """
    if equation.name not in ENDS or not equation.outputs[0].carries:
        return None
    frontier = set(dependent(equation.inputs))
    found = set()
    size = math.prod(equation.outputs[0].shape)
    while len(found) < LONGEST:
        steps = [equations[number] for number in sorted(found)]
        if len(frontier) == 1 and any(step.name in EXTREMES for step in (*steps, equation)):
            (root,) = frontier
            if root.carries and math.prod(root.shape) == size:
                return root, steps
        # Replace the latest value by its maker's inputs, until one value is left.
        latest = max(frontier, key=lambda value: position.get(value, -1))
        number = position.get(latest, -1)
        if number < 0 or not (equations[number].name in MOVING or is_pointwise(equations[number])):
            return None
        found.add(number)
        frontier.remove(latest)
        frontier.update(dependent(equations[number].inputs))
    return None


def _computes_relu(root: Value, steps: Sequence[Equation]) -> bool:
    """Tells if the last step is known to be a positive multiple of max(root, 0)."""
    # Learned constants and functions with an own derivative are not evaluated here.
    constants = [value for step in steps for value in step.inputs if value.constant is not None]
    if any(value.number is None for value in constants) or any(
        step.name in CUSTOM for step in steps
    ):
        return False
    if all(map(is_pointwise, steps)):
        # A pointwise function takes all probes at once, as one array.
        results = _evaluated(
            steps,
            root,
            PROBES,
            dict.fromkeys(constants, PROBES.shape),
        )
    else:
        shapes = {value: value.shape for value in constants}
        # Others take each probe everywhere: the result must not differ between places.
        each = []
        for probe in PROBES:
            each.append(_evaluated(steps, root, np.full(root.shape, probe), shapes))
        if any((values != values.flat[0]).any() for values in each):
            return False
        results = np.array([values.flat[0] for values in each])
    # Exactly 0 below 0, and linear to a percent above.
    slope = results[-1] / PROBES[-1]
    return bool(
        0 < slope < np.inf
        and np.allclose(results, slope * np.maximum(PROBES, 0), rtol=1e-2, atol=0)
    )


def _evaluated(
    steps: Sequence[Equation],
    root: Value,
    array: np.ndarray,
    constants: Mapping[Value, tuple[int, ...]],
) -> np.ndarray:
    """Evaluates the steps for `root` = `array` at trace time.

    Args:
      steps: in order, the last one's first output is the result.
      root: the value to set.
      array: its array.
      constants: the shape in which to fill each constant's number.
    """
    # At trace time: nothing of this enters the compiled program.
    with jax.ensure_compile_time_eval():
        arrays = {}
        for value, shape in constants.items():
            arrays[value] = jnp.full(shape, value.number, value.dtype)
        arrays[root] = jnp.asarray(array, root.dtype)
        for step in steps:
            arrays.update(
                zip(
                    step.outputs,
                    step.evaluate(*(arrays[value] for value in step.inputs)),
                    strict=True,
                )
            )
        return np.float64(arrays[steps[-1].outputs[0]])
