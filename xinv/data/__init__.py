"""Real images with named labels, from five sources, and the roles they are dealt to."""

import sys
from typing import Any

from xinv import plugins
from xinv.data import roles
from xinv.data.dataset import Dataset, Images, Lazy, create, take, validate
from xinv.data.digits import digits
from xinv.data.idx import idx
from xinv.data.transform import transform

FACTORIES = (digits, idx)

__all__ = ["Dataset", "Images", "Lazy", "build", "create", "digits", "idx", "roles", "take", "transform", "validate"]


def build(name: str, **options: Any) -> Dataset:
    """The data set of the source `name` with the options of that source.

    Raises:
      InputError: unknown source or option, or bad data.
    """
    return plugins.build(sys.modules[__name__], "data source", name, options)
