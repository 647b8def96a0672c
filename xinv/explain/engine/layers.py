"""Weighted layers of a graph in one form: a product with a kernel, its scale and its shift.

Bias and BatchNorm become part of the kernel, so a rule on weights gives the same map for a folded
and an unfolded model.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain.engine.graph import Equation, Graph, Value, evaluate
from xinv.explain.engine.primitives import (
    POOLING,
    REARRANGING,
    SHAPING,
    STILL,
    SUMMING,
    WEIGHTED,
    dependent,
    is_unary,
    pruned,
)

NAME = "layer"
KEEPING = (REARRANGING | SUMMING | POOLING | {"div", "max", "min", "mul"}) - {
    "gather",
    "dynamic_slice",
    "neg",
    "sub",
}
"""Primitives with results nowhere negative if their inputs are."""


class Layer(NamedTuple):
    """An affine function of one value, `product(value, kernel) + bias`.

    Attributes:
      product: bilinear.
      kernel: the weights.
      bias: broadcasts against the output.
      dense: True for a matrix product, False for a convolution.
      first: True if no other layer comes before it.
      positive: True if its input is known to be nowhere negative.
    """

    product: Callable[[jax.Array, jax.Array], jax.Array]
    kernel: jax.Array
    bias: jax.Array
    dense: bool
    first: bool
    positive: bool


class _Surroundings(NamedTuple):
    """Facts about a graph, for the search for its layers.

    Attributes:
      graph: the graph.
      readers: the equations that read each value.
      makers: the equation that makes each value.
      positive: values nowhere negative.
      normalised: values scaled by a normalisation, which also owns their shift.
    """

    graph: Graph
    readers: dict[Value, list[Equation]]
    makers: dict[Value, Equation]
    positive: set[Value]
    normalised: frozenset[Value]


Axes = dict[int, int]
"""Axes of a value, each with the axis of a kernel along it."""


def is_layer(equation: Equation) -> bool:
    """Tells if the equation weighs one value of the image by learned weights."""
    constants = []
    for value in equation.inputs:
        if value.constant is not None:
            constants.append(value)
    return equation.name in WEIGHTED and len(constants) == 1 and not constants[0].literal


def layered(graph: Graph, normalised: frozenset[Value] = frozenset()) -> Graph:
    """Rewrites each weighted equation, with its scales and shifts, as one equation "layer".

    The `Layer` is in its `params["layer"]`. It takes in all that follows channel by channel, also
    behind a change of shape; and all before it, unless this reaches back to the image (a
    standardisation) or belongs to one of the `normalised` values.
    """
    readers: dict[Value, list[Equation]] = {}
    for equation in graph.equations:
        for value in equation.inputs:
            readers.setdefault(value, []).append(equation)
    makers = {value: equation for equation in graph.equations for value in equation.outputs}
    around = _Surroundings(graph, readers, makers, _positive(graph), normalised)
    # In order of evaluation, so that a later layer takes in none of an earlier one's equations.
    after: set[Value] = set()
    replaced: dict[Value, Equation | None] = {}
    for equation in graph.equations:
        if is_layer(equation):
            replaced |= _layer(equation, around, after, replaced)
        if is_layer(equation) or after.intersection(equation.inputs):
            after.update(equation.outputs)
    # The last equation of a chain becomes the layer, the others vanish.
    equations = [replaced.get(e.outputs[0], e) for e in graph.equations]
    return pruned(graph._replace(equations=tuple(e for e in equations if e is not None)))


def _layer(
    equation: Equation,
    around: _Surroundings,
    after: set[Value],
    replaced: dict[Value, Equation | None],
) -> dict[Value, Equation | None]:
    """Maps the equations of a layer, by their first output, to it for the last, None for others."""
    number = 0 if equation.inputs[0].constant is None else 1
    value = equation.inputs[number]
    kernel = equation.inputs[1 - number].constant
    outputs, inputs = _channels(equation, number)

    def product(value: jax.Array, kernel: jax.Array) -> jax.Array:
        return equation.evaluate(*((value, kernel) if number == 0 else (kernel, value)))[0]

    # What comes before: w·(s·x + t) = (w·s)·x + w·t. A standardisation of the image stays outside.
    first = value not in after
    source, chain = (value, []) if first else _before(value, inputs, around, replaced)
    bias = jnp.zeros((), equation.outputs[0].dtype)
    move = _moves(chain)
    if chain:
        scale, shift = _scale_and_shift(source, chain)
        bias = product(shift, kernel)
        kernel = _scaled_inputs(equation, kernel, scale, inputs)

    # What follows: s·(w·x + b) + t = (s·w)·x + (s·b + t).
    following, axes = _after(equation.outputs[0], outputs, around)
    finish = _moves(following)
    if following:
        scale, shift = _scale_and_shift(equation.outputs[0], following)
        one_each = tuple(slice(None) if axis in axes else slice(0, 1) for axis in range(scale.ndim))
        bias = shift + scale * finish(bias) if chain else shift[one_each]
        kernel = kernel * _along(scale[one_each], axes, kernel.ndim)

    # The chain's moves of axes stay part of the product.
    dense = equation.name == "dot_general"
    layer = Layer(
        lambda x, k: finish(product(move(x), k)),
        kernel,
        bias,
        dense,
        first,
        source in around.positive,
    )
    output = following[-1].outputs[0] if following else equation.outputs[0]
    whole = Equation(
        NAME,
        {"layer": layer},
        (source,),
        (output,),
        lambda x: [layer.product(x, kernel) + bias],
    )
    return {step.outputs[0]: None for step in (equation, *following)} | {output: whole}


def _channels(equation: Equation, number: int) -> tuple[Axes, Axes]:
    """Returns the axes of the output, and of input `number`, along axes of the kernel."""
    if equation.name == "depthwise":
        return {3: 2}, {3: 2}
    dimensions = equation.params["dimension_numbers"]
    if equation.name == "conv_general_dilated":
        if number == 1:
            return {}, {}
        return {dimensions.out_spec[1]: dimensions.rhs_spec[0]}, {
            dimensions.lhs_spec[1]: dimensions.rhs_spec[1]
        }
    # dot_general's outputs have the batch axes first, then the free axes of either side.
    contracted, batched = dimensions
    count = len(batched[0])
    other = 1 - number
    shared = dict(zip(batched[number], batched[other], strict=True))
    ranks = [len(value.shape) for value in equation.inputs]
    free = []
    for side, rank in enumerate(ranks):
        free.append(sorted({*range(rank)} - {*contracted[side], *batched[side]}))
    start = count + (len(free[0]) if other == 1 else 0)
    outputs = dict(enumerate(batched[other])) | {
        start + place: axis for place, axis in enumerate(free[other])
    }
    return outputs, shared | dict(
        zip(
            contracted[number],
            contracted[other],
            strict=True,
        )
    )


def _after(
    value: Value,
    axes: Axes,
    around: _Surroundings,
) -> tuple[list[Equation], Axes]:
    """Finds the steps after `value` that shift, scale and move its channels.

    No other equation may read the values between them.

    Returns:
      the steps, and the axes of the last one's output along axes of the kernel.
    """
    # The longest chain so far, its accepted length, and where a sign may start a function.
    chain: list[Equation] = []
    length, kept, shifted = 0, axes, False
    unturned, turn = None, 0
    while value is not around.graph.output and len(around.readers.get(value, [])) == 1:
        (step,) = around.readers[value]
        if _shifts_or_scales(step, axes):
            # A sign that nobody learned may start a rising function, as in 1 / (1 + exp(-x)).
            learned = any(
                operand.constant is not None and not operand.literal for operand in step.inputs
            )
            if learned:
                unturned = None
            elif unturned is None and _turns(step):
                unturned = (length, kept)
                turn = len(chain)
            chain.append(step)
            # A shift that nobody learned is no bias but starts a function, as a hard sigmoid's 3.
            shifted = not learned and (shifted or step.name in ("add", "sub"))
            if not shifted:
                length = len(chain)
                kept = axes
        else:
            moved = _moved(step, axes)
            if moved is None:
                break
            chain.append(step)
            axes = moved
        (value,) = step.outputs
    if unturned is not None and _rises(chain[turn:], around):
        length, kept = unturned
    return chain[:length], kept


def _rises(steps: list[Equation], around: _Surroundings) -> bool:
    """Tells if the steps, with the functions of one value after them, rise with their input."""
    (start,), (value,) = dependent(steps[0].inputs), steps[-1].outputs
    # Follow functions with constants known at trace time, to evaluate them at two points.
    while len(around.readers.get(value, [])) == 1:
        (step,) = around.readers[value]
        if not is_unary(step) or not all(
            operand.static for operand in step.inputs if operand.constant is not None
        ):
            break
        steps.append(step)
        (value,) = step.outputs
    with jax.ensure_compile_time_eval():
        ends = (jnp.full(start.shape, number, start.dtype) for number in (-4, 4))
        low, high = (float(evaluate(steps, {start: end})[value].mean()) for end in ends)
    return low < high


def _turns(equation: Equation) -> bool:
    """Tells if a scale changes the sign."""
    numbers = []
    for value in equation.inputs:
        if value.number is not None:
            numbers.append(value.number)
    return equation.name == "neg" or (
        equation.name in ("div", "mul") and any(number < 0 for number in numbers)
    )


def _before(
    value: Value,
    axes: Axes,
    around: _Surroundings,
    replaced: dict[Value, Equation | None],
) -> tuple[Value, list[Equation]]:
    """Finds the steps before a layer's input that shift, scale and move its channels.

    Returns:
      the value before the steps, and the steps in order.
    """
    chain: list[Equation] = []
    read = value
    start = value
    length = 0
    varying = frozenset(axes)
    # Walk up while every step is affine per channel or a move, and no layer's own.
    while value in around.makers and value not in replaced and value not in around.normalised:
        step = around.makers[value]
        scales = _shifts_or_scales(step, varying)
        moved = varying if scales else _moved_back(step, varying)
        if moved is None:
            break
        chain.append(step)
        varying, (value,) = moved, dependent(step.inputs)
        # Numbers that nobody learned, such as a mean's, belong to their own operation.
        if scales and not all(
            operand.literal for operand in step.inputs if operand.constant is not None
        ):
            start = value
            length = len(chain)
    if start not in around.normalised:
        return (start, chain[:length][::-1])
    return (read, [])


_AFFINE = frozenset({"add", "div", "mul", "neg", "sub"})


def _shifts_or_scales(equation: Equation, axes: Iterable[int]) -> bool:
    """Tells if the equation is an affine function of each channel."""
    if equation.name in STILL and equation.inputs[0].shape == equation.outputs[0].shape:
        return False
    if equation.name not in _AFFINE or not is_unary(equation):
        return False
    if equation.name == "div" and equation.inputs[1].constant is None:
        return False
    # Its constants may vary along channels only, not over positions.
    constants = []
    for value in equation.inputs:
        if value.constant is not None:
            constants.append(value)
    return (
        all(_varies(value) <= set(axes) for value in constants)
        and len(equation.inputs) == len(constants) + 1
    )


def _varies(value: Value) -> set[int]:
    """The axes along which a value may vary."""
    return {axis for axis, size in enumerate(value.shape) if size > 1}


def _moved(equation: Equation, axes: Axes) -> Axes | None:
    """Moves axes past an equation that changes nothing but the shape; None for any other."""
    if equation.name not in STILL | SHAPING:
        return None
    if len(equation.inputs) != 1:
        return None
    old = equation.inputs[0].shape
    new = equation.outputs[0].shape
    if equation.name == "transpose":
        permutation = list(equation.params["permutation"])
        return {permutation.index(axis): kernel for axis, kernel in axes.items()}
    if equation.name == "broadcast_in_dim":
        places = equation.params["broadcast_dimensions"]
        same = all(new[place] == size for place, size in zip(places, old, strict=True))
        if same and _size(old) == _size(new):
            return {places[axis]: kernel for axis, kernel in axes.items()}
        return None
    # A reshape must leave each of the axes whole.
    pairs = {axis: same_axis(old, new, axis) for axis in axes}
    if None in pairs.values():
        return None
    return {pairs[axis]: kernel for axis, kernel in axes.items()}


def _moved_back(equation: Equation, axes: frozenset[int]) -> frozenset[int] | None:
    """Finds the axes before a move, or a padding with 0, that run along `axes` after it."""
    if len(dependent(equation.inputs)) != 1:
        return None
    (value,), new = dependent(equation.inputs), equation.outputs[0].shape
    if equation.name == "pad":
        if equation.inputs[1].is_all(0):
            return axes
        return None
    if _moved(equation, {}) is None:
        return None
    if equation.name == "transpose":
        return frozenset(equation.params["permutation"][axis] for axis in axes)
    if equation.name == "broadcast_in_dim":
        places = equation.params["broadcast_dimensions"]
        return frozenset(axis for axis, place in enumerate(places) if place in axes)
    # Through a reshape: axes left whole, and groups of axes merged into `axes`.
    whole = {same_axis(new, value.shape, axis) for axis in axes} - {None}
    merged = (axis for ours, theirs in _blocks(value.shape, new) if theirs <= axes for axis in ours)
    return frozenset({*whole, *merged})


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[set[int], set[int]]]:
    """Pairs the axes of two shapes of a reshape, cut where both have a boundary, without size 1."""
    blocks = []
    place = [0, 0]
    rest = []
    for shape in (old, new):
        rest.append([axis for axis, size in enumerate(shape) if size > 1])
    while place[0] < len(rest[0]):
        groups = ([], [])
        sizes = [1, 1]
        # Extend the smaller side, until both sides have as many elements.
        while not groups[0] or sizes[0] != sizes[1]:
            side = 0 if sizes[0] <= sizes[1] and place[0] < len(rest[0]) else 1
            axis = rest[side][place[side]]
            groups[side].append(axis)
            sizes[side] *= (old, new)[side][axis]
            place[side] += 1
        blocks.append((set(groups[0]), set(groups[1])))
    return blocks


def same_axis(old: Sequence[int], new: Sequence[int], axis: int) -> int | None:
    """Returns the axis of shape `new` that a reshape makes of a whole axis of `old`, or None."""
    before = _size(old[:axis])
    for place, size in enumerate(new):
        if size == old[axis] and _size(new[:place]) == before:
            return place
    return None


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _moves(chain: Sequence[Equation]) -> Callable[[jax.Array], jax.Array]:
    """Makes the function by which a chain changes shapes, without its shifts and scales."""
    # Shifts and scales are in the kernel and the bias; the moves remain.
    steps = [step for step in chain if step.name not in _AFFINE]

    def move(array: jax.Array) -> jax.Array:
        for step in steps:
            (array,) = step.evaluate(
                *(array if value.constant is None else value.constant for value in step.inputs)
            )
        return array

    return move


def _scale_and_shift(value: Value, chain: Sequence[Equation]) -> tuple[jax.Array, jax.Array]:
    """Returns the scale and the shift of a chain, in its output's shape; padding has scale 0."""

    def run(array: jax.Array) -> jax.Array:
        return evaluate(chain, {value: array})[chain[-1].outputs[0]]

    # Of an affine function per element: its value at 0, and its derivative along ones.
    zeros = jnp.zeros(value.shape, value.dtype)
    shift, scale = jax.jvp(run, (zeros,), (zeros + 1,))
    return scale, shift


