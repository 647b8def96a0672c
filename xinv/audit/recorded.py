"""Predictions and explanations that another stack recorded, as the results of a service.

target.recorded = "release.npz"        prediction [N,K], explanation/<name> [N,h,w,c], labels [N]

Predictions are in the form of the config's `service.prediction`: probabilities or logits.
"""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import data, explain, store
from xinv.audit.results import Config
from xinv.audit.roles import Roles
from xinv.audit.stage import Create, Stages
from xinv.numbers import HALF_ROUNDING
from xinv.types import Array, InputError

_CHUNK = 256  # examples read at once
_SCALED = 64  # maps scaled at once
NO_MODEL = (
    "the target is recorded: what differentiates or asks its model (white-box attacks, "
    "insertion and deletion, max_sensitivity) needs target.function instead"
)
_PREFIX = "explanation/"


class Recorded(NamedTuple):
    """The releases of a service about each image of a data set.

    Attributes:
      prediction: probabilities or logits, float32 [N,K].
      explanations: by name, float32 [N,h,w,c].
      fingerprint: hash of the content.
    """

    prediction: Array
    explanations: dict[str, Array]
    fingerprint: str


def read(
    path: str | Path,
    dataset: data.Dataset,
    label: str,
    logits: bool = False,
) -> Recorded:
    """Reads the releases of a service from an npz file, and checks them against the data set.

    Arrays: "prediction" [N,K], probabilities or `logits`; "explanation/<name>" [N,h,w,c] for any
    number of names; and "labels" [N], the data set's labels in the order of the other arrays.

    Raises:
      InputError: the file is missing or damaged, or an array is missing, of another length or
        order, not finite, or of the other form.
    """
    name = f"target.recorded {str(path)!r}"
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise InputError(f"{name} does not exist: give an npz file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{name} cannot be read: {error}") from None

    # Check the arrays
    maps = {}
    for key, array in arrays.items():
        if key.startswith(_PREFIX):
            maps[key.removeprefix(_PREFIX)] = array
    found = checked(
        name,
        dataset,
        label,
        arrays.get("prediction"),
        maps,
        logits,
    )

    # Check their order, which the labels tell
    if "labels" not in arrays:
        raise InputError(
            f"{name} has no array 'labels', so that the order is unknown: "
            "add the data set's labels [N]"
        )
    if not np.array_equal(arrays["labels"], dataset.labels[label]):
        raise InputError(
            f"{name} is in another order than the data set: "
            f"its labels differ from the label {label!r}"
        )
    return found


def checked(
    what: str,
    dataset: data.Dataset,
    label: str,
    prediction: Any,
    explanations: dict[str, Any],
    logits: bool = False,
) -> Recorded:
    """Checks predictions and explanations of every image of a data set.

    Args:
      what: their name in errors.
      dataset: of N images.
      label: the label with the classes of the predictions.
      prediction: probabilities or logits [N,K].
      explanations: by name, [N,h,w,c].
      logits: True if predictions are logits.

    Raises:
      InputError: an array is missing, of another length or shape, not finite, or predictions are of
        the other form.
    """
    count = len(dataset.images)
    classes = len(dataset.classes[label])
    if prediction is None:
        form = "logits" if logits else "probabilities"
        raise InputError(f"{what} has no array 'prediction': give {form} [N,K]")
    # The content is the identity of the target: changed arrays are another result
    digest = hashlib.sha256()
    _enter(
        digest,
        what,
        "prediction",
        prediction,
        count,
    )
    _require_form(what, prediction, logits)
    for name, array in explanations.items():
        _enter(
            digest,
            what,
            _PREFIX + name,
            array,
            count,
        )
    if prediction.shape[1] != classes:
        raise InputError(
            f"{what} has predictions of {prediction.shape[1]} classes, and the data set {classes}"
        )
    return Recorded(prediction, explanations, digest.hexdigest()[:16])


def _enter(
    digest: Any,
    what: str,
    name: str,
    array: Any,
    count: int,
) -> None:
    """Checks one array of `count` rows, and enters its content in the digest."""
    # Predictions are vectors, explanations are maps
    expected = "[N,K]" if name == "prediction" else "[N,h,w,c]"
    shape = np.shape(array)
    dtype = np.dtype(array.dtype)
    axes = expected.count(",") + 1
    if len(shape) != axes or shape[0] != count or dtype.kind not in "fiu":
        raise InputError(
            f"{what} has {name!r} of {dtype} {list(shape)}: "
            f"it must be numbers {expected}, N = {count}"
        )
    # In parts, since a memory map may be larger than memory
    for start in range(0, count, _CHUNK):
        part = np.ascontiguousarray(array[start : start + _CHUNK], np.float32)
        if not np.isfinite(part).all():
            raise InputError(f"{what} has NaN or infinite values in {name!r}")
        digest.update(part.tobytes())
    digest.update(f"{name} {shape}".encode())


