"""Membership by a network that reads explanations: the attack of DeepLeak (2026, section IV-A)."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import models, parallel, train
from xinv.attacks import calibration, checks
from xinv.attacks.inverter import draw_release, first_release, run, select
from xinv.images import as_float
from xinv.numbers import require_count
from xinv.train.batches import Rows
from xinv.types import Array, Attack, Batch, InputError, Key, Model, Observation, Variables

KINDS = ("explanation", "prediction", "image", "label")
HELD = ("label", "image")
_PART_VALUES = 2**22  # of maps that are in memory at a time while their deviation is taken


@functools.cache
def membership_network(
    inputs: tuple[str, ...] = ("explanation",),
    trunk: str = "mobilenet_v2",
    width: float = 1.0,
    dropout: float = 0.5,
    restarts: int = 5,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),  # noqa: B008 (immutable)
) -> Attack:
    """Tells members of a training set by a network that is trained on the maps of a shadow model.

    Several networks are trained, which differ in their initial parameters and dropout masks, and
    the mean of their logits is the answer; none is chosen. They are trained in one program, from
    the same batches, each as it would be alone. If `recipe.validation` holds a part out, one epoch
    is chosen for all, by their mean loss.

    The head reads what is no map: predictions as they are given, the true class as a one-hot
    vector, and with both the probability of the true class. Maps are divided by the standard
    deviation of all of the shadow's. Images are resized to the maps (bilinear) and become channels
    beside theirs.

    DeepLeak's training is batches of 128, Adam at 1e-3, a weight decay of 1e-4 and 15 epochs (10
    for methods of the gradient): that is the recipe's.

    Args:
      inputs: kinds that it reads, of "explanation", "prediction", "image" and "label".
      trunk: "mobilenet_v2" (DeepLeak), "cnn" or "mlp", as in `xinv.models.detector`; "mlp" for maps
        of one pixel.
      width: factor on the channels and units.
      dropout: rate of the features that are dropped in training.
      restarts: number of networks.
      dtype: of the trunk's computation, "float32" or "bfloat16"; parameters stay float32.
      recipe: the training configuration.

    Returns:
      An attack whose truth is 0 or 1 [N], 1 for members, and whose guess is a score float32 [N]:
      the mean logit less a threshold, so positive for members. The threshold has the best balanced
      accuracy on the part that the recipe holds out, and is 0 without one. `fit` also takes several
      releases of each example, as `decoder` does. The state has the "variables" of the networks,
      restarts first, with the "deviation" of the maps, the "threshold", and the "history" of mean
      losses.

    Raises:
      InputError: a setting does not exist; a map does not fit the trunk; an input is missing, not
        finite, or has a class that there is not; or members or others are missing in `truth`.
    """
    if not inputs or set(inputs) - set(KINDS):
        raise InputError(f"inputs {inputs!r} must name some of {', '.join(KINDS)}")
    require_count(restarts=restarts)
    network = models.detector(trunk, width, dropout, dtype)
    numbers = tuple(range(restarts))

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),  # noqa: B008 (immutable)
        label: Array | None = None,
        image: Array | None = None,
    ) -> dict[str, Any]:
        checks.releases(observation, several=True)
        data = _evidence(inputs, observation, label, image)
        classes = _classes(observation, data)
        member = _members(truth, len(observation.prediction))
        variables = start(network, classes, numbers, key, data)

        # A key of its own, as `start` has used this one for the parameters
        loss = objective(network, classes, numbers)
        training = {**data, "member": member}
        fit_key = jax.random.fold_in(key, restarts)
        fitted = train.fit(loss, variables, training, fit_key, recipe, session)

        # What the training held out sets the threshold
        threshold = np.float32(0)
        if len(fitted.held_out):
            rows = {name: Rows(leaf, fitted.held_out) for name, leaf in data.items()}
            logits = _logits(network, classes, fitted.variables, rows, recipe.batch_size)
            threshold = _threshold(member[fitted.held_out].astype(bool), logits)
        return {
            "variables": fitted.variables,
            "threshold": threshold,
            "history": fitted.history,
        }

    def predict(
        state: Any,
        observation: Observation,
        label: Array | None = None,
        image: Array | None = None,
    ) -> np.ndarray:
        checks.releases(observation, several=False)
        data = _evidence(inputs, observation, label, image)
        classes = _classes(observation, data)
        logits = _logits(network, classes, state["variables"], data, recipe.batch_size)
        return logits - np.float32(state["threshold"])

    def check(
        observation: Observation,
        truth: Any,
        label: Any = None,
        image: Any = None,
    ) -> tuple[int, ...]:
        del truth
        checks.releases(observation, several=True)
        data = jax.eval_shape(functools.partial(_evidence, inputs), observation, label, image)
        classes = observation.prediction.shape[-1]
        jax.eval_shape(functools.partial(_initial, network, classes), jax.random.key(0), data)
        return ()

    needs = tuple(kind for kind in HELD if kind in inputs)
    return Attack(fit, predict, check, goal="membership", needs=needs)


def start(
    network: Model,
    classes: int,
    numbers: tuple[int, ...],
    key: Key,
    data: Batch,
) -> Variables:
    """Draws the variables of the networks with those numbers, and measures the maps of `data`.

    Returns:
      The networks' variables, each leaf [len(numbers),...], and "deviation" float32 [], the
      standard deviation of the maps.

    Raises:
      InputError: a map is not finite or does not fit the trunk.
    """
    first = parallel.take(parallel.host(data), np.zeros(1, np.int32))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
    variables = _initialise(network, classes)(keys, first)
    return {**variables, "deviation": _deviation(data.get("explanation"))}


@functools.cache
def objective(network: Model, classes: int, numbers: tuple[int, ...]) -> train.Loss:
    """The binary cross-entropy of {"member"}, of networks with those numbers side by side.

    Its value is their mean, and its gradient that of their sum: each is trained as if alone.
    """
    together = _together(network, classes, numbers)

    def loss(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        logits, updates = together(variables, batch, key)
        losses = optax.sigmoid_binary_cross_entropy(logits, batch["member"])
        total, mean = losses.sum(0), losses.mean(0)
        return total + jax.lax.stop_gradient(mean - total), updates

    return loss


def _threshold(member: np.ndarray, logits: np.ndarray) -> np.float32:
    """Returns the calibrated threshold of held-out examples; 0 if they are all of one kind."""
    if member.all() or not member.any():
        return np.float32(0)
    return np.float32(calibration.threshold(member, logits))


@functools.cache
def _together(network: Model, classes: int, numbers: tuple[int, ...]) -> Any:
    """A function `(variables, batch, key) -> (logits [R,B], updates)` of R networks."""

    def together(variables: Variables, batch: Batch, key: Key | None) -> Any:
        networks = {name: part for name, part in variables.items() if name != "deviation"}
        batch = _scaled(batch, variables["deviation"])

        def one(own: tuple[Variables, jax.Array]) -> Any:
            parameters, number = own
            drawn = None if key is None else jax.random.fold_in(key, number)
            observed = Observation(batch["prediction"], batch.get("explanation"))
            observed, drawn = draw_release(observed, drawn)
            return run(network, parameters, *_read(observed, batch, classes), key=drawn)

        # On CPU networks side by side are grouped convolutions: a step of five CNNs (32×32,
        # batch 128) takes 5.1 s so and 2.6 s one after the other
        each = (networks, jnp.asarray(numbers))
        return jax.lax.map(one, each) if jax.default_backend() == "cpu" else jax.vmap(one)(each)

    return together


@functools.cache
def _initialise(network: Model, classes: int) -> Any:
    # Compiled once for all fits of a network
    return jax.jit(jax.vmap(functools.partial(_initial, network, classes), (0, None)))


def _initial(network: Model, classes: int, key: Key, data: Batch) -> Variables:
    """Returns the variables of one network that reads `data`."""
    observed = first_release(Observation(data["prediction"], data.get("explanation")))
    return network.init(key, *_read(observed, data, classes))


def _scaled(batch: Batch, deviation: jax.Array) -> Batch:
    """Returns the batch with its maps in units of their deviation."""
    if "explanation" not in batch:
        return batch
    return {**batch, "explanation": batch["explanation"].astype(jnp.float32) / deviation}


def _read(observed: Observation, batch: Batch, classes: int) -> tuple[jax.Array | None, jax.Array]:
    """Returns what a network reads: maps [B,h,w,c] or None, and a vector [B,D] of the rest."""
    maps = observed.explanation
    if "image" in batch:
        image = as_float(batch["image"])
        if maps is None:
            maps = image
        else:
            shape = (*maps.shape[:3], image.shape[-1])
            image = jax.image.resize(image, shape, "linear")
            maps = jnp.concatenate([maps, image], axis=-1)

    vector = [observed.prediction.astype(jnp.float32)]
    if "label" in batch:
        label = jax.nn.one_hot(batch["label"], classes)
        vector.append(label)
        if observed.prediction.shape[-1]:
            vector.append((label * observed.prediction).sum(-1, keepdims=True))
    return maps, jnp.concatenate(vector, axis=-1)


def _evidence(
    inputs: tuple[str, ...],
    observation: Observation,
    label: Array | None,
    image: Array | None,
) -> dict[str, Array]:
    """Returns the arrays that the attack reads, by kind; InputError if one of them is missing."""
    data = select(inputs, observation)
    for kind, held in zip(HELD, (label, image), strict=True):
        if kind not in inputs:
            continue
        if held is None:
            raise InputError(f"this attack reads the {kind} of each candidate, and got none")
        data[kind] = held
    return data


def _classes(observation: Observation, data: Batch) -> int:
    """Returns the number of classes; InputError for a label that is none of them."""
    classes = observation.prediction.shape[-1]
    checks.finite(data["prediction"])
    if "label" in data:
        label = np.asarray(data["label"])
        strange = label[(label < 0) | (label >= classes)]
        if len(strange):
            raise InputError(f"label {strange[0]} is no class: predictions have {classes} classes")
    return classes


def _members(truth: Array, count: int) -> np.ndarray:
    """Returns who is a member, float32 [N]; InputError unless there are members and others."""
    member = checks.members(truth, (count,))
    if member.all() or not member.any():
        raise InputError("truth must be 0 for some examples and 1, a member, for others")
    return member.astype(np.float32)


def _deviation(maps: Array | None) -> np.float32:
    """Returns the standard deviation of all values of maps [N,...]; 1 if none differ."""
    count, mean, squares = 0, 0.0, 0.0
    for values in _parts(maps):
        added, shift = values.size, values.mean() - mean
        # The moments of a union from those of its parts (Chan, Golub and LeVeque 1983)
        squares += values.var() * added + shift**2 * count * added / (count + added)
        mean += shift * added / (count + added)
        count += added
    return np.float32(np.sqrt(squares / count)) if squares else np.float32(1)


def _parts(maps: Array | None) -> Iterator[np.ndarray]:
    """Reads maps [N,...] a part at a time, as float64; InputError for one that is not finite."""
    if maps is None:
        return
    rows = max(1, _PART_VALUES // max(1, int(np.prod(maps.shape[1:]))))
    for begin in range(0, maps.shape[0], rows):
        positions = np.arange(begin, min(begin + rows, maps.shape[0]))
        values = np.asarray(maps[positions], np.float64)
        broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
        if len(broken):
            raise InputError(f"explanation {begin + broken[0]} holds NaN or infinite values")
        yield values


def _logits(
    network: Model,
    classes: int,
    variables: Variables,
    data: Batch,
    batch_size: int,
) -> np.ndarray:
    """Returns the mean logits [N] of the networks; InputError where an input is not finite."""
    numbers = tuple(range(len(jax.tree.leaves(variables["params"])[0])))
    program = _mean_logit(network, classes, numbers)
    logits = parallel.map_batches(program, variables, data, batch_size)
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken):
        raise InputError(f"candidate {broken[0]} has a map that holds NaN or infinite values")
    return logits


@functools.cache
def _mean_logit(network: Model, classes: int, numbers: tuple[int, ...]) -> Any:
    """A function for `parallel.map_batches`: mean logits [B], NaN where a map is not finite."""
    together = _together(network, classes, numbers)

    def mean(variables: Variables, batch: Batch, keys: None) -> jax.Array:
        del keys
        logits = together(variables, batch, None)[0].mean(0)
        # An activation may hide that an input is not finite
        if "explanation" not in batch:
            return logits
        values = batch["explanation"].reshape(len(logits), -1)
        return jnp.where(jnp.isfinite(values).all(1), logits, jnp.nan)

    return mean
