"""The recipe of a training: one flat value, hashable and easy to state in a config."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import optax

from xinv.numbers import require, require_count, require_not_negative, require_positive
from xinv.types import InputError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "linear")
AUGMENTATIONS = ("crop", "flip")


@dataclass(frozen=True)
class Recipe:
    """The recipe of a training.

    Attributes:
      batch_size: images per step, over all devices.
      epochs: passes over the training part; each drops an incomplete last batch.
      optimizer: "adam", "adamw" or "sgd".
      learning_rate: the peak of the schedule.
      b1: Adam's β₁, SGD's momentum.
      b2: Adam's β₂.
      weight_decay: L2 penalty added to the gradient (decoupled from it with "adamw").
      schedule: "constant", or "cosine" or "linear" decay to zero at the end.
      warmup_epochs: epochs of linear increase from zero before the schedule; may be fractional.
      validation: fraction of the data held out; the variables of the epoch with the lowest loss
        on it are returned. 0 trains on all data and returns the last variables.
      patience: stop after this many epochs without a better validation loss; 0 never stops early.
      augment: any of "crop" (zero padding, then a random crop of the original size) and "flip"
        (left-right).
      crop_padding: pixels of padding on each side.
      clip: bound of the l2 norm of an example's gradient; 0 is without one. See `private_step`.
      noise: multiplier of the Gaussian noise in the sum of gradients, which has this times `clip`
        as its standard deviation; 0 is without noise. `metrics.privacy` gives its ε.
    """

    batch_size: int = 64
    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    validation: float = 0.1
    patience: int = 0
    augment: tuple[str, ...] = ()
    crop_padding: int = 4
    clip: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        # A config states a list, and a cache needs a hashable value
        named = isinstance(self.augment, list | tuple)
        require(named, "augment", self.augment, f"a list, of any of {', '.join(AUGMENTATIONS)}")
        object.__setattr__(self, "augment", tuple(self.augment))

        # Ranges
        require_count(batch_size=self.batch_size, epochs=self.epochs)
        require_count(0, patience=self.patience, crop_padding=self.crop_padding)
        require_positive(learning_rate=self.learning_rate)
        require_not_negative(
            b1=self.b1,
            b2=self.b2,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            clip=self.clip,
            noise=self.noise,
        )
        require_not_negative(validation=self.validation)
        require(self.validation < 1, "validation", self.validation, "a fraction from 0 to below 1")
        require(self.b1 < 1, "b1", self.b1, "below 1")
        require(self.b2 < 1, "b2", self.b2, "below 1")

        # Names
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            require(value in known, name, value, f"one of {', '.join(known)}")
        require(
            all(name in AUGMENTATIONS for name in self.augment),
            "augment",
            self.augment,
            f"any of {', '.join(AUGMENTATIONS)}",
        )

        # Values that must fit each other
        require(
            self.warmup_epochs < self.epochs,
            "warmup_epochs",
            self.warmup_epochs,
            "from 0 to below epochs",
        )
        require(
            self.validation > 0 or not self.patience,
            "patience",
            self.patience,
            "0 when validation is 0",
        )
        # One of the two hides nobody, and a choice among epochs by images of the set tells of them
        require(
            self.clip > 0 or not self.noise,
            "clip",
            self.clip,
            "positive when noise is, since noise hides gradients of bounded size alone",
        )
        require(
            self.noise > 0 or not self.clip,
            "noise",
            self.noise,
            "positive when clip is, since bounded gradients alone hide nobody",
        )
        require(
            not self.noise or not self.validation,
            "validation",
            self.validation,
            "0 when noise is positive, since the choice of an epoch has no noise",
        )

    @classmethod
    def stated(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Returns the recipe that a config states.

        Raises:
          InputError: it states something else than the attributes above.
        """
        # A misspelt name would leave a default in place
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise InputError(
                f"a training has no parameter {unknown[0]!r}: it takes {', '.join(known)}"
            )
        return cls(**settings)


@functools.lru_cache(64)
def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Returns the recipe's optimizer, with its learning rate scheduled over `steps` steps."""
    rule = _rule(recipe, steps)

    def update(gradient, state, parameters=None):
        # Optax multiplies its integer counts by floats, whatever promotion the caller allows
        with jax.numpy_dtype_promotion("standard"):
            return rule.update(gradient, state, parameters)

    return optax.GradientTransformation(rule.init, update)


def _rule(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    rate = _schedule(recipe, steps)
    # AdamW decouples the decay from the gradient; the others add it to the gradient
    if recipe.optimizer == "adamw":
        return optax.adamw(
            rate,
            recipe.b1,
            recipe.b2,
            weight_decay=recipe.weight_decay,
        )
    if recipe.optimizer == "sgd":
        rule = optax.sgd(rate, recipe.b1)
    else:
        rule = optax.adam(rate, recipe.b1, recipe.b2)
    if not recipe.weight_decay:
        return rule
    return optax.chain(optax.add_decayed_weights(recipe.weight_decay), rule)


def _schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear increase to the peak, then the decay."""
    warmup = round(steps * recipe.warmup_epochs / recipe.epochs)
    peak = recipe.learning_rate
    rest = max(steps - warmup, 1)
    decays = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }
    decay = decays[recipe.schedule]
    if not warmup:
        return decay
    increase = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([increase, decay], [warmup])
