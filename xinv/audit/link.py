"""One defence of a chain: its settings, its state, and its place after those before it."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xinv import defences, plugins, train
from xinv.audit.distortion import distortion
from xinv.audit.stage import key
from xinv.store import Stage
from xinv.types import Defence, InputError

if TYPE_CHECKING:
    from xinv.audit.release import Release

REFERENCES = ("match_distortion_of", "reuse_state_of")
"""Settings of a defence that name another: to match its distortion, or to apply its state."""


class Link(NamedTuple):
    """One defence of a chain.

    Attributes:
      source: one release of each image by the defences before it: it learns from this.
      name: of its section in the config.
    """

    source: "Release"
    name: str

    @property
    def label(self) -> str:
        """For people."""
        return self.release().label

    def release(self) -> "Release":
        """Returns the release by this defence and those before it."""
        return self.source.through(self.name)

    def instead(self, name: str) -> "Link":
        """Returns another defence in this place."""
        return Link(self.source, name)

    def settings(self) -> dict[str, Any]:
        """Returns its section; with `reuse_state_of` completed by the section of that defence."""
        known = self.source.service.config["defences"]
        if self.name not in known:
            allowed = ", ".join(known) or "none"
            raise InputError(f"unknown defence {self.name!r}: the config has {allowed}")
        # A copy, which callers may change
        own = known[self.name]
        if "reuse_state_of" not in own:
            return dict(own)

        # Only a defence that is trained has a state to apply
        other = own["reuse_state_of"]
        trained = [name for name, section in known.items() if "train" in section]
        if other not in trained:
            allowed = ", ".join(trained) or "none"
            raise InputError(
                f"defence {self.name!r} has reuse_state_of {other!r}: choose one of {allowed}"
            )
        return {**known[other], **own}

    def hyper(self, seed: int | None) -> dict[str, Any]:
        """Returns its factory's name and parameters.

        A distortion to match another defence's is measured; without a seed it is 1.
        """
        settings = self.settings()
        # The factory takes neither references nor a recipe by name
        hyper = dict(settings)
        for name in (*REFERENCES, "train"):
            hyper.pop(name, None)
        hyper = plugins.complete(defences, hyper)
        if "match_distortion_of" not in settings:
            return hyper
        if seed is None:
            return hyper | {"mse": 1.0}

        # Match the other defence, measured in this place
        other = self.instead(settings["match_distortion_of"])
        changes = distortion(self.source, other.release(), seed)
        mse = float(changes.mean(dtype=np.float64))
        if not mse:
            raise InputError(
                f"defence {self.name!r} is to match {other.name!r}, "
                "which leaves explanations as they are"
            )
        return hyper | {"mse": mse}

    def build(self, seed: int | None) -> Defence:
        """Returns the defence.

        Raises:
          InputError: the service releases logits, and the defence changes probabilities.
        """
        # Only a trained defence takes a recipe
        settings = self.settings()
        given = {}
        if "train" in settings:
            given["recipe"] = train.Recipe.stated(settings["train"])
        logits = self.source.service.releases_logits
        defence = defences.build(**self.hyper(seed), given=given | {"logits": logits})
        if logits and not defence.logits:
            raise InputError(
                f"defence {self.name!r} ({settings['name']}) changes probabilities, and the "
                "service releases logits: leave it out, or set service.prediction to "
                "'probabilities'"
            )
        return defence

    def learned(self, seed: int) -> Stage | None:
        """Returns the state learned from the defender's images; None if it learns nothing."""
        # The state of another defence is applied as it is
        settings = self.settings()
        service = self.source.service
        if "reuse_state_of" in settings:
            return self.instead(settings["reuse_state_of"]).learned(seed)
        defence = self.build(seed)
        if not defence.learns:
            return None

        # Parameters of the release alone do not change the state
        learning = self.hyper(seed)
        for name in defence.releasing:
            learning.pop(name, None)
        role = service.config["defender"]["role"]
        observed, sources = self.source.observation(role, seed)
        spec = service.roles.spec(seed, [role]) | {
            "defence": learning,
            "train": settings.get("train"),
            "sources": sources,
        }

        def fit(session: train.Session) -> dict[str, Any]:
            images = service.roles.images([role], seed)
            return defence.init(key(seed, "defence"), observed, images, session)

        return service.stages.trained(
            "defence",
            f"{self.label}, seed {seed}",
            spec,
            fit,
        )

    def check(self) -> Defence:
        """Returns the defence as the config states it, with nothing measured.

        Raises:
          InputError: its settings do not fit each other, or its factory.
        """
        # First the settings alone, since building needs them to fit
        settings = self.settings()
        _check_settings(
            self.name,
            settings,
            self.source.service.config["defences"][self.name],
        )
        defence = self.build(None)
        if "reuse_state_of" in settings:
            _check_reused(self, defence)
        return defence

    def referred(self, path: tuple[str, ...] = ()) -> dict[str, "Link"]:
        """Returns by name the defence and those it refers to, directly or through others."""
        if self.name in path:
            circle = " to ".join((*path, self.name))
            raise InputError(f"defences refer to each other in a circle: {circle}")
        # Depth first, with the path to here: a name met again closes a circle
        found = {self.name: self}
        settings = self.settings()
        for kind in REFERENCES:
            if kind in settings:
                found |= self.instead(settings[kind]).referred((*path, self.name))
        return found


def _check_reused(link: Link, defence: Defence) -> None:
    """Checks that a defence with another's state states only parameters of the release."""
    own = link.source.service.config["defences"][link.name]
    unknown = sorted(set(own) - {*REFERENCES, *defence.releasing})
    if unknown:
        allowed = ", ".join(defence.releasing) or "nothing"
        raise InputError(
            f"defence {link.name!r} has {unknown[0]}, which what {own['reuse_state_of']!r} "
            f"has learned depends on: it may state {allowed}"
        )


def _check_settings(
    name: str,
    settings: dict[str, Any],
    own: dict[str, Any],
) -> None:
    """Checks that the settings of a defence fit each other; `own` are those of its section."""
    if "match_distortion_of" in settings and "mse" in settings:
        raise InputError(
            f"defence {name!r} has mse and also match_distortion_of, which measures it: give one"
        )
    if "reuse_state_of" in settings and "train" in own:
        raise InputError(
            f"defence {name!r} has train and also reuse_state_of, whose state it applies: give one"
        )
    # A defence is trained exactly if its factory takes a recipe
    learns = plugins.takes(defences, "defence", settings["name"], "recipe")
    if learns and "train" not in settings:
        raise InputError(f"defence {name!r} needs a training configuration: give train")
    if "train" in settings and not learns:
        raise InputError(f"defence {name!r} has train, but is not trained")
