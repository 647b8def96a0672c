"""What other libraries compute: recorded in tests/fixtures, and live where the extra `witness` is
installed.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"
PRESENT = all(map(find_spec, ("torch", "torchvision", "captum", "zennit", "pytorch_grad_cam")))
LIVE = pytest.mark.skipif(
    not PRESENT, reason="needs the extra witness: XINV_EXTRAS=witness bash launch/test.sh"
)
SOURCES = ["recorded", pytest.param("live", marks=LIVE)]


@cache
def maps(name: str, source: str = "recorded") -> dict[str, np.ndarray]:
    """The arrays of fixtures/NAME.npz; "live" makes them now by fixtures/make_NAME.py, from weights
    drawn anew.
    """
    if source == "live":
        return import_module(f"make_{name}").record(seed=1)
    with np.load(FIXTURES / f"{name}.npz") as file:
        return dict(file)
