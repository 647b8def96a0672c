"""Real images with named labels, from five sources, and the roles they are dealt to."""

import sys
from pathlib import Path
from typing import Any

from xinv import plugins
from xinv.data import roles
from xinv.data.arrays import arrays
from xinv.data.dataset import Dataset, Images, Lazy, concatenate, create, keep, take, validate
from xinv.data.digits import digits
from xinv.data.folder import folder
from xinv.data.idx import idx
from xinv.data.tfds import tfds
from xinv.data.transform import transform

FACTORIES = (arrays, digits, folder, idx, tfds)

__all__ = [
    "Dataset",
    "Images",
    "Lazy",
    "arrays",
    "build",
    "concatenate",
    "create",
    "digits",
    "folder",
    "idx",
    "keep",
    "prepare",
    "roles",
    "take",
    "tfds",
    "transform",
    "validate",
]


def build(name: str, **options: Any) -> Dataset:
    """The data set of the source `name` with the options of that source.

    Raises:
      InputError: unknown source or option, or bad data.
    """
    return plugins.build(sys.modules[__name__], "data source", name, options)


def prepare(dataset: Dataset, root: str, name: str = "") -> Path:
    """Stores `dataset` as array_record; see `xinv.data.builder.prepare`."""
    from xinv.data import builder  # it imports TFDS, which is slow and which only this needs

    return builder.prepare(dataset, root, name)
