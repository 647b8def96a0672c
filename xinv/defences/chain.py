"""Several defences, one after the other."""

import functools
from typing import Any

import jax

from xinv import train
from xinv.defences.maps import calibrate
from xinv.defences.release import applied, release
from xinv.types import Array, Defence, Key, Observation


@functools.cache
def chain(*defences: Defence, logits: bool = False) -> Defence:
    """Applies `defences` in the given order.

    DeepLeak hardens maps by `chain(clip(…), mask(…), noise(…))`. `init` fits each defence to the
    release of the ones before it, on the defender's data. Random choices are independent.

    Args:
      defences: in the order of their application.
      logits: True if predictions are logits.

    Returns:
      A defence whose state has the states of its parts as "0", "1", …, and in "history" theirs,
      each name after its part's number.
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
        # Fit each defence to the data as released by the ones before it
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
            # The last release has no reader here
            if number + 1 < len(defences):
                observation = release(
                    defence,
                    fitted,
                    observation,
                    release_key,
                    logits=logits,
                    images=images,
                )
        # `release` compares new maps with the ones before the first defence
        if any("calibration" in fitted for fitted in state.values()):
            state["calibration"] = calibrate(original)
        return state | ({"history": history} if history else {})

    def apply(
        state: dict[str, Any],
        observation: Observation,
        key: Key,
        images: Array | None = None,
    ) -> Observation:
        for number, defence in enumerate(defences):
            # A defence without a state needs no place in it
            part = state.get(str(number), {})
            observation = applied(
                defence,
                part,
                observation,
                jax.random.fold_in(key, number),
                images,
            )
        return observation

    def check(observation: Observation, images: Any) -> None:
        for defence in defences:
            defence.check(observation, images)

    return Defence(
        init,
        apply,
        check,
        logits=all(defence.logits for defence in defences),
        sees_images=any(defence.sees_images for defence in defences),
    )


def _part(session: train.Session, number: int) -> train.Session:
    # A folder for each part, so that their checkpoints do not mix
    directory = None if session.directory is None else f"{session.directory}/{number}"
    return session._replace(directory=directory, name=f"{session.name}/{number}")
