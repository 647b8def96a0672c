"""Layouts: the image's rows and columns in each value, and the part of it read by the output.

Both follow from shapes alone. `layouts` walks forward: convolutions, pooling, reshapes into patches
or tokens and transposes move rows and columns to other axes. `needs` walks backward: if only a
class token is read, no other is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from xinv.explain.engine.graph import Equation, Graph, Value, inside
from xinv.explain.engine.layers import same_axis
from xinv.explain.engine.primitives import RESHAPING, is_pointwise

ROWS, COLUMNS, OTHER = "rows", "columns", "other"
CONVOLVING = frozenset({"conv_general_dilated", "depthwise"})


class Factor(NamedTuple):
    """A stretch of an axis that counts rows or columns: `size` of them, `stride` pixels apart."""

    of: str
    size: int
    stride: int


class Span(NamedTuple):
    """The positions of an axis, from `start` on, that count rows, columns or both, last fastest."""

    start: int
    factors: tuple[Factor, ...]

    @property
    def length(self) -> int:
        """Number of positions."""
        return math.prod(factor.size for factor in self.factors)


Layout = tuple[Span | None, ...]
"""One entry for each axis of a value: None where it counts neither rows nor columns."""
Box = tuple[tuple[int, int], ...]
"""For each axis, the first position and the one after the last."""


def layouts(
    graph: Graph,
    shape: Sequence[int],
    tokens: tuple[int, int] | None = None,
) -> dict[Value, Layout]:
    """Finds the layout of each value, in a graph of an image [H,W,C].

    Args:
      graph: of a function of one image.
      shape: the image's.
      tokens: rows and columns of the patches, the last tokens of values [1,T,C] of unknown layout.

    Returns:
      the layouts of the values that have one.
    """
    rows = Span(0, (Factor(ROWS, shape[0], 1),))
    columns = Span(0, (Factor(COLUMNS, shape[1], 1),))
    found: dict[Value, Layout] = {graph.input: (rows, columns, None)}
    # An axis of size 1 counts nothing, whatever made it.
    for equation in graph.equations:
        value = equation.outputs[0]
        layout = _forward(equation, found)
        if tokens and (layout is None or not any(layout)) and len(value.shape) == 3:
            layout = _given(value.shape, tokens)
        if layout is not None and any(layout):
            spans = []
            for span, size in zip(layout, value.shape, strict=True):
                spans.append(span if size > 1 else None)
            found[value] = tuple(spans)
    return found


def _given(shape: Sequence[int], tokens: tuple[int, int]) -> Layout | None:
    """Returns the stated layout of tokens [1,T,C], with at most 8 others before the patches."""
    extra = shape[1] - math.prod(tokens)
    factors = Factor(ROWS, tokens[0], 1), Factor(COLUMNS, tokens[1], 1)
    if 0 <= extra <= 8:
        return (None, Span(extra, factors), None)
    return None


def _forward(equation: Equation, found: Mapping[Value, Layout]) -> Layout | None:
    """Returns the layout of an equation's output; None if nothing is known."""
    name, params, (output, *_) = equation.name, equation.params, equation.outputs
    ours = []
    for value in equation.inputs:
        ours.append(found.get(value, (None,) * len(value.shape)))
    if not any(value in found for value in equation.inputs):
        return None
    # A convolution, also inside a function with its own derivative.
    convolution = next((e for e in (equation, *inside(equation)) if e.name in CONVOLVING), None)
    if convolution is not None:
        return _convolved(convolution, ours[0], output.shape)
    # Position by position: operands of the output's shape must agree.
    if is_pointwise(equation) or name in ("cumsum", "cummax", "cumprod", "linear", "sort"):
        same = [
            layout
            for layout, value in zip(ours, equation.inputs, strict=True)
            if value.shape == output.shape
        ]
        if same:
            return tuple(_agreed(spans) for spans in zip(*same, strict=True))
        return None
    # Moves of axes.
    if name == "transpose":
        return tuple(ours[0][axis] for axis in params["permutation"])
    if name == "broadcast_in_dim":
        layout: list[Span | None] = [None] * len(output.shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            layout[place] = ours[0][axis]
        return tuple(layout)
    if name in RESHAPING:
        return _reshaped(equation.inputs[0].shape, ours[0], output.shape)
    if name in ("rev", "dynamic_update_slice"):
        return ours[0]
    # Pooling, and cuts of an axis.
    if name.startswith("reduce_window"):
        return tuple(_resized(span, size) for span, size in zip(ours[0], output.shape, strict=True))
    if name.startswith("reduce_") and "axes" in params:
        return tuple(span for axis, span in enumerate(ours[0]) if axis not in params["axes"])
    if name == "slice":
        steps = params["strides"] or (1,) * len(output.shape)
        return tuple(
            map(
                _sliced,
                ours[0],
                params["start_indices"],
                output.shape,
                steps,
            )
        )
    if name == "pad":
        padded = []
        for span, size, config in zip(ours[0], output.shape, params["padding_config"], strict=True):
            padded.append(_padded(span, size, config) if any(config) else span)
        return tuple(padded)
    # Joins and products of several values.
    if name == "concatenate":
        return _joined(equation, ours)
    if name == "dot_general":
        return _multiplied(equation, ours)
    return None


def _agreed(spans: Sequence[Span | None]) -> Span | None:
    """Returns the one span that is known; None for none or several."""
    known = {span for span in spans if span is not None}
    if len(known) == 1:
        return known.pop()
    return None


def _resized(span: Span | None, size: int) -> Span | None:
    """Gives the span of an axis another size; None unless rows or columns alone run along it."""
    if span is None or len(span.factors) != 1:
        return None
    return Span(0, (span.factors[0]._replace(size=size),))


def _padded(span: Span | None, size: int, config: Sequence[int]) -> Span | None:
    """Returns the span after padding; rows and columns in one axis only move."""
    if span is None or len(span.factors) == 1:
        return _resized(span, size)
    low, _, interior = config
    if not interior and low >= 0:
        return span._replace(start=span.start + low)
    return None


def _sliced(span: Span | None, start: int, size: int, step: int) -> Span | None:
    """Returns the span after a slice."""
    if span is None:
        return None
    # The slice keeps all of the span, such as patches without the class token.
    if step == 1 and start <= span.start and span.start + span.length <= start + size:
        return span._replace(start=span.start - start)
    # The slice takes every step-th of rows or columns alone.
    if len(span.factors) == 1 and span.start == 0:
        (factor,) = span.factors
        return Span(0, (Factor(factor.of, size, factor.stride * step),))
    return None


def _convolved(
    convolution: Equation,
    layout: Layout,
    shape: Sequence[int],
) -> Layout | None:
    """Returns the layout after a convolution: space keeps its order, channels count nothing."""
    if convolution.name == "depthwise":
        return (layout[0], *map(_resized, layout[1:3], shape[1:3]), None)
    # Any order of axes: space is found by the convolution's own specification.
    dimensions = convolution.params["dimension_numbers"]
    if len(layout) != len(dimensions.lhs_spec) or len(shape) != len(dimensions.out_spec):
        return None
    result: list[Span | None] = [None] * len(shape)
    result[dimensions.out_spec[0]] = layout[dimensions.lhs_spec[0]]
    for ours, theirs in zip(dimensions.lhs_spec[2:], dimensions.out_spec[2:], strict=True):
        result[theirs] = _resized(layout[ours], shape[theirs])
    return tuple(result)


def _joined(equation: Equation, ours: Sequence[Layout]) -> Layout:
    """Returns the layout of a concatenation; of its own axis, the only span among the parts."""
    along = equation.params["dimension"]
    start = 0
    placed: list[Span] = []
    # A part's positions start after those of the parts before it.
    for layout, value in zip(ours, equation.inputs, strict=True):
        span = layout[along]
        if span is not None:
            placed.append(span._replace(start=span.start + start))
        start += value.shape[along]
    spans = [_agreed(spans) for spans in zip(*ours, strict=True)]
    spans[along] = placed[0] if len(placed) == 1 else None
    return tuple(spans)


def _multiplied(equation: Equation, ours: Sequence[Layout]) -> Layout:
    """Returns the layout of a product; a matrix of literals resizes rows or columns."""
    contracted, batched = equation.params["dimension_numbers"]
    # Batch axes first, then the free axes of either side.
    shared = []
    for a, b in zip(*batched, strict=True):
        shared.append(_agreed([ours[0][a], ours[1][b]]))
    free = []
    for side in (0, 1):
        bound = (*contracted[side], *batched[side])
        for axis, span in enumerate(ours[side]):
            if axis not in bound:
                free.append(span)
    # A fixed matrix along one axis is an interpolation: the axis stays rows or columns.
    sides = []
    for side in (0, 1):
        if len(equation.inputs[side].shape) == 2 and equation.inputs[side].literal:
            sides.append(side)
    if sides and not shared and len(contracted[0]) == 1:
        (matrix,), (axis,) = sides[:1], contracted[1 - sides[0]]
        place = len(free) - 1 if matrix else 0
        size = equation.outputs[0].shape[place]
        free[place] = _resized(ours[1 - matrix][axis], size)
    return (*shared, *free)


def _reshaped(
    old: Sequence[int],
    layout: Layout,
    new: Sequence[int],
) -> Layout | None:
    """Splits and joins the factors of all axes; None if a new axis cuts through a factor."""
    # List the factors of the old axes, from slowest to fastest.
    rest: list[Factor | _Opaque] = []
    for size, span in zip(old, layout, strict=True):
        if span is None:
            rest += [Factor(OTHER, size, 1)] if size > 1 else []
        elif span.start == 0 and span.length == size:
            rest += span.factors
        else:
            rest.append(_Opaque(span, size))
    # Divide them among the new axes, and split a factor where an axis ends.
    result: list[Span | None] = []
    for size in new:
        taken: list[Factor | _Opaque] = []
        need = size
        while need > 1:
            part = rest.pop(0)
            if part.size > need:
                if isinstance(part, _Opaque) or part.size % need:
                    return None
                minor = part.size // need
                rest.insert(0, part._replace(size=minor))
                part = Factor(part.of, need, part.stride * minor)
            if need % part.size:
                return None
            taken.append(part)
            need //= part.size
        result.append(_span(taken))
    return tuple(result)


class _Opaque(NamedTuple):
    """An axis with rows and columns in a part of it: it is moved whole or not at all."""

    span: Span
    size: int


def _span(parts: Sequence[Factor | _Opaque]) -> Span | None:
    """Returns the span of an axis made of these parts."""
    if len(parts) == 1 and isinstance(parts[0], _Opaque):
        return parts[0].span
    if not parts or any(isinstance(part, _Opaque) or part.of == OTHER for part in parts):
        return None
    # Neighbouring factors of one kind that fit together are one again.
    merged = [parts[0]]
    for part in parts[1:]:
        last = merged[-1]
        if part.of == last.of and last.stride == part.stride * part.size:
            merged[-1] = Factor(part.of, last.size * part.size, part.stride)
        else:
            merged.append(part)
    return Span(0, tuple(merged))


class Grid(NamedTuple):
    """Rows and columns of a value: the axes that count them, and their start.

    Attributes:
      axes: one axis, or two.
      spans: those of the axes.
      size: rows and columns.
    """

    axes: tuple[int, ...]
    spans: tuple[Span, ...]
    size: tuple[int, int]

    @property
    def pairs(self) -> list[tuple[int, Span]]:
        """Pairs each axis with its span."""
        return list(zip(self.axes, self.spans, strict=True))


def spans(layout: Layout | None) -> list[tuple[int, Span]]:
    """Lists the axes of a value that count rows or columns, each with its span."""
    return [(axis, span) for axis, span in enumerate(layout or ()) if span is not None]


def grid(layout: Layout | None) -> Grid | None:
    """Returns the grid of a value, or None.

    It has none if it is pooled, cut into windows, or both query and key of an attention.
    """
    # Rows and columns may each be counted once only.
    pairs = spans(layout)
    factors = [factor for _, span in pairs for factor in span.factors]
    rows, columns = ([factor for factor in factors if factor.of == of] for of in (ROWS, COLUMNS))
    if len(rows) > 1 or len(columns) > 1 or not rows + columns:
        return None
    size = rows[0].size if rows else 1, columns[0].size if columns else 1
    return Grid(
        tuple(axis for axis, _ in pairs),
        tuple(span for _, span in pairs),
        size,
    )


class Needs(NamedTuple):
    """The parts of a graph's values read by its output.

    Attributes:
      of: the part of each value.
      by: the part of each value that each equation reads, by the equation's
        number and the operand's.
    """

    of: dict[Value, Box]
    by: dict[tuple[int, int], Box]


def needs(graph: Graph) -> Needs:
    """Finds the parts of all values that the output of a graph may depend on, by shapes alone."""
    found = Needs({graph.output: _whole(graph.output)}, {})
    for number, equation in reversed(list(enumerate(graph.equations))):
        boxes = [(value, found.of[value]) for value in equation.outputs if value in found.of]
        # Of several outputs, all of each operand counts as read.
        for place, value in enumerate(equation.inputs):
            if not boxes or value.constant is not None:
                continue
            if len(boxes) == 1:
                box = _backward(equation, place, boxes[0][1])
            else:
                box = _whole(value)
            if box is not None and all(low < high for low, high in box):
                found.by[number, place] = box
                found.of[value] = _union(found.of[value], box) if value in found.of else box
    return found


def covers(box: Box, pairs: Iterable[tuple[int, Span]]) -> bool:
    """Tells if a part of a value has any of the positions counted by these axes."""
    return all(
        box[axis][0] < span.start + span.length and span.start < box[axis][1]
        for axis, span in pairs
    )


def _whole(value: Value) -> Box:
    return tuple((0, size) for size in value.shape)


def _union(one: Box, other: Box) -> Box:
    """Returns the least box around two."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _backward(equation: Equation, place: int, box: Box) -> Box | None:
    """Finds the part of an operand read for `box` of the output; None for nothing."""
    name = equation.name
    params = equation.params
    value = equation.inputs[place]
    old = value.shape
    new = equation.outputs[0].shape
    # A broadcast operand is read at its one position.
    if is_pointwise(equation) and len(old) == len(new):
        return tuple(side if size > 1 else (0, 1) for side, size in zip(box, old, strict=True))
    if name == "transpose":
        order = params["permutation"]
        return tuple(box[order.index(axis)] for axis in range(len(old)))
    if name == "broadcast_in_dim":
        places = params["broadcast_dimensions"]
        return tuple(box[at] if size > 1 else (0, 1) for at, size in zip(places, old, strict=True))
    # An axis that a reshape leaves whole keeps its side, any other is read whole.
    if name in RESHAPING:
        places = [same_axis(old, new, axis) for axis in range(len(old))]
        kept = []
        for at, size in zip(places, old, strict=True):
            kept.append((0, size) if at is None else box[at])
        return tuple(kept)
    # Cuts shift the side, and stretch it by their steps.
    if name == "slice":
        steps = params["strides"] or (1,) * len(old)
        return tuple(
            (start + low * step, start + (high - 1) * step + 1)
            for (low, high), start, step in zip(box, params["start_indices"], steps, strict=True)
        )
    if (
        name == "dynamic_slice"
        and place == 0
        and all(index.number is not None for index in equation.inputs[1:])
    ):
        starts = [int(index.number) for index in equation.inputs[1:]]
        return tuple(
            (start + low, start + high) for (low, high), start in zip(box, starts, strict=True)
        )
    if name == "concatenate":
        along = params["dimension"]
        start = sum(other.shape[along] for other in equation.inputs[:place])
        low, high = (min(max(end - start, 0), old[along]) for end in box[along])
        return (*box[:along], (low, high), *box[along + 1 :])
    # Reduced axes are read whole; all unknown operations read everything.
    if name.startswith("reduce_") and "axes" in params:
        sides = iter(box)
        read = []
        for axis, size in enumerate(old):
            read.append((0, size) if axis in params["axes"] else next(sides))
        return tuple(read)
    if name == "dot_general":
        return _of_product(equation, place, box)
    return _whole(value)


def _of_product(equation: Equation, place: int, box: Box) -> Box:
    """Finds the part of a dot_general's operand read for `box` of its output."""
    contracted, batched = equation.params["dimension_numbers"]
    ranks = [len(value.shape) for value in equation.inputs]
    free = []
    for side, rank in enumerate(ranks):
        free.append(
            [axis for axis in range(rank) if axis not in (*contracted[side], *batched[side])]
        )
    # Outputs are batch axes, then free ones of the left and of the right.
    start = len(batched[0]) + (len(free[0]) if place else 0)
    found = dict(zip(batched[place], box, strict=False))
    found |= {axis: box[start + number] for number, axis in enumerate(free[place])}
    return tuple(
        found.get(axis, (0, size)) for axis, size in enumerate(equation.inputs[place].shape)
    )
