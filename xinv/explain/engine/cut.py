"""Opens a model at one tensor: its value, and the rest of the model as a function of it."""

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
"""Rows and columns of a transformer's patches, one token each."""


class Named(NamedTuple):
    """A tensor that `layer` can name.

    Attributes:
      layer: its name or its convolution's index; None for the default.
      kind: "named", "convolution" or "default".
      shape: [1,h,w,c], or the model's own shape if it has no grid.
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

    A convolution stands for its output after all elementwise operations that follow, such as bias,
    BatchNorm, residual sum and activation, but no pooling. The default is the tensor named "cam"
    or, without such a name, the last feature map: the last value with rows and columns, before
    pooling or flattening, on every way from them to the output. If the output reads a class token
    alone, it is the tokens read by the last block's attention (of a pre-norm block, normalised),
    without the class token.

    Args:
      function: any JAX function of one array that returns one array.
      image: where to evaluate it, [H,W,C].
      layer: a tensor's name, given by the model with `jax.ad_checkpoint.checkpoint_name` (the last
        of this name), the index of a convolution (negative from the end), or None for the default.
      of: "output" for that tensor, or "input" for the input of the last convolution it comes from.
      tokens: rows and columns of the patches, to read tokens [1,T,C] as a grid: of a named tensor,
        or of the default if its grid is not found. If no grid is known, other tokens come first.

    Returns:
      the tensor, and the function from it to the output, with everything independent of it held
      fixed. Convolutions' inputs and outputs, the default and tokens are [1,h,w,c], also in a
      model of another layout; a named tensor has the model's own shape.

    Raises:
      InputError: there is no such layer, the output does not depend on it, or its grid
        is not that of `tokens`.
    """
    if of not in SIDES:
        raise InputError(f"of={of!r} is no side of a layer: choose one of {', '.join(SIDES)}")
    require_tokens(tokens)
    # Find the tensor, and how to read it as [1,h,w,c].
    graph = trace(function, image)
    view = _View(graph, image.shape, tokens)
    value, place = view.find(layer)
    if of == "input":
        value, place = view.source(value, layer)
    # Refuse a tensor without influence: its map would be zero.
    if value not in view.needs.of or not layout.covers(
        view.needs.of[value], place.grid.pairs if place.grid else ()
    ):
        raise InputError(f"{_called(layer)} has no influence on the logits: choose another")
    # Divide the equations: those below the tensor run again, all others once.
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
      tokens: as for `cut`; tensors of another grid are listed in the model's own shape.

    Returns:
      the convolutions, the named tensors and, if there is one, the default.

    Raises:
      InputError: no image, no model, or no tensor that `tokens` fit.
    """
    require_tokens(tokens)
    image = door.image_shape(image)
    graph = trace(one(door.classifier(apply, image.dtype), variables), image)
    # A tensor that does not fit the tokens is listed without them.
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
    # Tokens without effect are refused, not ignored.
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
    """Returns the shape of a tensor as its place reads it."""
    return jax.eval_shape(place.take, jax.ShapeDtypeStruct(value.shape, value.dtype)).shape


def _called(layer: str | int | None) -> str:
    if layer is None:
        return "the default layer"
    return f"layer {layer!r}"


class Place(NamedTuple):
    """A way to read a tensor as [1,h,w,c].

    Attributes:
      grid: its rows and columns; None to leave it as it is.
      order: its axes as batch, space, channels, if no grid is known.
    """

    grid: Grid | None = None
    order: tuple[int, ...] | None = None

    def take(self, value: jax.Array) -> jax.Array:
        """Reads the tensor as [1,h,w,c]; without grid and order as it is."""
        if self.grid is None:
            if self.order is None:
                return value
            return jnp.transpose(value, self.order)
        # Grid axes first, cut to the patches and split into factors; then rows before columns.
        leading = self._leading(value)[self._region()]
        leading = leading.reshape(*self._sizes(), -1)
        return leading.transpose(*self._rank(), leading.ndim - 1).reshape(
            1,
            *self.grid.size,
            -1,
        )

    def put(self, value: jax.Array, whole: jax.Array) -> jax.Array:
        """Writes `value`, of the shape of `take`, into the model's tensor `whole`."""
        if self.grid is None:
            if self.order is None:
                return value
            return jnp.transpose(value, np.argsort(self.order))
        # The steps of `take` in reverse.
        sizes = self._sizes()
        rank = self._rank()
        leading = self._leading(whole)
        part = value.reshape(*(sizes[axis] for axis in rank), -1)
        part = part.transpose(*np.argsort(rank), part.ndim - 1).reshape(
            leading[self._region()].shape
        )
        if part.shape != leading.shape:
            # A class token beside the patches stays as it is.
            part = leading.at[self._region()].set(part)
        return jnp.moveaxis(part, range(len(self.grid.axes)), self.grid.axes)

    def _leading(self, value: jax.Array) -> jax.Array:
        return jnp.moveaxis(value, self.grid.axes, range(len(self.grid.axes)))

    def _region(self) -> tuple[slice, ...]:
        return tuple(slice(span.start, span.start + span.length) for span in self.grid.spans)

    def _sizes(self) -> list[int]:
        return [factor.size for span in self.grid.spans for factor in span.factors]

    def _rank(self) -> list[int]:
        """Orders the factors so that rows come before columns."""
        kinds = [factor.of for span in self.grid.spans for factor in span.factors]
        return sorted(range(len(kinds)), key=lambda number: kinds[number] == layout.COLUMNS)


