"""Opens a model at one tensor: the tensor's value, and the rest of the model as a function of it."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain.graph import CUSTOM, Equation, Graph, Slot, evaluate, inside, read, trace
from xinv.explain.kinds import dependent, is_pointwise
from xinv.types import InputError

SIDES = ("output", "input")
CONVOLVING = frozenset({"conv_general_dilated", "depthwise"})


def cut(
    function: Callable[[jax.Array], jax.Array], image: jax.Array, layer: str | int | None = None, of: str = "output"
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Opens a function at one tensor.

    Args:
      function: any JAX function of one array that returns one array.
      image: where to evaluate it.
      layer: the name that the model gave a tensor with `jax.ad_checkpoint.checkpoint_name` (the last of that name), or
        the index of a convolution (negative from the end), which stands for its output after all that follows
        elementwise: bias, BatchNorm, residual sum, activation, but no pooling. None is the tensor named "cam" or, in a
        model that names none so, convolution -1.
      of: "output" for that tensor, or "input" for the input of the last convolution it comes from.

    Returns:
      the tensor, and the function from it to the output, in which all that does not depend on it is held fixed. What a
      convolution gives or takes is [1,h,w,c], also in a model of another layout; a named tensor is as the model has it.

    Raises:
      InputError: there is no such layer.
    """
    if of not in SIDES:
        raise InputError(f"of={of!r} is no side of a layer: choose one of {', '.join(SIDES)}")
    graph = trace(function, image)
    slot, order = _find(graph, layer)
    if of == "input":
        above = _convolutions(_upstream(graph, slot))
        if not above:
            raise InputError(f"layer {layer!r} has no input to explain: no convolution leads to it")
        slot, order = dependent(above[-1].inputs)[0], _order(above[-1], "lhs_spec")
    order = order or tuple(range(len(slot.shape)))
    below = _downstream(graph, slot)
    tail = [equation for equation in graph.equations if below.issuperset(equation.outputs)]
    fixed = evaluate((e for e in graph.equations if not below.issuperset(e.outputs)), {graph.input: image})

    def rest(value: jax.Array) -> jax.Array:
        value = jnp.transpose(value, np.argsort(order))
        return read(evaluate(tail, {**fixed, slot: value}), [graph.output])[0]

    return jnp.transpose(fixed[slot], order), rest


def _order(convolution: Equation, side: str) -> tuple[int, ...] | None:
    """The axes of a convolution's "lhs_spec" or "out_spec" as batch, space, channels; None where they are in order."""
    for equation in (convolution, *inside(convolution)):
        if equation.name == "conv_general_dilated":
            batch, channels, *space = getattr(equation.params["dimension_numbers"], side)
            return (batch, *space, channels)
    return None


def _find(graph: Graph, layer: str | int | None) -> tuple[Slot, tuple[int, ...] | None]:
    """The tensor that `layer` stands for, and the order of its axes where its convolution tells it."""
    names = {e.params["name"]: e.outputs[0] for e in graph.equations if e.name == "name"}
    convolutions = _convolutions(graph.equations)
    if layer is None:
        layer = "cam" if "cam" in names else -1
    if layer in names:
        return names[layer], None
    if isinstance(layer, int) and -len(convolutions) <= layer < len(convolutions):
        convolution = convolutions[layer]
        return _activated(graph, convolution.outputs[0]), _order(convolution, "out_spec")
    listed = ", ".join(map(repr, names)) or "none"
    raise InputError(
        f"the model has no layer {layer!r}: it names {listed} and has {len(convolutions)} convolutions, counted from 0"
    )


def _convolutions(equations: Iterable[Equation]) -> list[Equation]:
    """Those of the image with a kernel, functions with their own derivative around one among them."""
    found = []
    for equation in equations:
        names = {equation.name} | {inner.name for inner in inside(equation) if equation.name in CUSTOM}
        if names & CONVOLVING and dependent(equation.inputs):
            found.append(equation)
    return found


def _activated(graph: Graph, slot: Slot) -> Slot:
    """The last value that elementwise equations make of `slot` before any other equation reads one of them."""
    reached = {slot}
    for equation in graph.equations:
        if not reached.intersection(equation.inputs):
            continue
        if not is_pointwise(equation) or equation.outputs[0].shape != slot.shape:
            break
        if equation.outputs[0].carries:
            slot = equation.outputs[0]
        reached.update(equation.outputs)
    return slot


def _downstream(graph: Graph, slot: Slot) -> set[Slot]:
    """All that is computed from `slot`."""
    below: set[Slot] = set()
    for equation in graph.equations:
        if any(s is slot or s in below for s in equation.inputs):
            below.update(equation.outputs)
    return below


def _upstream(graph: Graph, slot: Slot) -> list[Equation]:
    """The equations that `slot` is computed from, in order."""
    needed, found = {slot}, []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            found.append(equation)
    return found[::-1]
