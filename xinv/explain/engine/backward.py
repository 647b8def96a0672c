"""`vjp` by rules: the backward pass of a model, one equation or stretch of equations at a time.

An equation with a rule sends its signal back by this rule. Neighbouring equations without rules go
back together by their own derivative, so without any rule the engine *is* `jax.vjp`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xinv.explain.engine import graph as graphs
from xinv.explain.engine.graph import Equation, Graph, Value, read
from xinv.types import InputError


class EquationContext(NamedTuple):
    """One equation on the walk backward: everything within a rule's view.

    Attributes:
      equation: the equation.
      inputs, outputs: their arrays.
      signals: one array per output, zeros where nothing flows back.
      reference: the same equation's `(inputs, outputs)` on the reference input, or None.
    """

    equation: Equation
    inputs: Sequence[jax.Array]
    outputs: Sequence[jax.Array]
    signals: Sequence[jax.Array]
    reference: tuple[Sequence[jax.Array], Sequence[jax.Array]] | None = None

    def derivative(self, *signals: jax.Array) -> list[jax.Array | None]:
        """Sends `signals` (default: this equation's) back by the equation's own derivative."""
        known = dict(zip(self.equation.inputs, self.inputs, strict=True))
        _, pull = _linearise([self.equation], known, self.equation.outputs)
        back = dict(
            pull(
                dict(
                    zip(
                        self.equation.outputs,
                        signals or self.signals,
                        strict=True,
                    )
                )
            )
        )
        # `pop`: an input read twice gets its whole signal once.
        return [back.pop(value, None) for value in self.equation.inputs]


Rule = Callable[[EquationContext], Sequence[jax.Array | None]]
"""Turns the signals at an equation's outputs into one per input; None where nothing flows back.

If an equation repeats an input along axes of size 1, a rule may leave the sum over the repetitions
to the engine.
"""

Rules = Callable[[Equation], Rule | None]
"""Chooses the rule for an equation; None leaves it its own derivative."""

Signals = dict[Value, jax.Array]
Pull = Callable[[Signals], Iterator[tuple[Value, jax.Array]]]


def no_rules(equation: Equation) -> None:
    """The empty table: every equation keeps its own derivative."""


def vjp(
    function: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    rules: Rules = no_rules,
    reference: jax.Array | None = None,
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """`jax.vjp` of a function of one array, with rules; see `walk`."""
    return walk(graphs.trace(function, image, rules), image, rules, reference)


def walk(
    graph: Graph,
    image: jax.Array,
    rules: Rules,
    reference: jax.Array | None = None,
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Runs a graph forward, and returns its output and its backward pass.

    Args:
      graph: of a function of one array that returns one array.
      image: where to evaluate it.
      rules: chooses the rule of each equation.
      reference: a second input of the same shape; rules then see its values
        beside those of `image`.

    Returns:
      the output, and the function from a signal at the output to the signal at the input.

    Raises:
      InputError: a loop, a branch or a function with its own derivative hides an
        equation that needs a rule.
    """
    arrays = {graph.input: image}
    others = None if reference is None else {graph.input: reference}
    # Forward: evaluate stretch by stretch, and keep each one's way back.
    pulls = []
    for stretch in _stretches(graph, rules):
        pulls.append(_forward(stretch, arrays, others))
    (output,) = read(arrays, [graph.output])

    def pull_back(signal: jax.Array) -> jax.Array:
        # Backward: signals of all readers of a value add up.
        signals = {graph.output: signal}
        for pull in reversed(pulls):
            for value, back in pull(signals):
                signals[value] = signals[value] + back if value in signals else back
        return signals.get(graph.input, jnp.zeros_like(image))

    return output, pull_back


class _Stretch(NamedTuple):
    """Neighbouring equations without rules, or one with its rule.

    Attributes:
      rule: the rule, or None.
      equations: in order of evaluation.
      needed: their outputs with a reader after them.
    """

    rule: Rule | None
    equations: Sequence[Equation]
    needed: Sequence[Value]


def _stretches(graph: Graph, rules: Rules) -> list[_Stretch]:
    """Divides a graph into stretches; InputError if a rule would be needed inside an equation."""
    chosen = [(rules(equation), equation) for equation in graph.equations]
    # A rule cannot reach into a loop or branch: refuse instead of taking its derivative.
    for rule, equation in chosen:
        hidden = next(
            (inner for inner in graphs.inside(equation) if rule is None and rules(inner)), None
        )
        if hidden:
            raise InputError(
                f"this method has a rule for {hidden.name!r} and cannot apply it inside"
                f" {equation.name!r}: write that part outside it"
            )
    # An equation with a rule is a group of its own, neighbours without are one.
    numbered = itertools.groupby(
        enumerate(chosen), lambda item: None if item[1][0] is None else item[0]
    )
    groups = [[pair for _, pair in group] for _, group in numbered]
    # From the end: the outputs needed later are known before each group.
    stretches = []
    later = {graph.output}
    for group in reversed(groups):
        equations = [equation for _, equation in group]
        needed = [value for equation in equations for value in equation.outputs if value in later]
        later.update(value for equation in equations for value in equation.inputs)
        stretches.append(_Stretch(group[0][0], equations, needed))
    return stretches[::-1]


def _forward(stretch: _Stretch, arrays: Signals, others: Signals | None) -> Pull:
    """Adds the stretch's outputs to both dicts of arrays; returns its backward pass."""
    if others is not None:
        graphs.evaluate(stretch.equations, others)
    if stretch.rule is None:
        outputs, pull = _linearise(stretch.equations, arrays, stretch.needed)
        arrays.update(outputs)
        return pull
    # One equation with its rule: keep what the rule may look at.
    graphs.evaluate(stretch.equations, arrays)
    (equation,) = stretch.equations
    inputs = read(arrays, equation.inputs)
    outputs = read(arrays, equation.outputs)
    if others is None:
        reference = None
    else:
        reference = (read(others, equation.inputs), read(others, equation.outputs))

    def by_rule(signals: Signals) -> Iterator[tuple[Value, jax.Array]]:
        if not any(value in signals for value in equation.outputs):
            return
        arrived = []
        for value in equation.outputs:
            arrived.append(signals.get(value, jnp.zeros(value.shape, value.dtype)))
        back = stretch.rule(
            EquationContext(
                equation,
                inputs,
                outputs,
                arrived,
                reference,
            )
        )
        pairs = zip(equation.inputs, back, strict=True)
        # Constants and integers take no signal.
        yield from (
            (value, _fit(b, value)) for value, b in pairs if b is not None and value.carries
        )

    return by_rule


def _fit(signal: jax.Array, value: Value) -> jax.Array:
    """Casts a signal to the value's type, and sums it over repetitions of the value."""
    signal = signal.astype(value.dtype)
    if signal.shape == value.shape:
        return signal
    # Repeated along new leading axes, and along axes of size 1.
    signal = signal.sum(tuple(range(signal.ndim - len(value.shape))))
    repeated = [axis for axis, size in enumerate(value.shape) if size == 1]
    return signal.sum(repeated, keepdims=True)


def _linearise(
    equations: Sequence[Equation],
    known: Signals,
    needed: Sequence[Value],
) -> tuple[Signals, Pull]:
    """Evaluates equations; returns the needed outputs and their backward pass by jax.vjp."""
    written = {value for equation in equations for value in equation.outputs}
    # Differentiate with respect to the values from outside only, each once.
    arguments = dict.fromkeys(
        s for e in equations for s in e.inputs if s.carries and s not in written
    )
    carried = [value for value in needed if value.carries]

    def run(*arrays: jax.Array) -> tuple[list[jax.Array], Signals]:
        # Arguments come last, so they replace the same values in `known`.
        found = graphs.evaluate(
            equations,
            {
                **known,
                **dict(
                    zip(
                        arguments,
                        arrays,
                        strict=True,
                    )
                ),
            },
        )
        return read(found, carried), read(found, needed)

    # Integers and keys among the outputs have no derivative: they come as auxiliary values.
    _, pull, outputs = jax.vjp(run, *read(known, arguments), has_aux=True)

    def by_derivative(signals: Signals) -> Iterator[tuple[Value, jax.Array]]:
        if not any(value in signals for value in carried):
            return
        arrived = []
        for value in carried:
            arrived.append(signals.get(value, jnp.zeros(value.shape, value.dtype)))
        yield from zip(arguments, pull(arrived), strict=True)

    return dict(zip(needed, outputs, strict=True)), by_derivative
