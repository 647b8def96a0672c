"""Opens a model at one tensor: the tensor's value, and the rest of the model as a function of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain import door
from xinv.explain.engine import layout
from xinv.explain.engine.graph import (
    CUSTOM,
    Equation,
    Graph,
    Value,
    evaluate,
    inside,
    one,
    read,
    trace,
)
from xinv.explain.engine.layers import is_layer
from xinv.explain.engine.layout import CONVOLVING, Grid
from xinv.explain.engine.primitives import SHAPING, WEIGHTED, dependent, is_pointwise
from xinv.numbers import is_count, require
from xinv.types import Apply, Array, InputError, Variables

SIDES = ("output", "input")
Tokens = tuple[int, int]
"""Rows and columns of the patches that a transformer's tokens stand for."""


class Named(NamedTuple):
    """A tensor that `layer` can name.

    Attributes:
      layer: its name or its convolution's index; None for the default.
      kind: "named", "convolution" or "default".
      shape: [1,h,w,c], or as the model has it where it has no grid.
    """

    layer: str | int | None
    kind: str
    shape: tuple[int, ...]


def cut(
    function: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    layer: str | int | None = None,
    of: str = "output",
    tokens: Tokens | None = None,
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Opens a function at one tensor.

    Args:
      function: any JAX function of one array that returns one array.
      image: where to evaluate it, [H,W,C].
      layer: the name that the model gave a tensor with `jax.ad_checkpoint.checkpoint_name` (the
        last of that name), or the index of a convolution (negative from the end), which stands for
        its output after all that follows
        elementwise: bias, BatchNorm, residual sum, activation, but no pooling. None is the tensor
            named "cam" or, in a
        model that names none so, the last feature map: the last value with rows and columns before
        pooling or flattening that all ways from them to the output lead through. Where the output
        reads a class token alone, that are the tokens that the last block's attention reads (of a
        pre-norm block, normalised), without that token.
      of: "output" for that tensor, or "input" for the input of the last convolution it comes from.
      tokens: rows and columns of the patches, where the model's tokens [1,T,C] are to be read as a
        grid: in a named tensor, and where the default does not find it. Of a grid that is not known
            otherwise, other tokens come first.

    Returns:
      the tensor, and the function from it to the output, in which all that does not depend on it is
      held fixed. What a convolution gives or takes, the default and tokens are [1,h,w,c], also in a
      model of another layout; a named tensor is as the model has it.

    Raises:
      InputError: there is no such layer, the output does not depend on it, or its grid is not that
          of `tokens`.
    """
    if of not in SIDES:
        raise InputError(f"of={of!r} is no side of a layer: choose one of {', '.join(SIDES)}")
    require_tokens(tokens)
    graph = trace(function, image)
    view = _View(graph, image.shape, tokens)
    value, place = view.find(layer)
    if of == "input":
        value, place = view.source(value, layer)
    if value not in view.needs.of or not layout.covers(
        view.needs.of[value], place.grid.pairs if place.grid else ()
    ):
        raise InputError(f"{_called(layer)} has no influence on the logits: choose another")
    below = _downstream(graph, value)
    tail = []
    for equation in graph.equations:
        if below.issuperset(equation.outputs):
            tail.append(equation)
    fixed = evaluate(
        (e for e in graph.equations if not below.issuperset(e.outputs)), {graph.input: image}
    )

    def rest(array: jax.Array) -> jax.Array:
        return read(
            evaluate(tail, {**fixed, value: place.put(array, fixed[value])}), [graph.output]
        )[0]

    return place.take(fixed[value]), rest


def layers(
    apply: Apply,
    variables: Variables,
    image: Array,
    tokens: Tokens | None = None,
) -> list[Named]:
    """Lists the tensors of a model that `layer` can name, in order, and the default last.

    Args:
      apply, variables: the model's.
      image: [H,W,C]; its shape alone matters.
      tokens: as for `cut`; tensors of another grid are listed as the model has them.

    Raises:
      InputError: no image, no model, or no tensor that `tokens` fit.
    """
    require_tokens(tokens)
    image = door.image_shape(image)
    graph = trace(one(door.classifier(apply, image.dtype), variables), image)
    views = []
    for given in [tokens, None] if tokens else [None]:
        views.append(_View(graph, image.shape, given))
    names = [(name, "named") for name in views[0].names]
    choices = [
        *((number, "convolution") for number in range(len(views[0].convolutions))),
        *names,
        (None, "default"),
    ]
    found = []
    for layer, kind in choices:
        for view in views:
            try:
                found.append(Named(layer, kind, _shape(*view.find(layer))))
                break
            except InputError:  # other tokens, or no default
                continue
    if tokens and not any(named.shape[1:3] == tokens for named in found):
        raise InputError(
            f"tokens={tokens} fit no tensor of the model: leave them out to see what it has"
        )
    return found


def require_tokens(tokens: Tokens | None) -> None:
    """Raises InputError unless these are rows and columns of patches, or None."""
    pair = tokens is None or (
        isinstance(tokens, tuple) and len(tokens) == 2 and all(is_count(n, 1) for n in tokens)
    )
    require(
        pair,
        "tokens",
        tokens,
        "None or rows and columns of the patches, (h, w)",
    )


def _shape(value: Value, place: "Place") -> tuple[int, ...]:
    return jax.eval_shape(place.take, jax.ShapeDtypeStruct(value.shape, value.dtype)).shape


def _called(layer: str | int | None) -> str:
    if layer is None:
        return "the default layer"
    return f"layer {layer!r}"


class Place(NamedTuple):
    """A way to read a tensor as [1,h,w,c].

    Attributes:
      grid: where its rows and columns are; None to leave it as it is.
      order: its axes as batch, space, channels, where no grid is known.
    """

    grid: Grid | None = None
    order: tuple[int, ...] | None = None

    def take(self, value: jax.Array) -> jax.Array:
        """The tensor as [1,h,w,c], or as the model has it."""
        if self.grid is None:
            if self.order is None:
                return value
            return jnp.transpose(value, self.order)
        leading = self._leading(value)[self._region()]
        leading = leading.reshape(*self._sizes(), -1)
        return leading.transpose(*self._rank(), leading.ndim - 1).reshape(
            1,
            *self.grid.size,
            -1,
        )

    def put(self, value: jax.Array, whole: jax.Array) -> jax.Array:
        """The model's tensor, with what `take` gives replaced by `value`."""
        if self.grid is None:
            if self.order is None:
                return value
            return jnp.transpose(value, np.argsort(self.order))
        sizes = self._sizes()
        rank = self._rank()
        leading = self._leading(whole)
        part = value.reshape(*(sizes[axis] for axis in rank), -1)
        part = part.transpose(*np.argsort(rank), part.ndim - 1).reshape(
            leading[self._region()].shape
        )
        if part.shape != leading.shape:
            part = leading.at[self._region()].set(part)  # beside a class token
        return jnp.moveaxis(part, range(len(self.grid.axes)), self.grid.axes)

    def _leading(self, value: jax.Array) -> jax.Array:
        return jnp.moveaxis(value, self.grid.axes, range(len(self.grid.axes)))

    def _region(self) -> tuple[slice, ...]:
        return tuple(slice(span.start, span.start + span.length) for span in self.grid.spans)

    def _sizes(self) -> list[int]:
        return [factor.size for span in self.grid.spans for factor in span.factors]

    def _rank(self) -> list[int]:
        """The order of the factors in which rows come before columns."""
        kinds = [factor.of for span in self.grid.spans for factor in span.factors]
        return sorted(range(len(kinds)), key=lambda number: kinds[number] == layout.COLUMNS)


