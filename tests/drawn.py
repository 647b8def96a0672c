"""Weights drawn layer by layer in the order of execution, so that two libraries give one network
the same.
"""

import numpy as np


class Drawn:
    """Draws the next layer's arrays: kernels by He's rule, in flax's layout; statistics far from
    their defaults.
    """

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)

    def kernel(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.random.standard_normal(shape, np.float32) * np.float32(
            (2 / np.prod(shape[:-1])) ** 0.5
        )

    def vector(self, size: int, middle: float) -> np.ndarray:
        return (middle + self.random.uniform(-0.3, 0.3, size)).astype(np.float32)

    def norm(self, size: int) -> dict[str, np.ndarray]:
        return {
            name: self.vector(size, name in ("scale", "var"))
            for name in ("scale", "bias", "mean", "var")
        }

    def dense(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"kernel": self.kernel(shape), "bias": self.vector(shape[-1], 0.0)}
