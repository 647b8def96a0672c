"""The explanation engine's view of a model: any JAX function as a flat list of equations.

`jax.make_jaxpr` turns a function into equations, each one primitive. Calls (jit, checkpoint, closed
calls) are inlined, loops of a fixed length (`jax.lax.scan` over layers) are unrolled, and
everything independent of the input is evaluated on the spot. `backward.vjp` walks the list backward
by rules, `cut.cut` opens it at one tensor. All of this happens at trace time: the compiled program
is as quick as a plain gradient.

A function with a derivative of its own (`jax.custom_jvp` as in `jax.nn.relu`, `jax.custom_vjp`) is
one equation with this derivative, unless there is a rule for every equation inside it that depends
on the input: then it is inlined too.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from xinv.types import Apply, Variables

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "core_closed_call", "checkpoint", "remat", "remat2"}
)
CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call"})
CONTROL = frozenset({"scan", "while", "cond"})
WHOLE = frozenset({"depthwise"})
"""Jitted functions kept as one equation of their name: faster forms in `models.layers`."""
LONGEST = 256
"""Loops of more steps stay one equation: unrolled they would take minutes to compile."""
FOLDED = 1 << 16
"""Elements of the largest constant evaluated at trace time, for rules to look at."""


class Value:
    """One value of a graph, compared by identity.

    Attributes:
      shape, dtype: of the value.
      constant: its array, if it does not depend on the graph's input; otherwise None.
      literal: whether the constant is a literal or an expression of literals:
        nothing of it was learned.
      static: whether the constant is known at trace time too.
      number: the one number of all its elements, if known at trace time; otherwise None.
    """

    __slots__ = ("constant", "dtype", "literal", "number", "shape", "static")

    def __init__(
        self,
        aval: Any,
        constant: Any = None,
        static: bool = False,
        number: float | None = None,
        literal: bool = False,
    ):
        self.shape = aval.shape
        self.dtype = aval.dtype
        self.constant = constant
        self.static = static
        self.literal = static or literal
        self.number = _everywhere(constant) if static and number is None else number

    @property
    def carries(self) -> bool:
        """Tells if a signal can flow back: the value depends on the input and is of floats."""
        return self.constant is None and jnp.issubdtype(self.dtype, jnp.inexact)

    def is_all(self, number: float) -> bool:
        """Tells if every element is known at trace time to be `number`."""
        return self.number is not None and bool(self.number == number)


class Equation(NamedTuple):
    """One primitive applied to values.

    Attributes:
      name, params: the primitive's.
      inputs, outputs: its values.
      evaluate: `(*input arrays) -> list of output arrays`.
    """

    name: str
    params: Mapping[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    evaluate: Callable[..., Sequence[jax.Array]]


class Graph(NamedTuple):
    """A function of one array; `equations` depend on it and are in order of evaluation."""

    equations: tuple[Equation, ...]
    input: Value
    output: Value


def one(apply: Apply, variables: Variables) -> Callable[[jax.Array], jax.Array]:
    """Returns the model as a function of a single image, [H,W,C] -> logits [K]."""
    return lambda image: apply(variables, image[None])[0]


def trace(
    function: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    ruled: Callable[[Equation], Any] = lambda _: None,
) -> Graph:
    """Flattens `function` at `image`'s shape.

    Args:
      function: any JAX function of one array that returns one array.
      image: an array of the input's shape.
      ruled: true for an equation with a rule; decides about inlining
        functions with own derivatives.
    """
    closed = jax.make_jaxpr(function)(image)
    if _has_halves(closed.jaxpr):
        # Relevance and multipliers are quotients of sums: ten bits are too few for them.
        closed = jax.make_jaxpr(lambda image: _widened(closed, [image])[0])(image)
    builder = _Builder(ruled)
    start = Value(closed.in_avals[0])
    (output,) = builder.inline(closed, [start])
    return Graph(tuple(builder.equations), start, output)


def evaluate(
    equations: Iterable[Equation], arrays: dict[Value, jax.Array]
) -> dict[Value, jax.Array]:
    """Adds the arrays of the equations' outputs to `arrays`, and returns it."""
    for equation in equations:
        arrays.update(
            zip(
                equation.outputs,
                equation.evaluate(*read(arrays, equation.inputs)),
                strict=True,
            )
        )
    return arrays


