"""Several defences, one after the other."""

import functools
from typing import Any

import jax

from xinv import train
from xinv.defences.maps import calibrate
from xinv.defences.release import release
from xinv.types import Array, Defence, Key, Observation


@functools.cache
def chain(*defences: Defence) -> Defence:
    """Applies `defences` in the order given; DeepLeak hardens maps by `chain(clip(…), mask(…),
    noise(…))`.

    `init` fits each to what the ones before it release of the defender's data. Its state has theirs
    as "0", "1", …, and the histories of those that were trained with that number before each name.
    Random choices are independent.
    """

    def init(
        key: Key,
        observation: Observation,
        images: Array,
        session: train.Session = train.Session(),
    ) -> dict[str, Any]:
        state = {}
        history = {}
        original = observation
        for number, defence in enumerate(defences):
            init_key, release_key = jax.random.split(jax.random.fold_in(key, number))
            fitted = defence.init(
                init_key,
                observation,
                images,
                _part(session, number),
            )
            history |= {
                f"{number}/{name}": values for name, values in fitted.pop("history", {}).items()
            }
            state[str(number)] = fitted
            if number + 1 < len(defences):
                observation = release(defence, fitted, observation, release_key)
        if any("calibration" in fitted for fitted in state.values()):
            state["calibration"] = calibrate(original)
        return state | ({"history": history} if history else {})

    def apply(
        state: dict[str, Any],
        observation: Observation,
        key: Key,
    ) -> Observation:
        for number, defence in enumerate(defences):
            part = state.get(str(number), {})  # one that learns nothing needs no place
            observation = defence.apply(
                part,
                observation,
                jax.random.fold_in(key, number),
            )
        return observation

    def check(observation: Observation, images: Any) -> None:
        for defence in defences:
            defence.check(observation, images)

    return Defence(init, apply, check)


def _part(session: train.Session, number: int) -> train.Session:
    directory = None if session.directory is None else f"{session.directory}/{number}"
    return session._replace(directory=directory, name=f"{session.name}/{number}")
