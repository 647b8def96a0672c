"""Checkpoints of one training, by Orbax: the two newest states, readable again after a kill at any moment."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from xinv.types import InputError


class Saved(NamedTuple):
    """What a checkpoint holds: a pytree of numpy arrays, and a record of JSON values."""

    step: int
    tree: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints in `directory` of the training that `identity` describes; without a directory there are none.

    Args:
      directory: a folder of their own; created by the first save.
      identity: JSON values that say what is trained. A checkpoint of another identity is never read or replaced.
    """

    def __init__(self, directory: str | Path | None, identity: dict[str, Any]):
        self._directory = None if directory is None else Path(directory).absolute()
        self._identity = identity
        self._manager: ocp.CheckpointManager | None = None

    def latest(self, template: Any) -> Saved | None:
        """The newest checkpoint as `template`'s structure, or None if there is none.

        A checkpoint that cannot be read (truncated, corrupt) is removed and the one before it is used.

        Raises:
          InputError: no checkpoint is readable though there were some, or they belong to another training.
        """
        if self._directory is None or not self._directory.exists():
            return None
        steps = sorted(self._open().all_steps(), reverse=True)
        for step in steps:
            saved = self._read(step, template)
            if saved is not None:
                return saved
        if steps:
            raise InputError(
                f"no checkpoint in {self._directory} is readable: delete that folder to train from the start"
            )
        return None

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        """Writes a checkpoint; a kill during it leaves the one before it intact."""
        if self._directory is None:
            return
        about = {"identity": self._identity, "arrays": _describe(tree), "record": record}
        arrays = {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
        args = ocp.args.Composite(about=ocp.args.JsonSave(about), arrays=ocp.args.StandardSave(arrays))
        self._open().save(step, args=args, force=True)

    def close(self) -> None:
        """Ends Orbax's background work."""
        if self._manager is not None:
            self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _read(self, step: int, template: Any) -> Saved | None:
        """The checkpoint of `step`, or None after removing it where it cannot be read."""
        try:
            about = self._open().restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
            stored = about["arrays"]
            arrays = {f"{i:05d}": np.zeros(shape, dtype) for i, (_, shape, dtype) in enumerate(stored)}
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(arrays))
            leaves = list(self._open().restore(step, args=args)["arrays"].values())
        except Exception:  # Orbax raises whatever its readers do; the caller falls back or reports
            self._open().delete(step)
            return None
        self._check("identity", self._identity, about["identity"])
        self._check("arrays", {path: [*rest] for path, *rest in _describe(template)}, {p: [*r] for p, *r in stored})
        return Saved(step, jax.tree.unflatten(jax.tree.structure(template), leaves), about["record"])

    def _check(self, what: str, present: dict[str, Any], stored: dict[str, Any]) -> None:
        for name in {**present, **stored}:
            if present.get(name) != stored.get(name):
                raise InputError(
                    f"the checkpoint in {self._directory} belongs to another training ({what}: {name} was "
                    f"{stored.get(name)!r} and is {present.get(name)!r}): delete that folder or use another"
                )


def _describe(tree: Any) -> list[list[Any]]:
    """[path, shape, dtype] of every leaf, as JSON values."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path), [*np.shape(leaf)], str(np.asarray(leaf).dtype)] for path, leaf in leaves]
