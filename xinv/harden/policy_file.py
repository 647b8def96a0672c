"""The file of a policy: JSON, and its arrays in an `.npz` file beside it; never pickle."""

import glob
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import xinv
from xinv import store
from xinv.types import Array, InputError

FORMAT = 2
"""Version of the file."""
_FIELDS = ("format", "xinv", "explainer", "defences", "secret", "model", "arrays", "measured")


def write(path: Path, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes a policy atomically, readable by its owner alone.

    Args:
      path: of the JSON file.
      fields: "explainer", "defences", "secret", "model" and "measured", as JSON has them.
      arrays: by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Write the arrays first: the policy names them by their hash
    beside = None
    if arrays:
        beside = _write_arrays(path, arrays)
    stated = {"format": FORMAT, "xinv": xinv.__version__} | dict(fields) | {"arrays": beside}
    text = json.dumps({field: stated[field] for field in _FIELDS}, indent=2)
    # No other user may read it, not even while it is written
    with store.atomic(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(text + "\n")
    # Arrays of an earlier policy of this name are of no use
    for file in path.parent.glob(f"{glob.escape(path.name)}.*.npz"):
        if beside is None or file.name != beside["file"]:
            file.unlink()


def read(path: Path) -> dict[str, Any]:
    """Returns the fields of a policy; their values are not checked.

    Raises:
      InputError: there is no such file, or it is no policy of this version.
    """
    if not path.is_file():
        raise InputError(
            f"there is no policy {str(path)!r}: give a file that launch/harden.py wrote"
        )
    # Check the format before the fields, as they may change with it
    found = store.read_json(path, "write it again with launch/harden.py")
    if not isinstance(found, dict) or "format" not in found:
        raise InputError(f"{path} is no policy: it must hold {', '.join(_FIELDS)}")
    if found["format"] != FORMAT:
        raise InputError(
            f"{path} is a policy of format {found['format']!r}, written by xinv "
            f"{found.get('xinv')}: this xinv reads format {FORMAT}"
        )
    if set(found) != set(_FIELDS):
        raise InputError(f"{path} is no policy: it must hold {', '.join(_FIELDS)}")
    return found


def read_arrays(path: Path, beside: Mapping[str, str] | None) -> dict[str, np.ndarray]:
    """Returns the arrays beside a policy, of which its field "arrays" has name and hash.

    Raises:
      InputError: the file is missing, or another.
    """
    if beside is None:
        return {}
    # Only the name counts: a policy and its arrays may move together
    file = path.with_name(Path(beside["file"]).name)
    if not file.is_file():
        raise InputError(
            f"the policy {path} needs {file.name}, which is not beside it: copy it too"
        )
    if _digest(file.read_bytes()) != beside["sha256"]:
        raise InputError(f"{file} is not the file that the policy {path} was written with")
    with np.load(file, allow_pickle=False) as opened:
        return dict(opened)


def _write_arrays(path: Path, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Writes arrays under a name of their content, so that an earlier policy keeps its own."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: _storable(array) for name, array in arrays.items()})
    digest = _digest(buffer.getbuffer())
    file = path.with_name(f"{path.name}.{digest[:16]}.npz")
    with store.atomic(file) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(buffer.getbuffer())
    return {"file": file.name, "sha256": digest}


def _storable(array: Array) -> np.ndarray:
    # NumPy's files know no bfloat16; float32 has all of its values
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
