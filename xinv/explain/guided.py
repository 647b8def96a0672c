"""Backward passes that treat ReLUs in their own way. One forward and one backward pass per map.

A ReLU is recognised by what it computes and what for, not by its name: max(x, 0), 0 - min(-x, 0),
clamp(x, 0, 6), where(x > 0, x, 0) and its relatives, x·(x > 0), and the minimum with a constant
next to one of these (ReLU6); written by hand or inside `jax.nn.relu` and `jax.nn.relu6`. No ReLUs
are the clip of a variance in a normalisation, the clips that a larger function of the same value
computes with (hard-swish, CELU, PReLU), the two-sided clip of a shifted value (hard sigmoid) and
that of the image. Other functions, leaky ReLUs among them, keep their own derivative. If a model
computes a ReLU in yet another way, it is refused, because its own derivative would pass for a rule.
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
"""Inputs at which a function of one value is evaluated to recognise a ReLU."""
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
"""The last of them."""
LONGEST = 32
"""Steps of such a choice."""


@cached
def deconvolution() -> Explainer:
    """The gradient whose signal each ReLU rectifies, whatever its input (Zeiler and Fergus 2014).
    The map is [H,W,C].

    Raises:
      InputError: the model has no ReLU.
    """
    return _rectified("deconvolution", lambda clip, value, signal: jax.nn.relu(signal))


@cached
def guided_backprop() -> Explainer:
    """The gradient whose signal each ReLU rectifies, besides masking it (Springenberg et al. 2015).
    The map is [H,W,C].

    Raises:
      InputError: the model has no ReLU.
    """
    return _rectified("guided_backprop", _guided)


class Clip(NamedTuple):
    """min(max(value, low), high), None being no bound; where `mirrored`, min(value, 0) of a value
    -x.
    """

    value: Value
    low: Value | None = None
    high: Value | None = None
    mirrored: bool = False


def rectifiers(equations: Sequence[Equation], image: Value | None = None) -> dict[Value, Clip]:
    """Every ReLU and every upper half of a ReLU6 among equations in order of evaluation, by its
    output.
    """
    made: dict[Value, Equation] = {}
    clips: dict[Value, Clip] = {}
    for equation in equations:
        clip = _clip(equation, made)
        if clip is not None and clip.value.carries:
            clips[equation.outputs[0]] = clip
        made.update(dict.fromkeys(equation.outputs, equation))

    # Which clips are for something else
    others = roles.spreads(equations) | _within(equations)
    clips = {
        output: clip
        for output, clip in clips.items()
        if output not in others and clip.value not in others
    }
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
    shifted = {output for output in found if _is_shifted(output, found, made, image)}
    return {output: clip for output, clip in found.items() if output not in shifted} | _mirrored(
        equations, clips, made
    )


def _within(equations: Sequence[Equation]) -> set[Value]:
    """Values between one value and a pointwise function of it that several ways lead to."""
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
    """Tells if the clip is one of two sides of the image, or of a value that a number was added to."""
    inner = found.get(found[output].value)
    outer = next((clip for clip in found.values() if clip.value is output), None)
    if inner is None and outer is None and found[output].high is None:
        return False
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
    while value in made and is_rearranging(made[value]) and len(dependent(made[value].inputs)) == 1:
        (value,) = dependent(made[value].inputs)
    return value is image


def _mirrored(
    equations: Sequence[Equation],
    clips: Mapping[Value, Clip],
    made: Mapping[Value, Equation],
) -> dict[Value, Clip]:
    """min(-x, 0) where all that reads it changes its sign: the ReLU of x."""
    found = {}
    for output, clip in clips.items():
        if clip.low is not None or not clip.high.is_all(0) or clip.value not in made:
            continue
        readers = []
        for equation in equations:
            if output in equation.inputs:
                readers.append((equation, output))
        maker = made[clip.value]
        if all(
            _turns(*reader)
            for reader in [*readers, *((maker, value) for value in dependent(maker.inputs))]
        ):
            found[output] = clip._replace(mirrored=True)
    return found


def _turns(equation: Equation, value: Value) -> bool:
    """Tells if the equation changes the sign of that operand: -x, c - x or -c·x."""
    others = [other for other in equation.inputs if other is not value]
    if equation.name == "neg":
        return True
    if len(others) != 1 or others[0].constant is None:
        return False
    if equation.name == "sub":
        return equation.inputs[1] is value
    return equation.name == "mul" and others[0].number is not None and bool(others[0].number < 0)


def _clip(equation: Equation, made: Mapping[Value, Equation]) -> Clip | None:
    """The equation as a clip between constants, if it is one; `made` tells what its inputs come
    from.
    """
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
        test, *cases = inputs
        return _chosen(made.get(test), cases)
    if equation.name == "mul":
        return _gated(*inputs, made) or _gated(*inputs[::-1], made)
    return None


def _one_sided(value: Value, bound: Value, below: bool) -> Clip:
    if below:
        return Clip(value, low=bound)
    return Clip(value, high=bound)


def _compared(test: Equation | None) -> tuple[Value, Value, bool] | None:
    """A comparison of a value with a constant: both, and whether it asks if the value is the
    larger.
    """
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
    """x·(x > 0) is max(x, 0)."""
    cast = made.get(gate)
    if cast is not None and cast.name == "convert_element_type":
        compared = _compared(made.get(cast.inputs[0]))
    else:
        compared = None
    if compared is None or compared[0] is not value or not compared[1].is_all(0) or not compared[2]:
        return None
    return Clip(value, low=compared[1])


def _guided(clip: Clip, value: jax.Array, signal: jax.Array) -> jax.Array:
    """Eq. in section 3.4: R = (x > 0)·(R > 0)·R, and x < 6 for a ReLU6; strictly, whatever the
    derivative at ties.
    """
    if clip.mirrored:
        return jnp.where(value > 0, jax.nn.relu(signal), 0)
    over = True if clip.low is None else value > clip.low.constant
    under = True if clip.high is None else value < clip.high.constant
    return jnp.where(jnp.logical_and(over, under), jax.nn.relu(signal), 0)


def _rectified(name: str, back: Callable[[Clip, jax.Array, jax.Array], jax.Array]) -> Explainer:
    @door.checked
    def explain(
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        graph = graphs.trace(
            one(apply, variables),
            image,
            lambda equation: _clip(equation, {}) is not None,
        )
        clips = rectifiers(graph.equations, graph.input)
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
    """Raises InputError where a loop, a branch or a function with its own derivative hides a ReLU.

    A function of one value (softplus, say) may compute with one, and is none unless it ends in it.
    """
    for equation in graph.equations:
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
    """Raises InputError where several equations, none of them a known ReLU, together compute one."""
    position: dict[Value, int] = {}
    for number, equation in enumerate(graph.equations):
        found = interior(equation, graph.equations, position) or _choosing(
            equation, graph.equations, position
        )
        position.update(dict.fromkeys(equation.outputs, number))
        if found is None or (found[0] in clips and clips[found[0]].low is not None):
            continue
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
    """The one value of its size that an equation chooses from, by an extremum over an axis, and the
    way there.
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
        latest = max(frontier, key=lambda value: position.get(value, -1))
        number = position.get(latest, -1)
        if number < 0 or not (equations[number].name in MOVING or is_pointwise(equations[number])):
            return None
        found.add(number)
        frontier.remove(latest)
        frontier.update(dependent(equations[number].inputs))
    return None


def _computes_relu(root: Value, steps: Sequence[Equation]) -> bool:
    """Tells if the last of the steps is a positive multiple of max(root, 0), as far as is known at
    trace time.
    """
    constants = [value for step in steps for value in step.inputs if value.constant is not None]
    if any(value.number is None for value in constants) or any(
        step.name in CUSTOM for step in steps
    ):
        return False
    if all(map(is_pointwise, steps)):
        results = _evaluated(
            steps,
            root,
            PROBES,
            dict.fromkeys(constants, PROBES.shape),
        )
    else:
        shapes = {value: value.shape for value in constants}
        each = []
        for probe in PROBES:
            each.append(_evaluated(steps, root, np.full(root.shape, probe), shapes))
        if any((values != values.flat[0]).any() for values in each):
            return False
        results = np.array([values.flat[0] for values in each])
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
    """Evaluates the steps for `root` = `array` at trace time; the constants are their numbers in
    these shapes.
    """
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