def _along(scale: jax.Array, axes: Axes, rank: int) -> jax.Array:
    """Reshapes a scale that varies along `axes` of a value to vary along those of a kernel."""
    # In the kernel's order of axes, with size 1 for all others.
    order = sorted(axes, key=lambda axis: axes[axis])
    values = jnp.transpose(
        scale, [*order, *(axis for axis in range(scale.ndim) if axis not in axes)]
    )
    sizes = {axes[axis]: scale.shape[axis] for axis in order}
    return values.reshape([sizes.get(axis, 1) for axis in range(rank)])


def _scaled_inputs(
    equation: Equation,
    kernel: jax.Array,
    scale: jax.Array,
    axes: Axes,
) -> jax.Array:
    """Returns the kernel times the scale of each of its inputs."""
    middle = tuple(
        slice(None) if axis in axes else slice(n // 2, n // 2 + 1)
        for axis, n in enumerate(scale.shape)
    )
    # Other axes are read in the middle: at the border the scale may be padding's.
    scale = scale[middle]
    groups = equation.params.get("feature_group_count", 1)
    if groups == 1:
        return kernel * _along(scale, axes, kernel.ndim)
    # Each group of outputs reads channels of its own.
    output, channel, *_ = equation.params["dimension_numbers"].rhs_spec
    of_outputs = jnp.repeat(
        scale.reshape(groups, -1),
        kernel.shape[output] // groups,
        0,
    )
    order = (output, channel) if output < channel else (channel, output)
    of_outputs = of_outputs if output < channel else of_outputs.T
    return kernel * jnp.expand_dims(
        of_outputs, [axis for axis in range(kernel.ndim) if axis not in order]
    )


def _positive(graph: Graph) -> set[Value]:
    """Finds values known to be nowhere negative: ReLUs, and moves, pools and sums of these."""
    found: set[Value] = set()
    for equation in graph.equations:
        rectified = equation.name == "max" and any(value.is_all(0) for value in equation.inputs)
        kept = equation.name in KEEPING and all(
            value in found or _nowhere_negative(value) for value in equation.inputs
        )
        if rectified or kept:
            found.update(equation.outputs)
    return found


def _nowhere_negative(value: Value) -> bool:
    return value.static and bool(np.all(np.asarray(value.constant) >= 0))
