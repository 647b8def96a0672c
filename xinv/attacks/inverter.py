"""Parts of the trained attacks: networks from a release to an image, their losses, truncation."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xinv import models, train
from xinv.attacks import checks
from xinv.images import as_float, ssim
from xinv.numbers import require_positive
from xinv.types import Array, Batch, InputError, Key, Model, Observation, Variables

_DSSIM_WINDOW = 11  # dm_pix accepts smaller images and returns nonsense
# Yang's code fixes c at 50. Test MSE on 8×8 digits from 0, 10 and 50: full predictions .031, .031,
# .035; m = 3 .058, .047, .048; m = 1 .051, .050, .050.
_INITIAL_OFFSET = 10.0


def _mse(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return jnp.mean((images - guesses) ** 2, axis=(1, 2, 3))


def _mae(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(images - guesses), axis=(1, 2, 3))


def _dssim(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return 1 - ssim(images, guesses, _DSSIM_WINDOW)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mse": _mse,
    "mae": _mae,
    "dssim": _dssim,
}


def logit_input(network: Model) -> Model:
    """Returns `network` on z = log(prediction) + c, c a learned "offset" (Yang 2019, Eq. 12).

    The zero of a truncated class stays 0, as in the authors' code. So c matters even before a
    BatchNorm: it sets the released classes apart from the truncated ones. It starts at 10, since
    with 0 a certain class would look truncated.
    """

    def rescaled(variables: Variables, prediction: Array) -> jax.Array:
        # The inner `where` keeps log(0) out of the gradient as well
        released = prediction > 0
        return jnp.where(
            released,
            jnp.log(
                jnp.where(
                    released,
                    prediction,
                    1,
                )
            )
            + variables["params"]["offset"],
            0,
        )

    def init(key: Key, prediction: Array, *rest: Any) -> Variables:
        # The constant c lies beside the network's parameters and is trained with them
        variables = join({"network": network.init(key, prediction, *rest)})
        return {
            **variables,
            "params": {**variables["params"], "offset": jnp.float32(_INITIAL_OFFSET)},
        }

    def apply(variables: Variables, prediction: Array, *rest: Any) -> jax.Array:
        return network.apply(
            part(variables, "network"),
            rescaled(variables, prediction),
            *rest,
        )

    def train(
        variables: Variables, prediction: Array, *rest: Any, key: Key
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        inputs = rescaled(variables, prediction), *rest
        outputs, updates = network.train(
            part(variables, "network"),
            *inputs,
            key=key,
        )
        return outputs, join({"network": updates})

    return Model(init, apply, train)


RESCALES: dict[str, Callable[[Model], Model]] = {
    "none": lambda network: network,
    "logits": logit_input,
}


def check_rescale(rescale: str, logits: bool) -> None:
    """Raises InputError unless `rescale` is one, of predictions that may be `logits` already."""
    checks.choice("rescale", rescale, RESCALES)
    # The logarithm of a logit means nothing, and NaN where it is negative
    if logits and rescale != "none":
        raise InputError(
            f"rescale is {rescale!r}, which takes the logarithm of probabilities, but the "
            "predictions are logits: set it to 'none'"
        )


class Settings(NamedTuple):
    """Settings of an inversion network, all but the shape of its images."""

    network: str
    encoder: str
    rescale: str
    width: float
    dtype: str


@functools.cache
def inverter(settings: Settings, image_shape: tuple[int, ...]) -> Model:
    """Returns the network from predictions [N,K] and maps [N,h,w,c] or None to images [N,H,W,C].

    Args:
      settings: of the network.
      image_shape: (H, W, C).

    Raises:
      InputError: a setting does not exist.
    """
    checks.choice("rescale", settings.rescale, RESCALES)
    require_positive(width=settings.width)
    # The remaining settings are arguments of the network's factory
    hyper = {}
    for name, value in settings._asdict().items():
        if name not in ("network", "rescale"):
            hyper[name] = value
    return RESCALES[settings.rescale](
        models.build(settings.network, image_shape=image_shape, **hyper)
    )


@functools.cache
def objective(network: Model, loss: str) -> train.Loss:
    """Returns the loss: the distance of reconstructions to {"image"}, per example [B].

    Its batches are {"prediction"[, "explanation"], "image"}, with one release of each image or
    several.
    """

    def distance(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        # With several releases every step sees another one
        observed, key = draw_release(
            Observation(batch["prediction"], batch.get("explanation")), key
        )
        guesses, updates = run(network, variables, *observed, key=key)
        return LOSSES[loss](as_float(batch["image"]), guesses), updates

    return distance


def select(inputs: tuple[str, ...], observation: Observation) -> dict[str, Array]:
    """Returns the parts of `observation` named by `inputs`; an unused prediction has no columns.

    Raises:
      InputError: explanations are named, but there are none.
    """
    # A prediction without columns keeps the number of examples
    columns = observation.prediction.shape[-1] if "prediction" in inputs else 0
    selected = {"prediction": observation.prediction[..., :columns]}
    if "explanation" in inputs:
        if observation.explanation is None:
            raise InputError(
                "this attack reads explanations, but the observation has none: use"
                " inputs=('prediction',)"
            )
        selected["explanation"] = observation.explanation
    return selected


def first_release(observation: Observation) -> Observation:
    """Returns the first of R releases [N,R,K] and [N,R,h,w,c], or a single release as it is."""
    several = observation.prediction.ndim == 3
    if several:
        return jax.tree.map(lambda releases: releases[:, 0], observation)
    return observation


def draw_release(observation: Observation, key: Key | None) -> tuple[Observation, Key | None]:
    """Draws one of R releases of each example; without a key takes the first.

    Returns:
      The observation, and a key for later draws.
    """
    if key is None or observation.prediction.ndim == 2:
        return first_release(observation), key
    draw_key, key = jax.random.split(key)
    # Prediction and map of one example come from the same release
    count, several = observation.prediction.shape[:2]
    chosen = jax.random.randint(draw_key, (count,), 0, several)
    return jax.tree.map(lambda releases: releases[jnp.arange(count), chosen], observation), key


@functools.cache
def reconstruct(network: Model) -> Callable[..., jax.Array]:
    """Returns a function for `parallel.map_batches`: images in [0,1] from a batch of releases."""

    def images(variables: Variables, batch: Batch, keys: None) -> jax.Array:
        del keys
        return jnp.clip(
            network.apply(variables, batch["prediction"], batch.get("explanation")),
            0,
            1,
        )

    return images


def run(
    model: Model, variables: Variables, *inputs: Any, key: Key | None
) -> tuple[Any, Mapping[str, Any]]:
    """Runs a network: in training with a key, in inference without one.

    Returns:
      The outputs and the updates of its statistics; {} in inference.
    """
    if key is None:
        return (model.apply(variables, *inputs), {})
    return model.train(variables, *inputs, key=key)


def join(parts: Mapping[str, Variables]) -> Variables:
    """Returns the variables of several networks as those of one: {collection: {part: …}}."""
    # Networks may differ in their collections: one has batch statistics, another none
    collections = dict.fromkeys(name for variables in parts.values() for name in variables)
    found = {}
    for name in collections:
        found[name] = {
            label: variables[name] for label, variables in parts.items() if name in variables
        }
    return found


def part(variables: Variables, label: str) -> Variables:
    """Returns the variables of one network of a `join`."""
    return {
        name: collection[label] for name, collection in variables.items() if label in collection
    }


def truncate(prediction: jax.Array, count: int) -> jax.Array:
    """Keeps the `count` largest of each prediction [N,K], others 0 (Yang, trunc_m); 0 keeps all."""
    if not count:
        return prediction
    # A sum of one-hot vectors marks the places of the largest
    largest = jax.lax.top_k(prediction, min(count, prediction.shape[1]))[1]
    return prediction * jax.nn.one_hot(largest, prediction.shape[1]).sum(axis=1)


def check_images(loss: str, image_shape: tuple[int, ...]) -> None:
    """Raises InputError if `loss` is undefined for such images."""
    if loss == "dssim" and min(image_shape[:2]) < _DSSIM_WINDOW:
        raise InputError(
            f"loss 'dssim' needs images of at least {_DSSIM_WINDOW} pixels a side: these have"
            f" {image_shape}"
        )