class _View:
    """A graph with what is known of its tensors."""

    def __init__(self, graph: Graph, shape: Sequence[int], tokens: Tokens | None):
        self.graph, self.tokens = graph, tokens
        self.known = _View(graph, shape, None) if tokens else None
        self.layouts = layout.layouts(graph, shape, tokens)
        self.needs = layout.needs(graph)
        self.names = {e.params["name"]: e.outputs[0] for e in graph.equations if e.name == "name"}
        self.convolutions = _convolutions(graph.equations)

    def grid(self, value: Value) -> Grid | None:
        """Finds a value's rows and columns: both, or one if the image, or an axis of the value, has
        the other once.

        Otherwise the model has mixed the missing ones with the channels.
        """
        grid = layout.grid(self.layouts.get(value))
        if grid is None:
            return None
        counted = {factor.of for span in grid.spans for factor in span.factors}
        sizes = dict(
            zip(
                (layout.ROWS, layout.COLUMNS),
                self.graph.input.shape,
                strict=False,
            )
        )
        single = value.shape.count(1) > 1 and len(value.shape) - value.shape.count(1) <= 2
        if single or all(of in counted or sizes[of] == 1 for of in sizes):
            return grid
        return None

    def find(self, layer: str | int | None) -> tuple[Value, Place]:
        """The tensor that `layer` stands for, and how it is read.

        Raises:
          InputError: there is none, or it has another grid than `tokens`.
        """
        value, place = self._find(layer)
        shape = _shape(value, place)
        if self.tokens and shape[1:3] != self.tokens:
            raise InputError(
                f"tokens={self.tokens} are not the rows and columns of {_called(layer)}, which is"
                f" {list(shape)}: leave them out"
            )
        return value, place

    def _find(self, layer: str | int | None) -> tuple[Value, Place]:
        if layer is None and "cam" not in self.names:
            return self._default()
        layer = "cam" if layer is None else layer
        if layer in self.names:
            value = self.names[layer]
            if self.known is None or len(value.shape) != 3:
                return value, Place()
            return value, Place(self.known.grid(value) or self._named_tokens(value, layer))
        count = len(self.convolutions)
        if isinstance(layer, int) and not isinstance(layer, bool) and -count <= layer < count:
            convolution = self.convolutions[layer]
            value = self._activated(convolution.outputs[0])
            grid = self.grid(value)
            return value, Place(grid, None if grid else _order(convolution, "out_spec"))
        listed = ", ".join(map(repr, self.names)) or "none"
        raise InputError(
            f"the model has no layer {layer!r}: it names {listed} and has {count} convolutions,"
            " counted from 0"
        )

    def source(self, value: Value, layer: str | int | None) -> tuple[Value, Place]:
        """The input of the last convolution that leads to a tensor."""
        above = _convolutions(_upstream(self.graph, value))
        if not above:
            raise InputError(
                f"{_called(layer)} has no input to explain: no convolution leads to it"
            )
        value = dependent(above[-1].inputs)[0]
        grid = self.grid(value)
        return value, Place(grid, None if grid else _order(above[-1], "lhs_spec"))

    def _named_tokens(self, value: Value, layer: str | int) -> Grid:
        rows, columns = self.tokens
        extra = value.shape[1] - rows * columns
        if extra < 0:
            raise InputError(
                f"tokens={self.tokens} are more than the {value.shape[1]} of {_called(layer)}"
            )
        factors = (
            layout.Factor(
                layout.ROWS,
                rows,
                1,
            ),
            layout.Factor(
                layout.COLUMNS,
                columns,
                1,
            ),
        )
        return Grid((1,), (layout.Span(extra, factors),), self.tokens)

    def _default(self) -> tuple[Value, Place]:
        """The last feature map that all of the output's ways from rows and columns lead through."""
        if self.known is not None:
            try:
                value, place = self.known.find(None)
            except InputError:
                value = None
            if value is not None and len(value.shape) == 3:
                return value, place
        for value in reversed(self._narrows()):
            if not self._is_projection(value):
                return value, Place(self.grid(value))
        count = len(self.convolutions)
        raise InputError(
            "the model has no feature map with rows and columns: name one with"
            " jax.ad_checkpoint.checkpoint_name(x, 'cam'), or give tokens=(h, w) for a"
            f" transformer's; it has {count} convolutions"
        )

    def _narrows(self) -> list[Value]:
        """Feature maps after which, in order of evaluation, no other value with rows and columns is
        to be read.
        """
        last: dict[Value, int] = {}
        for (number, place), box in self.needs.by.items():
            value = self.graph.equations[number].inputs[place]
            spans = layout.spans(self.layouts.get(value))
            if spans and layout.covers(box, spans):
                last[value] = max(number, last.get(value, -1))
        found = []
        live = {self.graph.input} & last.keys()
        learned = set()
        pooled = set()
        for number, equation in enumerate(self.graph.equations):
            live = {value for value in live if last[value] > number} | {
                s for s in equation.outputs if s in last
            }
            self._follow(equation, learned, pooled)
            value = equation.outputs[0]
            if live == {value} and value in learned and value not in pooled and value.carries:
                grid = self.grid(value)
                if grid is not None and grid.size[0] * grid.size[1] > 1:
                    found.append(value)
        return found

    def _follow(
        self,
        equation: Equation,
        learned: set[Value],
        pooled: set[Value],
    ) -> None:
        """Adds an equation's outputs to the values after a layer, and to those pooled since the
        last layer.
        """
        values = dependent(equation.inputs)
        layer = _is_weighing(equation)
        if layer or learned.intersection(values):
            learned.update(equation.outputs)
        gridded = [value for value in values if value in self.layouts]
        reduced = (
            equation.name.startswith("reduce_")
            and len(self.layouts.get(equation.outputs[0], ())) > 0
        )
        fewer = reduced and any(
            len(_factors(self.layouts[value])) > len(_factors(self.layouts[equation.outputs[0]]))
            for value in gridded
        )
        pools = equation.name.startswith("reduce_window") or fewer
        if not layer and (pools or (gridded and all(value in pooled for value in gridded))):
            pooled.update(equation.outputs)

    def _is_projection(self, value: Value) -> bool:
        """Tells if an attention multiplies the value by itself, without a layer between: queries
        and keys in one.
        """
        reached = {value}
        products = set()
        for equation in self.graph.equations:
            values = dependent(equation.inputs)
            if equation.name in WEIGHTED and len(values) == 2 and reached.intersection(values):
                products.update(equation.outputs)
            elif equation.name == "exp" and products.intersection(values):
                return True
            elif not is_layer(equation):
                products.update(equation.outputs if products.intersection(values) else ())
                reached.update(equation.outputs if reached.intersection(values) else ())
        return False

    def _activated(self, value: Value) -> Value:
        """The last value that elementwise equations make of `value` before any other equation reads
        one of them.
        """
        reached = {value}
        for equation in self.graph.equations:
            if not reached.intersection(equation.inputs):
                continue
            output = equation.outputs[0]
            still = is_pointwise(equation) and np.prod(output.shape) == np.prod(value.shape)
            moved = equation.name in SHAPING and self.grid(output) is not None
            if not still and not (moved and np.prod(output.shape) == np.prod(value.shape)):
                break
            if output.carries:
                value = output
            reached.update(equation.outputs)
        return value


