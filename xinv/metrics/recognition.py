"""Recognition of reconstructions by an evaluation network, independent of target and attack.

The network was trained on originals. Each factory binds it with its variables and returns
`fn(truth, guess) -> float32 [N]`. The function is also a pytree whose leaves are the variables: as
an argument of a jitted function it compiles once for all seeds. `truth` and `guess` are images
[N,H,W,C] in [0,1] unless stated; z and z_r are their penultimate features [D].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from xinv.images import as_float
from xinv.types import Apply, Array, Metric, Variables

Embed = Callable[[Variables, Array], jax.Array]
"""`embed(variables, images[N,H,W,C] in [0,1]) -> features[N,D]`, as in `types.Model`."""


def attack_accuracy(apply: Apply, variables: Variables) -> Metric:
    """Returns 1 if the network gives the reconstruction its true label, else 0.

    The mean is the attack accuracy of Zhao 2021 (section 4.2) and the TCA of Jeong 2022 (section
    5.2).

    Args:
      apply, variables: the evaluation network.

    Returns:
      A metric whose `truth` is the labels, integer [N].
    """
    return Partial(_correct(apply), variables)


def embedding_similarity(embed: Embed, variables: Variables) -> Metric:
    """Returns exp(−MSE(z, z_r)), the mean over D features, in (0,1] (Zhao 2021, section 4.2).

    It is 1 for equal features. The paper names it e^{−MSE_s} and then writes e^{−|z − z_r|²}. The
    name is followed: the squared norm grows with D, and its exponential is 0 to float precision for
    any wide layer.

    Args:
      embed, variables: features of the evaluation network.
    """
    return Partial(_embedding_similarity(embed), variables)


def deepsim(embed: Embed, variables: Variables) -> Metric:
    """Returns DeePSiM as max(0, z·z_r / (|z| |z_r|)), in [0,1] (after Jeong 2022, section 5.2).

    It is 1 for equal features. The paper speaks of a feature distance and gives no formula. Its
    released code takes exp(−‖Z − Z_r‖_F / N) over a whole test set of N images and the target's own
    features. This tends to 1 as N grows and is no property of an example. The cosine is one; it
    ignores the scale of the features and is never negative after a ReLU.

    Args:
      embed, variables: features of the evaluation network.
    """
    return Partial(_deepsim(embed), variables)


@functools.cache
def _correct(apply: Apply) -> Callable[..., jax.Array]:
    def fn(variables: Variables, truth: Array, guess: Array) -> jax.Array:
        # `truth` holds labels, so no original passes the network
        return (apply(variables, as_float(guess)).argmax(axis=-1) == truth).astype(jnp.float32)

    return fn


@functools.cache
def _embedding_similarity(embed: Embed) -> Callable[..., jax.Array]:
    def fn(variables: Variables, truth: Array, guess: Array) -> jax.Array:
        z = embed(variables, as_float(truth))
        z_r = embed(variables, as_float(guess))
        # A mean over features, by the paper's name, not the norm of its formula
        return jnp.exp(-jnp.square(z - z_r).mean(axis=-1))

    return fn


@functools.cache
def _deepsim(embed: Embed) -> Callable[..., jax.Array]:
    def fn(variables: Variables, truth: Array, guess: Array) -> jax.Array:
        z = embed(variables, as_float(truth))
        z_r = embed(variables, as_float(guess))
        # The cosine, clipped where rounding exceeds 1
        cosine = (_unit(z) * _unit(z_r)).sum(axis=-1)
        # Equal features have 1, also if every ReLU is off
        return jnp.where(
            (z == z_r).all(axis=-1),
            1.0,
            cosine.clip(0, 1),
        )

    return fn


def _unit(z: jax.Array) -> jax.Array:
    """Returns rows [N,D] at length 1; rows of zeros stay zero."""
    norm = jnp.linalg.norm(z, axis=-1, keepdims=True)
    return z / jnp.where(norm == 0, 1, norm)