def read(arrays: Mapping[Value, jax.Array], values: Iterable[Value]) -> list[jax.Array]:
    """Returns the values' arrays: their constants, or those in `arrays`."""
    return [arrays[value] if value.constant is None else value.constant for value in values]


def inside(equation: Equation) -> list[Equation]:
    """Lists all equations in the body of a loop, a branch or a function with its own derivative."""
    if equation.name not in CUSTOM | CONTROL:
        return []
    # With a rule for everything, all functions are inlined; the inputs are unknown.
    builder = _Builder(lambda _: True)
    for jaxpr in jex.jaxprs_in_params(equation.params):
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        values = {}
        for atom in [*jaxpr.constvars, *jaxpr.invars]:
            values[atom] = Value(atom.aval)
        builder.run(jaxpr, values)
    return [deeper for found in builder.equations for deeper in (found, *inside(found))]


class _Builder:
    """Collects the equations of a graph."""

    def __init__(self, ruled: Callable[[Equation], Any]):
        self.equations: list[Equation] = []
        self.ruled = ruled

    def inline(self, jaxpr: Any, inputs: Sequence[Value]) -> list[Value]:
        """Adds the equations of a jaxpr, open or closed, and returns its output values."""
        # Constants of a closed jaxpr are values of its first variables.
        consts = []
        for array in getattr(jaxpr, "consts", ()):
            consts.append(Value(jax.typeof(array), array))
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        return self.run(
            jaxpr,
            dict(
                zip(
                    [*jaxpr.constvars, *jaxpr.invars],
                    [*consts, *inputs],
                    strict=True,
                )
            ),
        )

    def run(self, jaxpr: Any, values: dict[Any, Value]) -> list[Value]:
        """Adds an open jaxpr's equations, whose inputs are in `values`."""

        def value(atom: Any) -> Value:
            # A literal's number is known whatever the input.
            if isinstance(atom, jex.Literal):
                return Value(atom.aval, atom.val, static=True)
            return values[atom]

        for eqn in jaxpr.eqns:
            values.update(
                zip(
                    eqn.outvars,
                    self.add(eqn, [value(atom) for atom in eqn.invars]),
                    strict=True,
                )
            )
        return [value(atom) for atom in jaxpr.outvars]

    def add(self, eqn: Any, inputs: Sequence[Value]) -> Sequence[Value]:
        """Adds one equation and returns its output values."""
        name = eqn.primitive.name
        params = eqn.params
        body = params.get("jaxpr", params.get("call_jaxpr"))
        # Nothing here depends on the image: evaluate it now.
        if all(value.constant is not None for value in inputs):
            return _constants(eqn, inputs)
        # Calls are inlined, but for the faster forms of a primitive.
        if name in CALLS and params.get("name") in WHOLE:
            name = params["name"]
        elif name in CALLS:
            return self.inline(body, inputs)
        # Control flow of known extent is unrolled; other loops and branches stay whole.
        if name == "scan" and params["length"] <= LONGEST:
            return self.inline(_unrolled(eqn), inputs)
        if name == "cond" and inputs[0].static:
            branches = params["branches"]
            return self.inline(
                branches[
                    int(
                        np.clip(
                            inputs[0].constant,
                            0,
                            len(branches) - 1,
                        )
                    )
                ],
                inputs[1:],
            )
        equation = Equation(
            name,
            params,
            tuple(inputs),
            tuple(Value(a.aval) for a in eqn.outvars),
            _evaluator(eqn),
        )
        # Try to inline it; keep it whole if one of its equations has no rule.
        if name in CUSTOM and not self.ruled(equation):
            start = len(self.equations)
            outputs = self.inline(body, inputs)
            if all(self.ruled(inner) for inner in self.equations[start:]):
                return outputs
            del self.equations[start:]
        self.equations.append(equation)
        return equation.outputs


