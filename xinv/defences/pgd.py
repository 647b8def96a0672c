"""OND: noise optimised against an inversion network, the second baseline of Jeong et al. 2022."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import models, train
from xinv.defences.maps import calibrate, require_images, require_shape, require_state, required
from xinv.defences.network import check_network, require_network
from xinv.defences.release import require_releasable
from xinv.images import as_float
from xinv.numbers import require, require_count, require_positive
from xinv.types import Array, Batch, Defence, Key, Model, Observation, Variables

AWAY_FROM = ("reconstruction", "image")
"""What the inverter's reconstruction is moved away from."""
_HALVINGS = 30
_FARTHEST = 1e3  # in root-mean-square units of the wanted change


@functools.cache
def pgd(
    mse: float,
    steps: int = 10,
    step_size: float = 0.25,
    away_from: str = "reconstruction",
    network: str = "decoder",
    encoder: str = "flatten_unet",
    width: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),
    logits: bool = False,
) -> Defence:
    """Projected gradient ascent on the error of an inverter, within an L2 ball (Madry et al. 2018).

    `init` trains the inverter f_INV on the defender's undefended observations. A release e' of the
    map e ascends the inverter's error ‖f_INV(e', ŷ) - x‖², as in the paper, if the service still
    has the image x. Otherwise f_INV(e, ŷ) takes the place of x. At e this has no gradient: the
    ascent starts from one random direction, drawn in `init` and the same for all. With a new start
    for each release an attacker could average the perturbations away. Either way any number of
    queries gives the same release.

    After each step and at the end the change is scaled: every map's, clipped to the maps' range,
    has a mean square of `mse`, or less if the whole range does not allow as much.

    Args:
      mse: mean squared change of a map's values, in their squared units; another defence's measured
        distortion.
      steps: of the ascent; unrolled, so that compiling takes as long in proportion.
      step_size: the length of a step, as a fraction of the ball's radius.
      away_from: "reconstruction" of the original map, or "image".
      network: the inverter's factory in `xinv.models`, "decoder" (Zhao) or "gnime_decoder" (GNIME's
        code).
      encoder, width, dtype: of the inverter, see `models.decoder`.
      recipe: the inverter's training configuration.
      logits: True if predictions are logits: the inverter reads them as they are.

    Returns:
      A defence whose state has the "inverter", the "start" [h,w,c] of the ascent, an "image" of
      zeros for its shape, the "calibration" (see `maps.calibrate`) and the losses in "history".

    Raises:
      InputError: an argument is not one of those; in `init`, predictions are not of their form, or
        images neither uint8 nor within [0,1]; in `apply`, the state is of another network.
    """
    require_positive(mse=mse, step_size=step_size)
    require_count(steps=steps)
    require(away_from in AWAY_FROM, "away_from", away_from, "one of " + ", ".join(AWAY_FROM))
    sees_images = away_from == "image"
    check_network(network, encoder, width=width)

    def init(
        key: Key,
        observation: Observation,
        images: Array,
        session: train.Session = train.Session(),
    ) -> Any:
        require_releasable({}, observation, logits)
        require_images(images)
        calibration = calibrate(observation)
        # Train the inverter on undefended maps
        start_key, init_key, fit_key = jax.random.split(key, 3)
        model, loss = _inverter(
            tuple(images.shape[1:]),
            network,
            encoder,
            width,
            dtype,
        )
        example = jnp.asarray(observation.prediction[:1]), jnp.asarray(observation.explanation[:1])
        variables = jax.jit(model.init)(init_key, *example)
        data = {**observation._asdict(), "image": images}
        fitted = train.fit(loss, variables, data, fit_key, recipe, session)
        # "image" is there for its shape, which is static under jit
        return {
            "inverter": fitted.variables,
            "start": np.asarray(jax.random.normal(start_key, observation.explanation.shape[1:])),
            "image": np.zeros(images.shape[1:], np.float32),
            "calibration": calibration,
            "history": fitted.history,
        }

    def apply(
        state: Any,
        observation: Observation,
        key: Key,
        images: Array | None = None,
    ) -> Observation:
        del key
        require_state(state, "inverter", "start", "calibration")
        require_shape(state["calibration"], observation)
        model, _ = _inverter(state["image"].shape, network, encoder, width, dtype)
        require_network(state["inverter"], model, observation)
        prediction = observation.prediction
        maps = observation.explanation
        limits = state["calibration"]["limits"]
        # The reconstruction of the original map takes the place of a missing image
        secret = images if sees_images else model.apply(state["inverter"], prediction, maps)

        def distance(changed: jax.Array) -> jax.Array:
            return jnp.sum((model.apply(state["inverter"], prediction, changed) - secret) ** 2)

        # The first step at the map itself, where there is a slope
        if sees_images:
            change = _unit(jax.grad(distance)(maps))
        else:
            change = _unit(jnp.broadcast_to(state["start"], maps.shape))
        # Normalised steps up the gradient, each projected onto the ball and the range
        for _ in range(steps - sees_images):
            changed = _moved(maps, change, mse, limits)
            change = _unit(changed - maps) + step_size * _unit(jax.grad(distance)(changed))
        return observation._replace(explanation=_moved(maps, change, mse, limits))

    def check(observation: Observation, images: Any) -> None:
        # Trace the inverter on shapes alone
        required(observation)
        model, _ = _inverter(
            tuple(images.shape[1:]),
            network,
            encoder,
            width,
            dtype,
        )
        jax.eval_shape(
            model.init,
            jax.random.key(0),
            observation.prediction,
            observation.explanation,
        )

    return Defence(
        init,
        apply,
        check,
        releasing=("mse", "steps", "step_size", "away_from"),
        logits=logits,
        sees_images=sees_images,
    )


@functools.lru_cache(64)
def _inverter(
    image_shape: tuple[int, ...],
    network: str,
    encoder: str,
    width: float,
    dtype: str,
) -> tuple[Model, train.Loss]:
    # Cached with its loss, so that every call of `apply` finds the same network
    model = models.build(
        network,
        encoder=encoder,
        image_shape=image_shape,
        width=width,
        dtype=dtype,
    )

    def loss(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        guesses = model.apply(variables, batch["prediction"], batch["explanation"])
        images = as_float(batch["image"]).astype(guesses.dtype)
        return jnp.mean((images - guesses) ** 2, axis=(1, 2, 3)), {}

    return model, loss


def _unit(maps: jax.Array) -> jax.Array:
    """Returns each map with a mean square of 1; a map of zeros stays."""
    square = jnp.mean(maps**2, axis=(1, 2, 3), keepdims=True)
    return maps / jnp.sqrt(jnp.where(square > 0, square, 1))


def _moved(
    maps: jax.Array,
    change: jax.Array,
    mse: float,
    limits: jax.Array,
) -> jax.Array:
    """Moves maps along `change` until each, clipped to the limits, has changed by `mse`."""
    # Bisect the length: clipping leaves no closed form, but the change grows with the length
    change = _unit(change)

    def moved(length: jax.Array) -> jax.Array:
        return jnp.clip(maps + length * change, *limits)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        short = jnp.mean((moved(middle) - maps) ** 2, axis=(1, 2, 3), keepdims=True) < mse
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    # One length for each map, from none to beyond any useful one
    none = jnp.zeros((len(maps), 1, 1, 1), maps.dtype)
    return moved(jax.lax.fori_loop(0, _HALVINGS, halve, (none, none + _FARTHEST * mse**0.5))[0])
