"""Networks of a membership attack, trained side by side as if each were alone."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import parallel, train
from xinv.attacks.evidence import deviation, read, scaled
from xinv.attacks.inverter import draw_release, first_release, run
from xinv.types import Batch, InputError, Key, Model, Observation, Variables


def start(
    network: Model,
    classes: int,
    numbers: tuple[int, ...],
    key: Key,
    data: Batch,
) -> Variables:
    """Draws the variables of the numbered networks, and measures the maps of `data`.

    Returns:
      The networks' variables, each leaf [len(numbers),...], and "deviation" float32 [], the
      standard deviation of the maps.

    Raises:
      InputError: a map is not finite or does not fit the trunk.
    """
    # Each number has its own key: a network is the same in every group
    first = parallel.take(parallel.host(data), np.zeros(1, np.int32))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
    variables = _initialise(network, classes)(keys, first)
    return {**variables, "deviation": deviation(data.get("explanation"))}


@functools.cache
def objective(network: Model, classes: int, numbers: tuple[int, ...]) -> train.Loss:
    """Returns the binary cross-entropy of {"member"}, of the numbered networks side by side.

    Its value is their mean, and its gradient the gradient of their sum, so that each network is
    trained as if alone.
    """
    together = _together(network, classes, numbers)

    def loss(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        logits, updates = together(variables, batch, key)
        losses = optax.sigmoid_binary_cross_entropy(logits, batch["member"][None])
        total = losses.sum(0)
        mean = losses.mean(0)
        # The value of the mean, the gradient of the sum: no network's step depends on how many
        return total + jax.lax.stop_gradient(mean - total), updates

    return loss


def require_readable(network: Model, classes: int, data: Batch) -> None:
    """Raises InputError if the shapes of `data` do not fit the network."""
    jax.eval_shape(
        functools.partial(_initial, network, classes),
        jax.random.key(0),
        data,
    )


def logits(
    network: Model,
    classes: int,
    variables: Variables,
    data: Batch,
    batch_size: int,
) -> np.ndarray:
    """Returns the logits [R,N] of R networks; raises InputError for an input that is not finite."""
    # The leading axis of a parameter counts the networks
    numbers = tuple(range(len(jax.tree.leaves(variables["params"])[0])))
    program = _logits(network, classes, numbers)
    found = parallel.map_batches(program, variables, data, batch_size)
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(f"candidate {broken[0]} has a map that holds NaN or infinite values")
    return found.T


@functools.cache
def _together(network: Model, classes: int, numbers: tuple[int, ...]) -> Any:
    """Returns a function `(variables, batch, key) -> (logits [R,B], updates)` of R networks."""

    def together(variables: Variables, batch: Batch, key: Key | None) -> Any:
        # The deviation belongs to the data, and is the same for all networks
        networks = {}
        for name, part in variables.items():
            if name != "deviation":
                networks[name] = part
        batch = scaled(batch, variables["deviation"])

        def one(own: tuple[Variables, jax.Array]) -> Any:
            # Dropout and releases are drawn by the network's own number
            parameters, number = own
            drawn = None if key is None else jax.random.fold_in(key, number)
            observed = Observation(batch["prediction"], batch.get("explanation"))
            observed, drawn = draw_release(observed, drawn)
            return run(
                network,
                parameters,
                *read(observed, batch, classes),
                key=drawn,
            )

        # On CPU networks side by side are grouped convolutions: a step of five CNNs (32×32,
        # batch 128) takes 5.1 s so and 2.6 s one after the other
        each = (networks, jnp.asarray(numbers))
        if jax.default_backend() == "cpu":
            return jax.lax.map(one, each)
        return jax.vmap(one)(each)

    return together


@functools.cache
def _initialise(network: Model, classes: int) -> Any:
    # Compile once for all fits of a network
    return jax.jit(
        jax.vmap(
            functools.partial(
                _initial,
                network,
                classes,
            ),
            (0, None),
        )
    )


def _initial(network: Model, classes: int, key: Key, data: Batch) -> Variables:
    """Returns the variables of one network with `data` as its input."""
    observed = first_release(Observation(data["prediction"], data.get("explanation")))
    return network.init(key, *read(observed, data, classes))


@functools.cache
def _logits(network: Model, classes: int, numbers: tuple[int, ...]) -> Any:
    """Returns a function for `parallel.map_batches`: logits [B,R], NaN if a map is not finite."""
    together = _together(network, classes, numbers)

    def each(variables: Variables, batch: Batch, keys: None) -> jax.Array:
        del keys
        found = together(variables, batch, None)[0].T
        # An activation may hide that an input is not finite
        if "explanation" not in batch:
            return found
        values = batch["explanation"].reshape(len(found), -1)
        return jnp.where(jnp.isfinite(values).all(1)[:, None], found, jnp.nan)

    return each