def _evaluator(eqn: Any) -> Callable[..., Sequence[jax.Array]]:
    """The equation as a function of its operands, literals included."""
    variables = tuple(dict.fromkeys([a for a in eqn.invars if not isinstance(a, jex.Literal)]))
    debug = jex.DebugInfo(
        "explain",
        eqn.primitive.name,
        ("",) * len(variables),
        ("",) * len(eqn.outvars),
    )
    # A jaxpr of this equation alone, by JAX's public API; literals stay inside.
    alone = jex.Jaxpr((), variables, eqn.outvars, (eqn,), eqn.effects, debug)
    function = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))

    def evaluate(*arrays: jax.Array) -> Sequence[jax.Array]:
        pairs = zip(eqn.invars, arrays, strict=True)
        known = {}
        for atom, array in pairs:
            if not isinstance(atom, jex.Literal):
                known[atom] = array
        return function(*(known[atom] for atom in variables))

    return evaluate


def _constants(eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    """Evaluates an equation of constants; at trace time if all are known and small."""
    constants = [value.constant for value in inputs]
    small = all(math.prod(getattr(atom.aval, "shape", ())) <= FOLDED for atom in eqn.outvars)
    static = small and not eqn.effects and all(value.static for value in inputs)
    if static:
        with jax.ensure_compile_time_eval():
            outputs = _evaluator(eqn)(*constants)
    else:
        outputs = _evaluator(eqn)(*constants)
    # A broadcast number stays known, however large its array.
    number = inputs[0].number if eqn.primitive.name == "broadcast_in_dim" else None
    literal = not eqn.effects and all(value.literal for value in inputs)
    found = []
    for atom, array in zip(eqn.outvars, outputs, strict=True):
        found.append(Value(atom.aval, array, static, number, literal))
    return found


def loop_inputs(eqn: Any) -> tuple[int, int]:
    """Returns two counts of a scan's inputs: constants, and constants with carried ones.

    By shapes, which all versions of JAX state: a scanned array has an axis more
    outside the loop than inside.
    """
    body = eqn.params["jaxpr"].jaxpr
    pairs = (
        zip(
            eqn.invars,
            body.invars,
            strict=True,
        ),
        zip(
            eqn.outvars,
            body.outvars,
            strict=True,
        ),
    )
    # Of equal rank inside and outside: constants and carried inputs, and carried outputs.
    inputs, outputs = ([len(a.aval.shape) == len(b.aval.shape) for a, b in of] for of in pairs)
    return sum(inputs) - sum(outputs), sum(inputs)


def _unrolled(eqn: Any) -> Any:
    """Traces a scan as a jaxpr, one step after another."""
    params = eqn.params
    body = jex.jaxpr_as_fun(params["jaxpr"])
    fixed, carried = loop_inputs(eqn)
    steps = range(params["length"])

    def run(*arrays: jax.Array) -> list[jax.Array]:
        # A reversed scan runs backward, but stacks its outputs in forward order.
        carry = list(arrays[fixed:carried])
        stacked = {}
        for step in reversed(steps) if params["reverse"] else steps:
            outputs = body(
                *arrays[:fixed],
                *carry,
                *(rows[step] for rows in arrays[carried:]),
            )
            carry, stacked[step] = outputs[: len(carry)], outputs[len(carry) :]
        return [
            *carry,
            *(jnp.stack(rows) for rows in zip(*(stacked[step] for step in steps), strict=True)),
        ]

    return jax.make_jaxpr(run)(
        *(jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars)
    )


def _is_half(value: Any) -> bool:
    """Tells if a dtype, or an array's, is a floating type narrower than float32."""
    dtype = getattr(value, "dtype", value)
    try:
        return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.dtype(dtype).itemsize < 4
    except TypeError:
        return False


def _has_halves(jaxpr: Any) -> bool:
    """Tells if any value of an open jaxpr, or of those inside it, is of a half type."""
    for eqn in jaxpr.eqns:
        inner = (getattr(sub, "jaxpr", sub) for sub in jex.jaxprs_in_params(eqn.params))
        if any(_is_half(atom.aval) for atom in eqn.outvars) or any(map(_has_halves, inner)):
            return True
    return False


def _widened(jaxpr: Any, inputs: Sequence[jax.Array]) -> list[jax.Array]:
    """Evaluates a jaxpr with float32 in place of half types, but for loops and branches."""
    # Open and closed jaxprs alike.
    consts, jaxpr = getattr(jaxpr, "consts", ()), getattr(jaxpr, "jaxpr", jaxpr)
    arrays = dict(
        zip(
            [*jaxpr.constvars, *jaxpr.invars],
            [*map(_wide, consts), *inputs],
            strict=True,
        )
    )

    def read(atom: Any) -> jax.Array:
        if isinstance(atom, jex.Literal):
            return _wide(atom.val)
        return arrays[atom]

    # Calls recursively, own derivatives kept, bodies in their own types, all else in float32.
    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in CALLS and eqn.params.get("name") not in WHOLE:
            outputs = _widened(eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")), operands)
        elif name in CUSTOM:
            outputs = _wide_custom(eqn)(*operands)
        elif any(True for _ in jex.jaxprs_in_params(eqn.params)):
            outputs = _at_own_width(eqn, *operands)
        else:
            # Parameters such as `preferred_element_type` name types too.
            params = {}
            for key, value in eqn.params.items():
                params[key] = jnp.dtype(jnp.float32) if _is_half(value) else value
            outputs = eqn.primitive.bind(*operands, **params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        arrays.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _wide_custom(eqn: Any) -> Callable[..., Any]:
    """Widens a function with its own derivative; the derivative keeps its types."""
    body = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
    own = functools.partial(_at_own_width, eqn)

    def function(*operands: jax.Array) -> list[jax.Array]:
        return _widened(body, operands)

    # Values in float32, derivative by the function's own rule.
    if eqn.primitive.name == "custom_jvp_call":
        wide = jax.custom_jvp(function)
        wide.defjvp(
            lambda operands, tangents: (wide(*operands), jax.jvp(own, operands, tangents)[1])
        )
        return wide
    wide = jax.custom_vjp(function)
    wide.defvjp(
        lambda *operands: (wide(*operands), operands),
        lambda operands, signal: jax.vjp(own, *operands)[1](signal),
    )
    return wide


def _at_own_width(eqn: Any, *operands: jax.Array) -> list[jax.Array]:
    """Evaluates an equation in its own types, between conversions from and to float32."""
    # Only operands of half types are converted.
    pairs = zip(operands, (atom.aval for atom in eqn.invars), strict=True)
    narrow = []
    for operand, aval in pairs:
        narrow.append(operand.astype(aval.dtype) if _is_half(aval) else operand)
    return [_wide(output) for output in _evaluator(eqn)(*narrow)]


def _wide(value: Any) -> Any:
    """A value of a half type as float32; others unchanged."""
    if _is_half(value):
        return jnp.asarray(value, jnp.float32)
    return value


def _everywhere(constant: Any) -> float | None:
    """Returns the one number of all an array's elements; None if they differ, and for keys."""
    if jnp.issubdtype(getattr(constant, "dtype", np.float32), jax.dtypes.extended):
        return None
    values = np.asarray(constant).ravel()
    if values.size and (values == values[0]).all():
        return values[0]
    return None
