"""The method of an attack: a factory of `xinv.attacks` with its parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from xinv import attacks, plugins, train
from xinv.audit.results import Config
from xinv.types import Attack, InputError

PREDICTION = "prediction"
HELD = ("label", "image")
"""Inputs that a membership attacker has of a candidate: its true class, and the image itself."""


class Method(NamedTuple):
    """The method of one arm.

    An arm changes parameters of the config's section `attack`. If it names another method, it
    states its parameters, and takes from the section those of the same name.

    Attributes:
      common: the section `attack`.
      own: the arm's part of it.
      inputs: names of the arm's inputs.
      logits: True if the predictions that it reads are logits.
    """

    common: Config
    own: Config
    inputs: tuple[str, ...]
    logits: bool = False

    @property
    def stated(self) -> dict[str, Any]:
        """The required parameters of the method."""
        if "name" in self.own:
            return dict(self.own)
        return self._without_training() | self.own

    @property
    def offered(self) -> dict[str, Any]:
        """The parameters to pass if the method has them."""
        # Another method need not have the parameters of the section's
        if "name" not in self.own:
            return {}
        taken = ("name", *self.own)
        return {
            name: value for name, value in self._without_training().items() if name not in taken
        }

    @property
    def encoder(self) -> str:
        """The encoder of explanations, or the name of the method."""
        return self.stated.get("encoder", self.stated["name"])

    def reads(self, name: str) -> bool:
        """Tells if it takes a parameter from the section `attack`."""
        if name == "train":
            return plugins.takes(attacks, "attack", self.stated["name"], "recipe")
        if "name" in self.own:
            taken = name in self.offered
            return taken and plugins.takes(attacks, "attack", self.own["name"], name)
        return name not in self.own

    def complete(self) -> dict[str, Any]:
        """Returns its name with all of its parameters."""
        return plugins.complete(attacks, self.offered | self.stated)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its inputs: prediction, label, image and explanation, in this order."""
        # Every other name is that of an explanation or of an arm whose guesses are read
        own = (PREDICTION, *HELD)
        kinds = [name for name in own if name in self.inputs]
        if set(self.inputs) - set(own):
            kinds.append("explanation")
        return tuple(kinds)

    def build(self) -> Attack:
        """Returns the attack. Arms differ in inputs and method, never in how they are trained.

        Raises:
          InputError: the service releases logits, and the attack reads probabilities.
        """
        # One recipe for all arms, whatever they state
        recipe = train.Recipe.stated(self.common["train"])
        given = {"inputs": self.kinds, "recipe": recipe, "logits": self.logits}
        attack = attacks.build(**self.stated, given=self.offered | given)
        if self.logits and not attack.logits:
            raise InputError(
                f"attack {self.stated['name']!r} reads probabilities, and the service releases "
                "logits: choose another, or set service.prediction to 'probabilities'"
            )
        return attack

    def _without_training(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.common.items() if name != "train"}
