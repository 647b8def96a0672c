"""A chain of defences: one release after the other.

    predictions, explanations -> defence 1 -> defence 2 -> … -> release

A defence learns from the releases of those before it, of the defender's images. Its distortion is
measured on images that the defender holds back.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from xinv import defences, train
from xinv.audit.link import Link
from xinv.audit.stage import state_of
from xinv.defences.maps import calibrate
from xinv.store import Stage
from xinv.types import Defence, Observation

if TYPE_CHECKING:
    from xinv.audit.release import Release


class DefenceChain(NamedTuple):
    """All defences of a release.

    Attributes:
      source: one release of each image before the first defence.
      names: of the defences, first to last.
    """

    source: "Release"
    names: tuple[str, ...]

    def links(self) -> list[Link]:
        """Returns each defence with the release it learns from."""
        # Each learns from the releases of those before it
        found = []
        source = self.source
        for name in self.names:
            found.append(Link(source, name))
            source = source.through(name)
        return found

    def needed(self) -> list[Link]:
        """Returns each defence and those it refers to, in its place."""
        # A reference stands in the same place of the chain
        found = []
        for link in self.links():
            found += link.referred().values()
        return found

    def learned(self, seed: int) -> dict[str, Stage]:
        """Returns the learned states by the defences' labels."""
        found = {}
        for link in self.links():
            stage = link.learned(seed)
            if stage is not None:
                found[link.label] = stage
        return found

    def applied(self, seed: int) -> tuple[Defence, Any]:
        """Returns all defences as one, and its state."""
        # A function of all states at once, compiled as one
        steps = []
        states = []
        for link in self.links():
            steps.append(link.build(seed))
            states.append(state_of(link.learned(seed)))
        if len(steps) == 1:
            return steps[0], states[0]

        # Each defence finds its state under its number, and all share one calibration
        joined = {str(number): state for number, state in enumerate(states)}
        if any("calibration" in state for state in states):
            joined["calibration"] = self._calibration(seed)
        return defences.chain(*steps), joined

    def spec(self, seed: int) -> dict[str, Any]:
        """Returns the parameters of the defences and the digests of their states."""
        # The last defence is the release; those before it are its sources
        specs = []
        for link in self.links():
            learned = link.learned(seed)
            digest = None if learned is None else learned.digest
            specs.append({"state": digest, "settings": link.hyper(seed)})
        # A single defence has the hash that it has without a chain
        *before, last = specs
        if not before:
            return last
        return last | {"before": before}

    def check(self, observation: Observation, images: Any) -> None:
        """Checks by the shapes of an observation and of images that it can be released.

        Raises:
          InputError: a defence or its reference has a wrong parameter or cannot treat these shapes.
        """
        for link in self.needed():
            link.check().check(observation, images)

    def _calibration(self, seed: int) -> Any:
        """Returns the calibration to the defender's undefended maps, for the whole chain."""
        service = self.source.service
        role = service.config["defender"]["role"]
        observed, sources = self.source.observation(role, seed)

        # One pass over the maps has no state to continue from
        def fit(session: train.Session) -> dict[str, Any]:
            del session
            return calibrate(observed)

        stage = service.stages.trained(
            "calibration",
            f"{'+'.join(self.source.inputs)}, seed {seed}",
            {"sources": sources},
            fit,
        )
        return state_of(stage)
