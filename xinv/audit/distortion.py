"""The distortion of explanations by defences, measured on images that the defender holds back."""

from typing import TYPE_CHECKING

import numpy as np

from xinv.types import Array

if TYPE_CHECKING:
    from xinv.audit.release import Release

_CHUNK = 1024  # examples read at once


def distortion(before: "Release", after: "Release", seed: int) -> np.ndarray:
    """Returns the mean squared change [N] of each held-out explanation, in maps' units."""
    service = before.service
    # Images that no defence learned from
    role = service.config["defender"]["held_out"]
    original, first = before.observation(role, seed)
    released, second = after.observation(role, seed)

    def compute() -> dict[str, np.ndarray]:
        return {"distortion": squared_change(original.explanation, released.explanation)}

    stage = service.stages.computed(
        "distortion",
        f"{after.label} on {role}, seed {seed}",
        {"before": first, "after": second},
        compute,
    )
    return stage.array("distortion")


def squared_change(original: Array, released: Array) -> np.ndarray:
    """Returns the mean squared difference per example [N], of arrays that are read in chunks."""
    # A memory map may be larger than memory
    changes = []
    for start in range(0, len(original), _CHUNK):
        part = slice(start, start + _CHUNK)
        change = np.asarray(original[part]) - np.asarray(released[part])
        changes.append(np.square(change).mean(axis=(1, 2, 3)))
    return np.concatenate(changes)
