"""Networks of defences: the allowed ones, and the check of a state against the built one."""

import jax
import jax.numpy as jnp

from xinv.numbers import require_positive
from xinv.types import InputError, Model, Observation, Variables

NETWORKS = ("decoder", "gnime_decoder")
"""Factories from an observation to an image, without batch statistics or an output's bound."""


def check_network(network: str, encoder: str, **widths: float) -> None:
    """Raises InputError for a network or a width outside a defence's choices."""
    require_positive(**widths)
    if network not in NETWORKS:
        raise InputError(f"network is {network!r} but must be one of {', '.join(NETWORKS)}")
    if encoder == "none":
        raise InputError("encoder is 'none' but must be one that reads the explanation")


def require_network(
    variables: Variables,
    model: Model,
    observation: Observation,
) -> None:
    """Raises InputError if `variables` are of another network than `model`.

    Shapes are static, so this holds under jit.
    """
    # Compare the shapes of the built network with the fitted ones, leaf by leaf
    example = observation.prediction[:1], observation.explanation[:1]
    built = _shapes(jax.eval_shape(model.init, jax.random.key(0), *example))
    fitted = _shapes(variables)
    other = next(
        (name for name in sorted(built | fitted) if built.get(name) != fitted.get(name)), None
    )
    if other:
        raise InputError(
            "this state was learned by another network, encoder or width than this defence has:"
            f" {other} is {fitted.get(other, 'missing')} in the state and"
            f" {built.get(other, 'missing')} here"
        )


def _shapes(tree: Variables) -> dict[str, tuple[int, ...]]:
    # A path like params/dense/kernel names a leaf in the error
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {}
    for path, leaf in leaves:
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = jnp.shape(leaf)
    return found
