"""Labelled images from five sources, and the disjoint roles that share them out.

>>> from xinv import data
>>> digits = data.build("digits")
>>> digits.images.shape, digits.classes["digit"][:3]
((1797, 8, 8, 1), ('0', '1', '2'))
>>> fractions = {"target_train": 0.5, "attack_train": 0.4, "attack_test": 0.1}
>>> found = data.roles.split(digits.labels, fractions, seed=0, stratify="digit")
>>> {role: len(indices) for role, indices in found.items()}
{'target_train': 899, 'attack_train': 719, 'attack_test': 179}

| source | reads |
|---|---|
| `digits` | scikit-learn's handwritten digits, embedded |
| `idx` | idx files, as MNIST has them |
| `folder` | images per class, or labels from file names, also inside tar archives |
| `arrays` | npz files |
| `tfds` | any prepared TFDS set, without TensorFlow |

How to extend. Write `xinv/data/table.py`:

    '''Images as lines of numbers: a label, then the intensities.'''

    import numpy as np

    from xinv.data.dataset import Dataset, create
    from xinv.types import InputError


    def table(path: str, height: int, width: int, title: str = "table") -> Dataset:
        '''Grey images uint8 [N,height,width,1] with the label set "label".

        Args:
          path: of the file; one line of label and intensities (0 to 255) per image.
          height, width: of every image.
          title: what a report calls the set.

        Raises:
          InputError: the lines have another length.
        '''
        lines = np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
        if lines.shape[1] != 1 + height * width:
            raise InputError(f"{path} has {lines.shape[1]} columns, not 1 + {height} x {width}")
        images = lines[:, 1:].astype(np.uint8).reshape(-1, height, width, 1)
        names, labels = np.unique(lines[:, 0], return_inverse=True)
        return create(title, images, {"label": labels}, {"label": names})

Import it below and name it in `FACTORIES`. From outside of xinv one line registers it:

    data.FACTORIES += (table,)

Configs then have it as `config.data.source = dict(name="table", path=..., height=28, width=28)`.
"""

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
    "FACTORIES",
    "Images",
    "Lazy",
    "build",
    "concatenate",
    "create",
    "keep",
    "prepare",
    "roles",
    "take",
    "transform",
    "validate",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, **options: Any) -> Dataset:
    """Reads a data set from a source, for example `build("idx", root="mnist")`.

    Args:
      name: of the source.
      options: its parameters.

    Returns:
      The data set.

    Raises:
      InputError: unknown source or option, or bad data.
    """
    return plugins.build(sys.modules[__name__], "data source", name, options)


def prepare(dataset: Dataset, root: str, name: str = "") -> Path:
    """Stores `dataset` as array_record; see `xinv.data.builder.prepare`."""
    from xinv.data import builder  # it imports TFDS, which is slow and which only this needs

    return builder.prepare(dataset, root, name)
