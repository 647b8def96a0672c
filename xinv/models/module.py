"""Flax Linen modules as pure functions."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from xinv.types import Model


@functools.cache
def linen(
    module: nn.Module,
    embed: str | Callable | None = None,
    head: str | Callable | None = None,
) -> Model:
    """Makes a model of any Linen module whose `__call__` takes its inputs and `train: bool`.

    Args:
      module: its variables may hold any collections; "params" are the trained ones. Random numbers
        in training come from the "dropout" stream.
      embed: the method, or a function of the bound module and the images, for a classifier's
        penultimate features.
      head: the method, or a function of the bound module and those features, for the logits.

    Returns:
      A model; its `embed` and `head` are None without these.
    """

    # `train` is fixed in each function, so that the model is a tuple of pure functions.
    def init(key, *inputs):
        return module.init(key, *inputs, train=False)

    def apply(variables, *inputs):
        return module.apply(variables, *inputs, train=False)

    def train(variables, *inputs, key: jax.Array):
        # Everything but parameters may change, such as BatchNorm's averages.
        mutable = [name for name in variables if name != "params"]
        return module.apply(
            variables,
            *inputs,
            train=True,
            rngs={"dropout": key},
            mutable=mutable,
        )

    def features(variables, images):
        return module.apply(variables, images, method=embed)

    def logits(variables, features):
        return module.apply(variables, features, method=head)

    return Model(
        init,
        apply,
        train,
        features if embed else None,
        logits if head else None,
    )