def _require_form(what: str, prediction: Any, logits: bool) -> None:
    """Raises InputError for logits that are probabilities, or probabilities that are none."""
    # Some rows of logits may be probabilities by chance, all of a data set are not
    parts = (prediction[start : start + _CHUNK] for start in range(0, len(prediction), _CHUNK))
    if all(are_probabilities(np.asarray(part, np.float32)) for part in parts) != logits:
        return
    if logits:
        raise InputError(
            f"{what} has predictions that are no logits: all lie in [0,1] and each row sums to 1"
        )
    raise InputError(
        f"{what} has predictions that are no probabilities: "
        "each row must lie in [0,1] and sum to 1, unless they are stated to be logits"
    )


def are_probabilities(rows: np.ndarray) -> bool:
    """Tells if all rows [N,K] lie in [0,1] and sum to 1, but for rounding in half precision."""
    # Half precision rounds each of many summands
    inside = rows.min() >= -HALF_ROUNDING and rows.max() <= 1 + HALF_ROUNDING
    error = np.abs(rows.sum(axis=1) - 1).max()
    return bool(inside and error <= 10 * HALF_ROUNDING)


def prediction(
    target: Recorded,
    roles: Roles,
    role: str,
    seed: int,
) -> tuple[Array, list[str]]:
    """Returns the recorded predictions [N,K] of a role's images, and their digest."""
    # Given, not computed: the digest is of the recording and the role
    rows = _indices(roles, role, seed)
    digest = store.digest(_spec(target, roles, role, seed))
    return np.asarray(target.prediction[rows], np.float32), [digest]


def find(target: Recorded, settings: Config) -> Array:
    """Returns an explanation of all images of the data set, by its section of the config.

    Raises:
      InputError: the recording has none of that name.
    """
    name = settings["name"]
    if name not in target.explanations:
        allowed = ", ".join(target.explanations) or "none"
        raise InputError(f"the recorded target has no explanation {name!r}: it has {allowed}")
    return target.explanations[name]


def shapes(
    target: Recorded,
    settings: Sequence[Config],
    images: jax.ShapeDtypeStruct,
) -> tuple[jax.ShapeDtypeStruct, list[tuple[int, ...]]]:
    """Returns the shapes of the predictions of images, and of some explanations of one image."""
    # A recording of another class count than the data set is refused when it is read
    maps = [np.shape(find(target, one))[1:] for one in settings]
    shape = (images.shape[0], target.prediction.shape[1])
    return jax.ShapeDtypeStruct(shape, np.float32), maps


def explanation(
    target: Recorded,
    roles: Roles,
    stages: Stages,
    settings: Config,
    role: str,
    seed: int,
) -> tuple[Array, list[str]]:
    """Returns a role's explanations [N,h,w,c] on the scale of `settings`, and their digest."""
    found = find(target, settings)
    indices = _indices(roles, role, seed)
    spec = _spec(target, roles, role, seed) | {"settings": settings}

    def fill(create: Create) -> None:
        # Scaled like the explanations of an own model, so that both compare
        scale = jax.jit(jax.vmap(explain.SCALES[settings["normalise"]]))
        maps = create("explanation", (len(indices), *np.shape(found)[1:]))
        for start in range(0, len(indices), _SCALED):
            rows = slice(start, start + _SCALED)
            part = np.asarray(found[indices[rows]], np.float32)
            maps[rows] = scale(part)

    label = f"recorded {settings['name']} on {role}, seed {seed}"
    stage = stages.filled("explanation", label, spec, fill)
    return stage.array("explanation"), [stage.digest]


def _spec(target: Recorded, roles: Roles, role: str, seed: int) -> dict[str, Any]:
    return roles.spec(seed, [role]) | {"role": role, "recorded": target.fingerprint}


def require_released(roles: Roles, role: str, seed: int) -> None:
    """Raises InputError for auxiliary images: a recording is of the data set alone."""
    if "auxiliary" in roles.spec(seed, [role]):
        raise InputError(
            f"role {role!r} has auxiliary images, about which the recorded target released nothing"
        )


def _indices(roles: Roles, role: str, seed: int) -> np.ndarray:
    require_released(roles, role, seed)
    return roles.indices(role, seed)
