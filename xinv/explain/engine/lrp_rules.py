"""LRP rules, one function each: a weighted layer z = Σ x·w + b hands its relevance to its inputs.

Each is `rule(layer, x, relevance at z, epsilon) -> relevance at x`, as defined in Montavon et
al. 2019 (table 10.1) and in zennit, the reference of the tests. p⁺ and p⁻ are the positive
and negative parts of p.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xinv.explain.engine.layers import Layer
from xinv.types import Array

Term = tuple[float, jax.Array, jax.Array]
"""A coefficient, a value and a kernel: the term c·Σ x·w of a denominator."""


def stabilised(z: jax.Array, epsilon: float) -> jax.Array:
    """Moves z away from 0 by epsilon; 0 counts as positive."""
    return z + jnp.where(z < 0, -epsilon, epsilon)


def epsilon(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
) -> jax.Array:
    """x·w / z."""
    return _redistribute(
        layer,
        relevance,
        [(1, x, layer.kernel)],
        layer.bias,
        epsilon,
    )


def zplus(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
) -> jax.Array:
    """(x·w)⁺ / Σ(x·w)⁺."""
    terms, bias = _signed(layer, x, True)
    return _redistribute(layer, relevance, terms, bias, epsilon)


def alpha_beta(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
    alpha: float = 2.0,
) -> jax.Array:
    """α (x·w)⁺ / Σ(x·w)⁺ - β (x·w)⁻ / Σ(x·w)⁻, with β = α - 1."""
    # Positive and negative terms are shared out apart, each with its own denominator.
    parts = []
    for positive in (True, False):
        parts.append(
            _redistribute(
                layer,
                relevance,
                *_signed(layer, x, positive),
                epsilon,
            )
        )
    return alpha * parts[0] - (alpha - 1) * parts[1]


def gamma(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
    gamma: float = 0.25,
) -> jax.Array:
    """x·(w + γw⁺) / Σ x·(w + γw⁺), with the signs turned for negative x and for negative z."""
    z = layer.product(x, layer.kernel) + layer.bias
    # Outputs of either sign strengthen the terms of their sign; each receives its own relevance.
    result = 0
    for positive, chosen in (True, z > 0), (False, z < 0):
        terms, bias = _signed(layer, x, positive)
        terms = [(1, part, layer.kernel + gamma * kernel) for _, part, kernel in terms]
        result += _redistribute(
            layer,
            jnp.where(
                chosen,
                relevance,
                0,
            ),
            terms,
            layer.bias + gamma * bias,
            epsilon,
        )
    return result


def flat(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
) -> jax.Array:
    """The same share for all inputs of an output."""
    # As if all inputs and weights were 1.
    return _redistribute(
        layer,
        relevance,
        [(1, jnp.ones_like(x), jnp.ones_like(layer.kernel))],
        0,
        epsilon,
    )


def w2(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
) -> jax.Array:
    """w² / Σ w²."""
    # Terms w², whatever the input: ones times squared weights.
    return _redistribute(
        layer,
        relevance,
        [(1, jnp.ones_like(x), layer.kernel**2)],
        layer.bias**2,
        epsilon,
    )


def zbox(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
    low: Array = 0.0,
    high: Array = 1.0,
) -> jax.Array:
    """(x·w - l·w⁺ - h·w⁻) / Σ(x·w - l·w⁺ - h·w⁻) for x in [l,h]; its bias cancels."""
    # Montavon et al. 2019, table 10.1: a lower bound meets w⁺, an upper bound w⁻.
    ends = (low, jnp.maximum(layer.kernel, 0)), (high, jnp.minimum(layer.kernel, 0))
    # A bound of 0 has no term: the common case saves a product.
    known_zero = [isinstance(end, np.ndarray) and not end.any() for end, _ in ends]
    terms = [(1, x, layer.kernel)]
    for (end, kernel), zero in zip(ends, known_zero, strict=True):
        terms += [] if zero else [(-1, jnp.broadcast_to(end, x.shape).astype(x.dtype), kernel)]
    return _redistribute(layer, relevance, terms, 0, epsilon)


def zplus_ones(
    layer: Layer,
    x: jax.Array,
    relevance: jax.Array,
    epsilon: float,
) -> jax.Array:
    """w⁺ / Σ w⁺: z⁺ on an input of ones (the first layer of Jeong et al. 2022)."""
    # The image does not enter: an input of ones.
    return _redistribute(
        layer,
        relevance,
        [(1, jnp.ones_like(x), jnp.maximum(layer.kernel, 0))],
        0,
        epsilon,
    )


def _signed(
    layer: Layer,
    x: jax.Array,
    positive: bool,
) -> tuple[list[Term], jax.Array]:
    """Returns the terms of a layer of one sign, and the bias's part of this sign."""
    same, opposite = (jnp.maximum, jnp.minimum) if positive else (jnp.minimum, jnp.maximum)
    # (x·w)⁺ = x⁺·w⁺ + x⁻·w⁻; for an input nowhere negative the second term is 0.
    terms = [(1, jnp.maximum(x, 0), same(layer.kernel, 0))]
    if layer.positive:
        return terms, same(layer.bias, 0)
    return [*terms, (1, jnp.minimum(x, 0), opposite(layer.kernel, 0))], same(layer.bias, 0)


def _redistribute(
    layer: Layer,
    relevance: jax.Array,
    terms: Sequence[Term],
    bias: jax.Array | float,
    epsilon: float,
) -> jax.Array:
    """Σ over terms of c·x·∂z/∂x·relevance/z, where z = Σ c·x·w + b."""
    # z as a sum of products, each with its derivative with respect to x.
    products = [
        jax.vjp(lambda x, kernel=kernel: layer.product(x, kernel), x) for _, x, kernel in terms
    ]
    z = bias + sum(
        factor * product for (factor, _, _), (product, _) in zip(terms, products, strict=True)
    )
    # Every output's relevance per unit of z, sent back along each term.
    share = relevance / stabilised(z, epsilon)
    return sum(
        factor * x * pull(share)[0]
        for (factor, x, _), (_, pull) in zip(terms, products, strict=True)
    )


RULES = {
    rule.__name__: rule for rule in (epsilon, zplus, alpha_beta, gamma, flat, w2, zbox, zplus_ones)
}
