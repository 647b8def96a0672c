"""Explanations whose random numbers are of the image: who asks twice gets the same map.

An attacker who may ask again averages independent noise away. Here the noise of an image is a
function of its pixels and of a secret, so further queries tell nothing new. Queries of slightly
changed images draw anew, and are tested as an attack of their own (see `harden.result`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv.audit.release import summarised
from xinv.images import as_float
from xinv.types import Apply, Array, Attack, Defence, Explainer, Key, Observation, Variables

_EXPLAINER, _DEFENCE = 0, 1  # independent random numbers for each


def of_image(explainer: Explainer, secret: Array) -> Explainer:
    """Returns an explainer that draws by the image alone.

    Args:
      explainer: any.
      secret: uint32 [2], the data of a JAX key. Who has it can take the noise off.
    """
    return Partial(_explain, _tree(explainer), np.asarray(secret, np.uint32))


def defended(
    explainer: Explainer,
    defence: Defence | None,
    state: Any,
    secret: Array,
) -> Explainer:
    """Returns an explainer of released maps: of `of_image`, changed by a defence.

    Args:
      explainer: any.
      defence: one, or a chain as one; None changes nothing.
      state: of the defence.
      secret: as in `of_image`; the defence draws by the image as well.
    """
    if defence is None:
        return of_image(explainer, secret)
    return Partial(
        _release(defence),
        _tree(explainer),
        state,
        np.asarray(secret, np.uint32),
    )


def changed(defence: Defence, state: Any, secret: Array) -> Partial:
    """Returns `(images[N,H,W,C], maps[N,h,w,c]) -> released maps` of maps by `of_image`.

    The defence may read maps alone. The result is that of `defended`, but for rounding.
    """
    return Partial(_change(defence), state, np.asarray(secret, np.uint32))


def key_of(secret: Array, image: Array) -> Key:
    """Returns a key that depends on all pixels of an image [H,W,C], in steps of 1/255.

    A universal hash of the pixels (two sums mod 2**32, weighted by the secret) is folded into it.
    """
    key = jax.random.wrap_key_data(jnp.asarray(secret, jnp.uint32), impl="threefry2x32")
    # Whole steps, of values below 0 and above 1 too: standardised images have them
    pixels = jnp.round(255 * image).astype(jnp.int32).astype(jnp.uint32).ravel()
    # Odd weights, so that a change of one pixel changes the sum
    weights = jax.random.bits(key, (2, pixels.size), jnp.uint32) | jnp.uint32(1)
    first, second = (weights * (pixels + 1)).sum(axis=1, dtype=jnp.uint32)
    return jax.random.fold_in(jax.random.fold_in(key, first), second)


def seen(attack: Attack, maps: Array) -> Array:
    """Returns what an attack reads of maps: these, or statistics of them."""
    if attack.summary:
        return summarised(attack.summary, maps)
    return maps


def defence_key(secret: Array, image: Array) -> Key:
    """Returns the key by which the defences of an image [H,W,C] draw."""
    return jax.random.fold_in(key_of(secret, image), _DEFENCE)


def _tree(explainer: Explainer) -> Partial:
    # A function within a tree is static only as a Partial
    if isinstance(explainer, Partial):
        return explainer
    return Partial(explainer)


def _explain(
    explainer: Explainer,
    secret: Array,
    apply: Apply,
    variables: Variables,
    image: Array,
    label: Array,
    key: Key,
) -> jax.Array:
    del key
    own = jax.random.fold_in(key_of(secret, image), _EXPLAINER)
    return explainer(apply, variables, image, label, own)


@functools.lru_cache(64)
def _release(defence: Defence) -> Explainer:
    def release(
        explainer: Explainer,
        state: Any,
        secret: Array,
        apply: Apply,
        variables: Variables,
        image: Array,
        label: Array,
        key: Key,
    ) -> jax.Array:
        explained = _explain(explainer, secret, apply, variables, image, label, key)
        prediction = jax.nn.softmax(apply(variables, image[None]))
        own = defence_key(secret, image)
        observed = Observation(prediction, explained[None])
        return defence.apply(state, observed, own).explanation[0]

    return release


@functools.lru_cache(64)
def _change(defence: Defence) -> Any:
    def change(state: Any, secret: Array, images: Array, maps: Array) -> jax.Array:
        def one(image: jax.Array, explained: jax.Array) -> jax.Array:
            own = defence_key(secret, image)
            observed = Observation(jnp.zeros((1, 0)), explained[None])
            return defence.apply(state, observed, own).explanation[0]

        return jax.vmap(one)(as_float(images), maps)

    return change
