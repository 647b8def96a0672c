"""Membership by a network on explanations: the attack of DeepLeak (2026, section IV-A)."""

import functools
from typing import Any

import jax
import numpy as np

from xinv import models, train
from xinv.attacks import calibration, checks, ensemble
from xinv.attacks.evidence import HELD, KINDS, count_classes, evidence
from xinv.numbers import require_count
from xinv.train.batches import Rows
from xinv.types import Array, Attack, InputError, Key, Observation


@functools.cache
def membership_network(
    inputs: tuple[str, ...] = ("explanation",),
    trunk: str = "mobilenet_v2",
    width: float = 1.0,
    dropout: float = 0.5,
    restarts: int = 5,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),
) -> Attack:
    """Separates members by a network, trained on the maps of a shadow model.

    Several networks are trained, with different initial parameters and dropout masks. The mean of
    their logits is the answer; none is chosen. They are trained in one program, from the same
    batches, each as if alone. If `recipe.validation` holds a part out, one epoch is chosen for all,
    by their mean loss.

    The head reads everything else: predictions as released, probabilities or logits; the true class
    as a one-hot vector; and with both the prediction of the true class. Maps are divided by the
    standard deviation of all of the shadow's. Images are resized to the maps (bilinear) and become
    channels beside theirs.

    DeepLeak trains with batches of 128, Adam at 1e-3, a weight decay of 1e-4 and 15 epochs (10 for
    methods of the gradient): these are settings of the recipe.

    Args:
      inputs: its kinds of evidence, of "explanation", "prediction", "image" and "label".
      trunk: "mobilenet_v2" (DeepLeak), "cnn" or "mlp", as in `xinv.models.detector`; "mlp" for maps
        of one pixel.
      width: factor on the channels and units.
      dropout: rate of dropped features in training.
      restarts: number of networks.
      dtype: of the trunk's computation, "float32" or "bfloat16"; parameters stay float32.
      recipe: the training configuration.

    Returns:
      An attack. Its truth is 0 or 1 [N], 1 for members, its guess a score float32 [N]:
      the mean logit less a threshold, so positive for members. The threshold has the best balanced
      accuracy on the recipe's held-out part, and is 0 without one. `parts` are the scores of the
      single networks. `fit` also takes several releases of each example, as `decoder` does. The
      state has the "variables" of the networks, restarts first, with the "deviation" of the maps,
      the "threshold", and the "history" of mean losses.

    Raises:
      InputError: a setting does not exist; a map does not fit the trunk; an input is missing, not
        finite, or has an unknown class; or members or others are missing in `truth`.
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
        session: train.Session = train.Session(),
        label: Array | None = None,
        image: Array | None = None,
    ) -> dict[str, Any]:
        # Gather the evidence, and start the networks from it
        checks.releases(observation, several=True)
        data = evidence(inputs, observation, label, image)
        classes = count_classes(observation, data)
        member = _members(truth, len(observation.prediction))
        variables = ensemble.start(network, classes, numbers, key, data)

        # Take a key of its own: `start` has used this one for the parameters
        loss = ensemble.objective(network, classes, numbers)
        training = {**data, "member": member}
        fit_key = jax.random.fold_in(key, restarts)
        fitted = train.fit(loss, variables, training, fit_key, recipe, session)

        # The held-out part sets the threshold
        threshold = np.float32(0)
        if len(fitted.held_out):
            rows = {name: Rows(leaf, fitted.held_out) for name, leaf in data.items()}
            size = recipe.batch_size
            logits = ensemble.logits(network, classes, fitted.variables, rows, size).mean(axis=0)
            threshold = _threshold(member[fitted.held_out].astype(bool), logits)
        return {
            "variables": fitted.variables,
            "threshold": threshold,
            "history": fitted.history,
        }

    def parts(
        state: Any,
        observation: Observation,
        label: Array | None = None,
        image: Array | None = None,
    ) -> np.ndarray:
        checks.releases(observation, several=False)
        data = evidence(inputs, observation, label, image)
        classes = count_classes(observation, data)
        variables = state["variables"]
        size = recipe.batch_size
        found = ensemble.logits(network, classes, variables, data, size)
        return found - np.float32(state["threshold"])

    def predict(state: Any, observation: Observation, **held: Array) -> np.ndarray:
        return parts(state, observation, **held).mean(axis=0)

    def check(
        observation: Observation,
        truth: Any,
        label: Any = None,
        image: Any = None,
    ) -> tuple[int, ...]:
        del truth
        # Trace the networks on shapes alone
        checks.releases(observation, several=True)
        data = jax.eval_shape(
            functools.partial(evidence, inputs),
            observation,
            label,
            image,
        )
        ensemble.require_readable(network, observation.prediction.shape[-1], data)
        return ()

    # The attacker holds what it reads besides the release
    needs = tuple(kind for kind in HELD if kind in inputs)
    several = parts if restarts > 1 else None
    return Attack(
        fit,
        predict,
        check,
        goal="membership",
        needs=needs,
        parts=several,
        logits=True,
    )


def _threshold(member: np.ndarray, logits: np.ndarray) -> np.float32:
    """Returns the calibrated threshold of held-out examples; 0 if they are all of one kind."""
    if member.all() or not member.any():
        return np.float32(0)
    return np.float32(calibration.threshold(member, logits))


def _members(truth: Array, count: int) -> np.ndarray:
    """Returns membership, float32 [N]; raises InputError unless there are members and others."""
    member = checks.members(truth, (count,))
    if member.all() or not member.any():
        raise InputError("truth must be 0 for some examples and 1, a member, for others")
    return member.astype(np.float32)
