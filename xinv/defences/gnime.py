"""GNIME (Jeong et al. 2022): a generator of maps, trained against an inverter of the image."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import models, parallel, train
from xinv.defences.maps import calibrate, require_images, require_shape, require_state, required
from xinv.defences.network import check_network, require_network
from xinv.defences.release import require_releasable
from xinv.numbers import require_positive
from xinv.types import Array, Batch, Defence, InputError, Key, Model, Observation, Variables

UPDATES = ("alternating", "simultaneous")
PAPER = train.Recipe(
    batch_size=1024,
    epochs=500,
    learning_rate=1e-4,
    b1=0.5,
    validation=0.0,
)
_CHUNK = 1024  # images read at once
# Variance of a perturbation constant but for rounding, in variances of the maps
_FLAT = 1e-12


@functools.cache
def gnime(
    lam: float = 100.0,
    gamma: float | None = None,
    network: str = "gnime_decoder",
    encoder: str = "flatten_unet",
    width: float = 0.25,
    inverter_width: float = 1.0,
    updates: str = "alternating",
    max_distortion: float = 2.0,
    max_inverter_error: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = PAPER,
    logits: bool = False,
) -> Defence:
    """Generative noise injector for model explanations.

    `init` is Algorithm 1, `apply` the generator and Eq. 3.

    The generator f_NG(e, ŷ) gives a new map, the inverter f_INV(e, ŷ) an image in [0,1]. Both read
    maps standardised by the mean and standard deviation of the defender's. The distortion L_xd is
    taken in those units (1 is the maps' own variance), before the generated map is clipped to the
    maps' range (see `maps.calibrate`); the inverter reads it after. The generator of the last epoch
    is deployed, and the inverter dropped. `apply` draws nothing, so any number of queries gives the
    same release.

    The defaults are for a service: releasing a map takes less than a fifth of the time of the
    Gradient explanation of the MNIST target. At the paper's full width it takes two thirds of that
    time (configs/speed.md). A config for a table of the paper sets the full width.

    Example, deployed apart from the pipeline:

        recipe = Recipe(batch_size=128, epochs=500, learning_rate=1e-4, validation=0)
        defence = gnime(lam=100.0, recipe=recipe)
        state = defence.init(jax.random.key(0), observation, images)
        kept = {name: part for name, part in state.items() if name != "history"}
        store.save_tree(path, kept)
        released = jax.jit(defence.apply)(store.load_tree(path), observation, jax.random.key(1))

    Compiled so, it refuses observations of another shape; `xinv.defences.release` also those of
    another scale.

    Args:
      lam: λ of Eq. 2; the paper has 100, and 500 for CelebA. For a release closer to the map, lower
        it rather than give a gamma, and measure what is left: with Grad-CAM of 16×16 10 distorts an
        eighth as much, and closes 22 instead of 63 % of the leak (configs/gnime.md).
      gamma: γ of Eq. 3, the variance of each map's perturbation after scaling, down or up, in the
        squared units of the maps; None releases the generator's map. The state does not depend on
        it.
      network: of both players, a factory of `xinv.models`: "gnime_decoder" (of the authors' code,
        the source of the published figures) or "decoder" (Zhao's, named in the paper, of ten times
        the operations).
      encoder: how both read maps, see `models.decoder`; not "none".
      width: factor on the generator's channels; the paper's is 1.
      inverter_width: the same of the inverter, present in training alone: a release costs nothing
        by it.
      updates: within a step, "alternating" trains the generator against the inverter just updated
        (Algorithm 1); "simultaneous" updates both from the same point (the released code), with one
        backward pass for the two.
      max_distortion: the mean distortion in the last epoch from which on training has diverged; a
        map of another image has 2. Early epochs may be beyond: a generator starts far from the
        maps, and is soon driven farther.
      max_inverter_error: the inverter's mean squared error on original maps in the last epoch, in
        units of the mean image's, from which on training has diverged: a generator without an
        opponent does not protect.
      dtype: of the networks' computation, "float32" or "bfloat16".
      recipe: of both players; without validation, since neither player's loss tells when to stop.
        It takes thousands of steps: after a short training the inverter is far weaker than an
        attacker (configs/gnime.md).
      logits: True if predictions are logits, as in the released code: both players read them as
        they are.

    Returns:
      A defence of maps of any size. Its state has "generator", "calibration" (see
      `maps.calibrate`), "diverged" (1 if the training did, with the generator of the last epoch
      before) and "history". The latter has the means per epoch of "distortion" L_xd, "inversion"
      L_re from the generated map, "clean" L_re from the original, and "loss", Eq. 2.

    Raises:
      InputError: an argument is not one of those; in `init`, predictions are not of their form, or
        images neither uint8 nor within [0,1]; in `apply`, the state is of another network.
      train.Diverged: no epoch kept both limits.
    """
    require_positive(
        lam=lam,
        max_distortion=max_distortion,
        max_inverter_error=max_inverter_error,
    )
    if gamma is not None:
        require_positive(gamma=gamma)
    check_network(network, encoder, width=width, inverter_width=inverter_width)
    _check(updates, recipe)
    build = functools.partial(models.build, network, encoder=encoder, dtype=dtype)

    def networks(maps: tuple[int, ...], images: tuple[int, ...]) -> Players:
        # The generator gives a map, the inverter an image
        generator = build(width=width, image_shape=tuple(maps))
        return Players(generator, build(width=inverter_width, image_shape=tuple(images)))

    def init(
        key: Key,
        observation: Observation,
        images: Array,
        session: train.Session = train.Session(),
    ) -> Any:
        # Check the data before any training
        require_releasable({}, observation, logits)
        require_images(images)
        calibration = calibrate(observation)
        generator_key, inverter_key, loop_key = jax.random.split(key, 3)
        players = networks(observation.explanation.shape[1:], images.shape[1:])
        example = jnp.asarray(observation.prediction[:1]), jnp.asarray(observation.explanation[:1])
        # Both players start from one example's shapes, with an optimizer of their own
        steps = recipe.epochs * train.steps_per_epoch(recipe, len(images), session.name)
        tx = train.optimizer(recipe, steps)
        nets = {
            "generator": jax.jit(players.generator.init)(generator_key, *example),
            "inverter": jax.jit(players.inverter.init)(inverter_key, *example),
        }
        start = train.State(
            np.int32(0),
            nets | _scale(calibration),
            {name: tx.init(net) for name, net in nets.items()},
        )
        data = {**observation._asdict(), "image": images}
        step = two_player_step(players, lam, updates, tx)
        # Advice in the error of a diverged training
        advised = session._replace(
            advice=f"lower lam, which is {lam:g}, or the learning rate, or play for more epochs"
        )
        # The limits of divergence, in the units of the metrics
        limits = {"distortion": max_distortion, "clean": max_inverter_error * _variance(images)}
        fitted = train.loop(
            step,
            start,
            data,
            loop_key,
            recipe,
            None,
            advised,
            limits,
        )
        return {
            "generator": fitted.variables["generator"],
            "calibration": calibration,
            "diverged": np.int32(bool(fitted.diverged)),
            "history": fitted.history,
        }

    def apply(state: Any, observation: Observation, key: Key) -> Observation:
        del key
        require_state(state, "generator", "calibration")
        require_shape(state["calibration"], observation)
        maps = observation.explanation
        # Refuse a state of another network before it is applied
        generator = build(width=width, image_shape=tuple(maps.shape[1:]))
        require_network(state["generator"], generator, observation)
        scale = _scale(state["calibration"])
        # Generate the map, and scale its perturbation to γ if there is one
        raw = generator.apply(
            state["generator"],
            observation.prediction,
            _standard(scale, maps),
        )
        released = _released(scale, raw)
        return observation._replace(
            explanation=released if gamma is None else _bounded(maps, released, gamma, scale)
        )

    def check(observation: Observation, images: Any) -> None:
        # Trace both networks on shapes alone
        for player in networks(required(observation).shape[1:], images.shape[1:]):
            jax.eval_shape(
                player.init,
                jax.random.key(0),
                observation.prediction,
                observation.explanation,
            )

    return Defence(init, apply, check, releasing=("gamma",), logits=logits)


def _variance(images: Array) -> float:
    """Returns the mean squared error of the mean image as a guess, in [0,1]; reads in chunks."""
    # E[x²] − E[x]², per pixel, from sums
    total, squares = 0.0, 0.0
    for start in range(0, len(images), _CHUNK):
        part = np.asarray(images[start : start + _CHUNK])
        part = part / (255.0 if part.dtype == np.uint8 else 1.0)
        total, squares = (
            total + part.sum(axis=0, dtype=np.float64),
            squares + np.square(part).sum(dtype=np.float64),
        )
    mean = total / len(images)
    return float(squares / (len(images) * mean.size) - np.square(mean).mean())


class Players(NamedTuple):
    """Networks from (prediction [N,K], standardised maps [N,h,w,c]) to new maps, and to images."""

    generator: Model
    inverter: Model


@functools.lru_cache(64)
def two_player_step(
    players: Players,
    lam: float,
    updates: str,
    tx: optax.GradientTransformation,
) -> Callable[[train.State, Batch, Key], tuple[train.State, dict[str, jax.Array]]]:
    """Returns one step of Algorithm 1, for `train.loop`.

    The state's variables are "generator", "inverter", "moments" and "limits"; its optimizer states
    go by the players' names. The batch is {"prediction", "explanation", "image"}.
    """

    def step(
        state: train.State,
        batch: Batch,
        key: Key,
    ) -> tuple[train.State, dict[str, jax.Array]]:
        # Neither player draws
        del key
        variables = state.variables
        truth = batch["image"]
        prediction = batch["prediction"]
        clean = _standard(variables, batch["explanation"])

        def errors(inverter: Variables, maps: jax.Array) -> jax.Array:
            """Returns L_re of maps [B,…] or [2B,…], per batch of B."""
            # Several maps of an image pass the inverter as one batch
            copies = len(maps) // len(truth)
            guesses = players.inverter.apply(
                inverter,
                jnp.tile(prediction, (copies, 1)),
                maps,
            )
            differences = guesses.reshape(copies, *truth.shape) - truth[None]
            return jnp.mean(differences**2, axis=(1, 2, 3, 4))

        def equation_1(inverter: Variables, noised: jax.Array) -> tuple[jax.Array, jax.Array]:
            both = errors(inverter, jnp.concatenate([clean, _as_released(variables, noised)]))
            return jnp.sum(both), both

        def inversion(noised: jax.Array) -> jax.Array:
            return errors(inverter, _as_released(variables, noised))[0]

        def distortion(noised: jax.Array) -> jax.Array:
            return jnp.mean((clean - noised) ** 2)

        def update(name: str, gradient: Variables) -> tuple[Variables, Any]:
            # Average the gradient over devices, so that their copies stay equal
            change, opt_state = tx.update(
                parallel.mean(gradient),
                state.opt_state[name],
                variables[name],
            )
            return optax.apply_updates(variables[name], change), opt_state

        # Generate once, and keep the way back to the generator's parameters
        noised, to_generator = jax.vjp(
            lambda net: players.generator.apply(net, prediction, clean), variables["generator"]
        )
        # With the inverter fixed, the clean term of Eq. 1 does not depend on ê: one backward pass
        # serves both players
        gradients, both = jax.grad(equation_1, argnums=(0, 1), has_aux=True)(
            variables["inverter"], noised
        )
        inverter, inverter_state = update("inverter", gradients[0])
        if updates == "simultaneous":
            to_noised = gradients[1]
        else:
            to_noised = jax.grad(inversion)(noised)
        # The gradient of Eq. 2, L_xd − λ L_re, through the generated map
        moved, from_distortion = jax.value_and_grad(distortion)(noised)
        (gradient,) = to_generator(from_distortion - lam * to_noised)
        generator, generator_state = update("generator", gradient)
        # Errors from before this step's updates of both players
        metrics = {
            "loss": moved - lam * both[1],
            "distortion": moved,
            "inversion": both[1],
            "clean": both[0],
        }
        nets = {"generator": generator, "inverter": inverter}
        opt_state = {"generator": generator_state, "inverter": inverter_state}
        return train.State(
            state.step + 1,
            {**variables, **nets},
            opt_state,
        ), metrics

    return step


def _scale(calibration: Any) -> dict[str, Array]:
    return {name: calibration[name] for name in ("moments", "limits")}


def _standard(scale: Any, maps: jax.Array) -> jax.Array:
    mean, deviation = scale["moments"]
    return (maps - mean) / deviation


def _released(scale: Any, raw: jax.Array) -> jax.Array:
    """Returns the generator's output as a map in the units and range of the originals."""
    (mean, deviation), (low, high) = scale["moments"], scale["limits"]
    return jnp.clip(raw * deviation + mean, low, high)


def _as_released(scale: Any, raw: jax.Array) -> jax.Array:
    """Turns the generator's output into the inverter's input: the released map, standardised."""
    return _standard(scale, _released(scale, raw))


def _bounded(
    maps: jax.Array,
    released: jax.Array,
    gamma: float,
    scale: Any,
) -> jax.Array:
    """Applies Eq. 3 to each map, within the maps' range; leaves a constant perturbation alone."""
    # n is the perturbation of Eq. 3; its variance is brought to γ
    n = released - maps
    variance = jnp.var(n, axis=(1, 2, 3), keepdims=True)
    flat = variance <= _FLAT * scale["moments"][1] ** 2
    factor = jnp.where(flat, 1.0, jnp.sqrt(gamma / jnp.where(flat, 1.0, variance)))
    return jnp.clip(maps + factor * n, *scale["limits"])


def _check(updates: str, recipe: train.Recipe) -> None:
    if updates not in UPDATES:
        raise InputError(f"updates is {updates!r} but must be one of {', '.join(UPDATES)}")
    # Neither player's loss tells when to stop, so no part is held out
    if recipe.validation:
        raise InputError(
            f"validation is {recipe.validation} but must be 0: gnime deploys the last epoch's"
            " generator"
        )
