"""The embedded default: 1,797 real handwritten digits that ship with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from xinv.data.dataset import Dataset, create


def digits() -> Dataset:
    """Reads images uint8 [1797,8,8,1] with the label set "digit".

    Returns:
      The data set; its 17 grey levels are spread over 0..255.
    """
    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)
    return create(
        "digits",
        images[..., None],
        {"digit": source.target},
        {"digit": source.target_names},
    )
