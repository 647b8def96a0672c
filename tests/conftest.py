"""Settings of every test."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Frees compiled programs after each file: each holds memory maps, of which a process may have 65,530.

    One of two workers had 32,500 half way through the suite, and at the end of one XLA died while compiling.
    """
    yield
    jax.clear_caches()
