"""What `memory` thinks a program needs, against what XLA gives it."""

import functools

import jax
import jax.numpy as jnp
import pytest

from xinv import explain
from xinv.explain.engine import memory
from xinv.models import mobilenet_v2

MODEL = mobilenet_v2(3, width=0.25)


def needed(function, *shapes):
    return function.lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def peak(function, *example):
    return memory.Traced(function, *example).peak()


@pytest.mark.slow
def test_estimate_near_xlas():
    """The estimate of a deep network is what XLA needs, within a factor of two."""
    variables = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    one = functools.partial(explain.guided_backprop(), MODEL.apply)
    maps = jax.jit(jax.vmap(one, (None, 0, 0, None)))

    def rows(count):
        shape = (count, 32, 32, 3)
        image, label = (
            jax.ShapeDtypeStruct(shape, jnp.float32),
            jax.ShapeDtypeStruct((count,), jnp.int32),
        )
        return variables, image, label, jax.random.key(0)

    variables, image, label, key = rows(1)
    row = jax.ShapeDtypeStruct(image.shape[1:], image.dtype), jax.ShapeDtypeStruct((), label.dtype)
    each = memory.Traced(
        lambda *given: one(given[2], *given[:2], given[3]), *row, variables, key, shared=2
    )
    assert 0.5 < each.peak() / ((needed(maps, *rows(6)) - needed(maps, *rows(2))) / 4) < 2


def test_unread_takes_no_memory():
    """A value that nobody reads takes no memory."""

    def forgetful(x):
        _ = jnp.cumsum(x) @ jnp.ones((len(x), 1000))
        return jnp.cumsum(x)

    assert peak(forgetful, jnp.ones(10)) == peak(jnp.cumsum, jnp.ones(10))


def test_elementwise_chain_keeps_start():
    """A chain of elementwise steps keeps its start alone."""

    def chain(x):
        y = jnp.cumsum(x)
        return jnp.cumsum(jnp.exp(-y) * 2 + 1)

    assert peak(chain, jnp.ones(1000)) == 2 * 4 * 1000
