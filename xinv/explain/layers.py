"""Weighted layers of a graph in one form: a convolution or matrix product with all that scales and shifts its output.

Bias and BatchNorm become part of the kernel, so that a rule on weights gives the same whether they were folded or not.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain.graph import Equation, Graph, Slot, evaluate
from xinv.explain.kinds import POOLING, REARRANGING, SUMMING, WEIGHTED, dependent, is_unary
from xinv.types import InputError

NAME = "layer"
KEEPING = (REARRANGING | SUMMING | POOLING | {"div", "max", "min", "mul"}) - {"gather", "dynamic_slice", "neg", "sub"}
"""Primitives that make values that are nowhere negative of such values."""


class Layer(NamedTuple):
    """An affine function of one value, `product(value, kernel) + bias`.

    Attributes:
      product: bilinear.
      kernel: the weights.
      bias: broadcasts against the output.
      dense: whether it is a matrix product and not a convolution.
      first: whether no other layer comes before it.
      positive: whether its input is known to be nowhere negative.
    """

    product: Callable[[jax.Array, jax.Array], jax.Array]
    kernel: jax.Array
    bias: jax.Array
    dense: bool
    first: bool
    positive: bool


def layered(graph: Graph) -> Graph:
    """Each weighted equation and what shifts and scales its output as one equation "layer", with `params["layer"]`.

    Raises:
      InputError: a product of two values that both depend on the input.
    """
    readers: dict[Slot, list[Equation]] = {}
    for equation in graph.equations:
        for slot in equation.inputs:
            readers.setdefault(slot, []).append(equation)
    positive, after = _positive(graph), set()
    replaced: dict[Slot, Equation | None] = {}
    for equation in graph.equations:
        if equation.name in WEIGHTED:
            replaced |= _layer(equation, graph, readers, positive, after)
        if equation.name in WEIGHTED or after.intersection(equation.inputs):
            after.update(equation.outputs)
    equations = [replaced.get(e.outputs[0], e) for e in graph.equations]
    return graph._replace(equations=tuple(e for e in equations if e is not None))


def _layer(
    equation: Equation, graph: Graph, readers: dict[Slot, list[Equation]], positive: set[Slot], after: set[Slot]
) -> dict[Slot, Equation | None]:
    """Which equations, by their first output, a layer stands for: the last becomes it, the others vanish."""
    if len(dependent(equation.inputs)) != 1:
        raise InputError(f"lrp has no rule for {equation.name!r} of two values that depend on the image")
    number = 0 if equation.inputs[0].constant is None else 1
    value, kernel = equation.inputs[number], equation.inputs[1 - number].constant
    axes = _channel_axes(equation, number)
    chain = [] if axes is None else _affine(equation.outputs[0], axes[0], graph, readers)
    bias = jnp.zeros((), equation.outputs[0].dtype)
    if chain:
        kernel, bias = _folded(equation.outputs[0], chain, kernel, axes)

    def product(value: jax.Array, kernel: jax.Array) -> jax.Array:
        return equation.evaluate(*((value, kernel) if number == 0 else (kernel, value)))[0]

    dense, first = equation.name == "dot_general", value not in after
    layer = Layer(product, kernel, bias, dense, first, value in positive)
    steps = [equation, *chain]
    output = steps[-1].outputs[0]
    whole = Equation(NAME, {"layer": layer}, (value,), (output,), lambda value: [product(value, kernel) + bias])
    return {step.outputs[0]: None for step in steps} | {output: whole}


def _channel_axes(equation: Equation, number: int) -> tuple[int, int] | None:
    """The axis of the output channels, in the output and in the kernel; None where there is no single one."""
    if equation.name == "depthwise":
        return 3, 2
    dimensions = equation.params["dimension_numbers"]
    if equation.name == "conv_general_dilated":
        return (dimensions.out_spec[1], dimensions.rhs_spec[0]) if number == 0 else None
    contracted, batched = dimensions
    kernel = equation.inputs[1 - number]
    free = set(range(len(kernel.shape))) - set(contracted[1 - number])
    if batched[0] or len(free) != 1:
        return None
    return (len(equation.outputs[0].shape) - 1 if number == 0 else 0), free.pop()


def _affine(slot: Slot, axis: int, graph: Graph, readers: dict[Slot, list[Equation]]) -> list[Equation]:
    """The equations after `slot` that shift and scale each channel and have no other reader between them."""
    chain: list[Equation] = []
    while slot is not graph.output and len(readers.get(slot, [])) == 1:
        (step,) = readers[slot]
        if not _shifts_or_scales(step, axis):
            break
        chain.append(step)
        (slot,) = step.outputs
    return chain


def _shifts_or_scales(equation: Equation, axis: int) -> bool:
    if not is_unary(equation) or (equation.name == "div" and equation.inputs[1].constant is None):
        return False
    constants = [slot for slot in equation.inputs if slot.constant is not None]
    per_channel = all(np.prod(slot.shape) == (slot.shape[axis] if slot.shape else 1) for slot in constants)
    return equation.name in {"add", "sub", "mul", "div", "neg", "name", "copy"} and per_channel


def _folded(
    slot: Slot, chain: Sequence[Equation], kernel: jax.Array, axes: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """The kernel times the chain's scale of each channel, and its shift."""

    def run(value: jax.Array) -> jax.Array:
        return evaluate(chain, {slot: value})[chain[-1].outputs[0]]

    zeros = jnp.zeros(slot.shape, slot.dtype)
    shift, scale = jax.jvp(run, (zeros,), (zeros + 1,))
    one_each = tuple(slice(None) if axis == axes[0] else slice(0, 1) for axis in range(len(slot.shape)))
    along = [-1 if axis == axes[1] else 1 for axis in range(kernel.ndim)]
    return kernel * scale[one_each].reshape(along), shift[one_each]


def _positive(graph: Graph) -> set[Slot]:
    """Values known at trace time to be nowhere negative: ReLUs, and what only moves, pools or adds such values."""
    found: set[Slot] = set()
    for equation in graph.equations:
        rectified = equation.name == "max" and any(slot.is_all(0) for slot in equation.inputs)
        kept = equation.name in KEEPING and all(slot in found or _nowhere_negative(slot) for slot in equation.inputs)
        if rectified or kept:
            found.update(equation.outputs)
    return found


def _nowhere_negative(slot: Slot) -> bool:
    return slot.static and bool(np.all(np.asarray(slot.constant) >= 0))
