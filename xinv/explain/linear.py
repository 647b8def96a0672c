"""Small weighted regressions in closed form or by compiled coordinate descent: X [S,M], y [S], weights w [S] -> [M].

All have an unpenalised intercept, taken out by centring. Weights are rescaled to mean 1, as scikit-learn's Lasso does.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from xinv.types import Array

SWEEPS, TOLERANCE = 1000, 1e-5


def _exact(fn: Callable) -> Callable:
    """Keeps matrix products in full float32: accelerators would round the normal equations to ten bits."""

    @functools.wraps(fn)
    def wrapped(*args: Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return fn(*args)

    return wrapped


@_exact
def ridge(x: Array, y: Array, w: Array, alpha: float) -> jax.Array:
    """argmin_b sum_i w_i (y_i - x_i b)^2 + alpha |b|^2."""
    gram, moment = _normal_equations(x, y, w)
    return jnp.linalg.solve(gram + alpha * jnp.eye(len(gram)), moment)


@_exact
def lasso(x: Array, y: Array, w: Array, alpha: float) -> jax.Array:
    """argmin_b sum_i w_i (y_i - x_i b)^2 / 2S + alpha |b|_1 (scikit-learn's Lasso with sample weights)."""
    gram, moment = _normal_equations(x, y, w)
    return _coordinate_descent(
        gram / len(y), moment / len(y), lambda b: jnp.sign(b) * jnp.maximum(jnp.abs(b) - alpha, 0)
    )


@_exact
def nonnegative(gram: Array, moment: Array) -> jax.Array:
    """argmin_{b >= 0} b' gram b / 2 - moment' b, for a positive semi-definite gram [M,M] and moment [M]."""
    return _coordinate_descent(gram, moment, lambda b: jnp.maximum(b, 0))


@_exact
def sum_constrained(x: Array, y: Array, w: Array, total: Array) -> jax.Array:
    """argmin_b sum_i w_i (y_i - x_i b)^2 subject to sum(b) = total: the one of least norm where several are.

    No intercept. The constraint is met by writing b = total/M + c with c orthogonal to the vector of ones.
    """
    root = jnp.sqrt(w)[:, None]
    centred = root * (x - x.mean(1, keepdims=True))
    rest = root[:, 0] * (y - x.mean(1) * total)
    return total / x.shape[1] + jnp.linalg.lstsq(centred, rest)[0]


def _normal_equations(x: Array, y: Array, w: Array) -> tuple[jax.Array, jax.Array]:
    w = w / w.mean()
    x, y = x - jnp.average(x, axis=0, weights=w), y - jnp.average(y, weights=w)
    return (x * w[:, None]).T @ x, (x * w[:, None]).T @ y


def _coordinate_descent(gram: jax.Array, moment: jax.Array, shrink: Callable) -> jax.Array:
    """Minimises b' gram b / 2 - moment' b + a separable penalty, whose proximal map with unit step is `shrink`.

    Stops once no coordinate moves the gradient by more than TOLERANCE times its largest entry, or after SWEEPS sweeps.
    A coordinate of zero curvature stays at zero.
    """
    curvature = jnp.diagonal(gram)
    safe = jnp.where(curvature > 0, curvature, 1)
    limit = TOLERANCE * jnp.abs(moment).max()

    def coordinate(j: int, carry: tuple) -> tuple:
        b, moved = carry
        new = shrink(moment[j] - gram[j] @ b + curvature[j] * b[j]) / safe[j]
        new = jnp.where(curvature[j] > 0, new, 0)
        return b.at[j].set(new), jnp.maximum(moved, jnp.abs(new - b[j]) * curvature[j])

    def sweep(carry: tuple) -> tuple:
        sweeps, b, _ = carry
        return sweeps + 1, *jax.lax.fori_loop(0, len(b), coordinate, (b, jnp.zeros_like(limit)))

    start = (0, jnp.zeros_like(moment), jnp.full_like(limit, jnp.inf))
    return jax.lax.while_loop(lambda c: (c[0] < SWEEPS) & (c[2] > limit), sweep, start)[1]