def _factors(spans: layout.Layout) -> list[layout.Factor]:
    return [factor for span in spans if span is not None for factor in span.factors]


def _is_weighing(equation: Equation) -> bool:
    """Tells if the equation is a layer, or a function with its own derivative around one."""
    inner = inside(equation) if equation.name in CUSTOM else []
    return is_layer(equation) or any(step.name in WEIGHTED for step in inner)


def _order(convolution: Equation, side: str) -> tuple[int, ...] | None:
    """The axes of a convolution's "lhs_spec" or "out_spec" as batch, space, channels; None where
    they are in order.
    """
    for equation in (convolution, *inside(convolution)):
        if equation.name == "conv_general_dilated":
            batch, channels, *space = getattr(equation.params["dimension_numbers"], side)
            return (batch, *space, channels)
    return None


def _convolutions(equations: Iterable[Equation]) -> list[Equation]:
    """Those of the image with a kernel, functions with their own derivative around one among them."""
    found = []
    for equation in equations:
        names = {equation.name} | {
            inner.name for inner in inside(equation) if equation.name in CUSTOM
        }
        if names & CONVOLVING and dependent(equation.inputs):
            found.append(equation)
    return found


def _downstream(graph: Graph, value: Value) -> set[Value]:
    """All that is computed from `value`."""
    below: set[Value] = set()
    for equation in graph.equations:
        if any(s is value or s in below for s in equation.inputs):
            below.update(equation.outputs)
    return below


def _upstream(graph: Graph, value: Value) -> list[Equation]:
    """The equations that `value` is computed from, in order."""
    needed = {value}
    found = []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            found.append(equation)
    return found[::-1]