class _View:
    """A graph with all known facts about its tensors."""

    def __init__(self, graph: Graph, shape: Sequence[int], tokens: Tokens | None):
        self.graph, self.tokens = graph, tokens
        self.known = _View(graph, shape, None) if tokens else None
        self.layouts = layout.layouts(graph, shape, tokens)
        self.needs = layout.needs(graph)
        self.names = {e.params["name"]: e.outputs[0] for e in graph.equations if e.name == "name"}
        self.convolutions = _convolutions(graph.equations)

    def grid(self, value: Value) -> Grid | None:
        """Finds a value's rows and columns, or None if the model has mixed them with channels.

        One of the two is enough if the image, or an axis of the value, has the other once.
        """
        grid = layout.grid(self.layouts.get(value))
        if grid is None:
            return None
        # Both are there, or the missing one has size 1.
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
        """Finds the tensor of `layer`, and the way to read it.

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
        """Finds the tensor of `layer`, whatever its grid."""
        if layer is None and "cam" not in self.names:
            return self._default()
        # By name: read as the model has it, unless the user states the grid of its tokens.
        layer = "cam" if layer is None else layer
        if layer in self.names:
            value = self.names[layer]
            if self.known is None or len(value.shape) != 3:
                return value, Place()
            return value, Place(self.known.grid(value) or self._named_tokens(value, layer))
        # By index: the convolution's output after all that follows elementwise.
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
        """Finds the input of the last convolution before a tensor."""
        above = _convolutions(_upstream(self.graph, value))
        if not above:
            raise InputError(
                f"{_called(layer)} has no input to explain: no convolution leads to it"
            )
        value = dependent(above[-1].inputs)[0]
        grid = self.grid(value)
        return value, Place(grid, None if grid else _order(above[-1], "lhs_spec"))

    def _named_tokens(self, value: Value, layer: str | int) -> Grid:
        """Returns the stated grid of a named tensor [1,T,C]; other tokens come first."""
        rows, columns = self.tokens
        # Tokens before the patches, such as a class token.
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
        """Finds the last feature map on every way from rows and columns to the output."""
        # A grid found by itself comes before the stated one.
        if self.known is not None:
            try:
                value, place = self.known.find(None)
            except InputError:
                value = None
            if value is not None and len(value.shape) == 3:
                return value, place
        # Queries and keys in one are a step of attention, not a feature map.
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
        """Lists the feature maps after which no earlier value with rows and columns is read."""
        # The last equation that reads the rows and columns of each value.
        last: dict[Value, int] = {}
        for (number, place), box in self.needs.by.items():
            value = self.graph.equations[number].inputs[place]
            spans = layout.spans(self.layouts.get(value))
            if spans and layout.covers(box, spans):
                last[value] = max(number, last.get(value, -1))
        # Walk forward with the values still to be read: one that is left alone is a narrow.
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
        """Updates the values after a layer, and those pooled since the last layer."""
        values = dependent(equation.inputs)
        # Features begin after the first layer.
        layer = _is_weighing(equation)
        if layer or learned.intersection(values):
            learned.update(equation.outputs)
        gridded = [value for value in values if value in self.layouts]
        # Pooling takes windows, or sums some of the rows and columns away.
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
        """Tells if an attention multiplies the value with itself: queries and keys in one."""
        # Follow the value without layers to a product with itself, and this to an exponential.
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
        """Follows `value` through elementwise equations, up to the first reader of another kind."""
        reached = {value}
        for equation in self.graph.equations:
            if not reached.intersection(equation.inputs):
                continue
            output = equation.outputs[0]
            # Elementwise, or a change of shape that keeps rows and columns.
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
    """Orders a convolution's axes ("lhs_spec" or "out_spec") as batch, space, channels."""
    for equation in (convolution, *inside(convolution)):
        if equation.name == "conv_general_dilated":
            batch, channels, *space = getattr(equation.params["dimension_numbers"], side)
            return (batch, *space, channels)
    return None


def _convolutions(equations: Iterable[Equation]) -> list[Equation]:
    """Lists the convolutions of the image, also those in functions with their own derivative."""
    found = []
    for equation in equations:
        # A function with its own derivative around a convolution counts as one.
        names = {equation.name} | {
            inner.name for inner in inside(equation) if equation.name in CUSTOM
        }
        if names & CONVOLVING and dependent(equation.inputs):
            found.append(equation)
    return found


def _downstream(graph: Graph, value: Value) -> set[Value]:
    """Collects all values computed from `value`."""
    below: set[Value] = set()
    for equation in graph.equations:
        if any(s is value or s in below for s in equation.inputs):
            below.update(equation.outputs)
    return below


def _upstream(graph: Graph, value: Value) -> list[Equation]:
    """Lists the equations before `value`, in order."""
    needed = {value}
    found = []
    for equation in reversed(graph.equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            found.append(equation)
    return found[::-1]
