"""Settings of every test."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Frees compiled programs after each file: each holds memory maps, of which a process may have 65,530.

    The whole suite compiles more than that for two workers, and XLA then ends the process.
    """
    yield
    jax.clear_caches()
