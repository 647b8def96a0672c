"""`vjp` by rules: how signals flow back through a model, one equation or one stretch of equations
at a time.

An equation that has a rule sends its signal back by that rule. Neighbouring equations without rules
go back together by their own derivative, so that without any rule the engine *is* `jax.vjp`.
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
    """One equation on the walk backward: all that a rule may look at.

    Attributes:
      equation: the equation.
      inputs, outputs: their arrays.
      signals: one array per output, zeros where nothing flows back.
      reference: the same equation's `(inputs, outputs)` on the reference input; None where there is
          none.
    """

    equation: Equation
    inputs: Sequence[jax.Array]
    outputs: Sequence[jax.Array]
    signals: Sequence[jax.Array]
    reference: tuple[Sequence[jax.Array], Sequence[jax.Array]] | None = None

    def derivative(self, *signals: jax.Array) -> list[jax.Array | None]:
        """Sends `signals` (by default those of this equation) back by the equation's own
        derivative.
        """
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
        return [back.pop(value, None) for value in self.equation.inputs]


Rule = Callable[[EquationContext], Sequence[jax.Array | None]]
"""Turns the signals at an equation's outputs into one per input; None where nothing flows back.

Where an equation repeats an input along axes of size 1, a rule may leave the sum over the
repetitions to the engine.
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
    """Runs a graph forward, and says how signals flow back.

    Args:
      graph: of a function of one array that returns one array.
      image: where to evaluate it.
      rules: chooses how each equation sends signals back.
      reference: a second input of the same shape; rules then see its values beside those of
          `image`.

    Returns:
      the output, and the function that turns a signal at the output into the signal at the input.

    Raises:
      InputError: a loop, a branch or a function with its own derivative hides an equation that
          needs a rule.
    """
    arrays = {graph.input: image}
    others = None if reference is None else {graph.input: reference}
    pulls = [_forward(stretch, arrays, others) for stretch in _stretches(graph, rules)]
    (output,) = read(arrays, [graph.output])

    def pull_back(signal: jax.Array) -> jax.Array:
        signals = {graph.output: signal}
        for pull in reversed(pulls):
            for value, back in pull(signals):
                signals[value] = signals[value] + back if value in signals else back
        return signals.get(graph.input, jnp.zeros_like(image))

    return output, pull_back


class _Stretch(NamedTuple):
    """Neighbouring equations without rules, or one with its rule; `needed` are its outputs that are
    read after it.
    """

    rule: Rule | None
    equations: Sequence[Equation]
    needed: Sequence[Value]


def _stretches(graph: Graph, rules: Rules) -> list[_Stretch]:
    chosen = [(rules(equation), equation) for equation in graph.equations]
    for rule, equation in chosen:
        hidden = next(
            (inner for inner in graphs.inside(equation) if rule is None and rules(inner)), None
        )
        if hidden:
            raise InputError(
                f"this method has a rule for {hidden.name!r} and cannot apply it inside"
                f" {equation.name!r}: write that part outside it"
            )
    numbered = itertools.groupby(
        enumerate(chosen), lambda item: None if item[1][0] is None else item[0]
    )
    groups = [[pair for _, pair in group] for _, group in numbered]
    stretches = []
    later = {graph.output}
    for group in reversed(groups):
        equations = [equation for _, equation in group]
        needed = [value for equation in equations for value in equation.outputs if value in later]
        later.update(value for equation in equations for value in equation.inputs)
        stretches.append(_Stretch(group[0][0], equations, needed))
    return stretches[::-1]


def _forward(stretch: _Stretch, arrays: Signals, others: Signals | None) -> Pull:
    """Adds the stretch's outputs to both dicts of arrays; returns how its signals flow back."""
    if others is not None:
        graphs.evaluate(stretch.equations, others)
    if stretch.rule is None:
        outputs, pull = _linearise(stretch.equations, arrays, stretch.needed)
        arrays.update(outputs)
        return pull
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
        yield from (
            (value, _fit(b, value)) for value, b in pairs if b is not None and value.carries
        )

    return by_rule


def _fit(signal: jax.Array, value: Value) -> jax.Array:
    """Casts a signal to the value's type, and sums it where its equation has repeated the value."""
    signal = signal.astype(value.dtype)
    if signal.shape == value.shape:
        return signal
    signal = signal.sum(tuple(range(signal.ndim - len(value.shape))))
    repeated = [axis for axis, size in enumerate(value.shape) if size == 1]
    return signal.sum(repeated, keepdims=True)


def _linearise(
    equations: Sequence[Equation],
    known: Signals,
    needed: Sequence[Value],
) -> tuple[Signals, Pull]:
    """Evaluates equations; returns the needed outputs and how their signals flow back by jax's own
    derivative.
    """
    written = {value for equation in equations for value in equation.outputs}
    arguments = dict.fromkeys(
        s for e in equations for s in e.inputs if s.carries and s not in written
    )
    carried = [value for value in needed if value.carries]

    def run(*arrays: jax.Array) -> tuple[list[jax.Array], Signals]:
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

    _, pull, outputs = jax.vjp(run, *read(known, arguments), has_aux=True)

    def by_derivative(signals: Signals) -> Iterator[tuple[Value, jax.Array]]:
        if not any(value in signals for value in carried):
            return
        arrived = []
        for value in carried:
            arrived.append(signals.get(value, jnp.zeros(value.shape, value.dtype)))
        yield from zip(arguments, pull(arrived), strict=True)

    return dict(zip(needed, outputs, strict=True)), by_derivative
