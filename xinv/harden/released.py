"""Explanations with random numbers of the image: a repeated query gets the same map.

Against independent noise an attacker may ask again and average. Here the noise is a function of the
image in steps of 1/255, of the explained class, and of a secret. What is explained is the image in
these steps: below a step maps do not change, so no difference of two maps is free of noise. Images
that differ by a step draw anew, and so do other classes. An attacker who averages the maps of
slightly changed images is measured (see `harden.result`); one who asks for every class has as many
draws as there are classes.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv import defences
from xinv.audit.release import summarised
from xinv.images import as_float
from xinv.types import Apply, Array, Attack, Defence, Explainer, Key, Observation, Variables

# Independent random numbers for each
_EXPLAINER, _DEFENCE = 0, 1


def draw_secret() -> np.ndarray:
    """Returns a new secret, uint32 [2], from the random numbers of the system."""
    return np.frombuffer(os.urandom(8), np.uint32).copy()


def of_image(explainer: Explainer, secret: Array) -> Explainer:
    """Returns an explainer of images in steps of 1/255, whose draws depend on image and class.

    Args:
      explainer: any.
      secret: uint32 [2], the data of a JAX key. Whoever has it can remove the noise.
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
      secret: as in `of_image`; the defence draws by image and class as well.
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
    """Returns `(images[N,H,W,C], labels[N], maps[N,h,w,c]) -> released maps` of `of_image`'s maps.

    The defence may read maps alone. The result is that of `defended`, but for rounding.
    """
    return Partial(_change(defence), state, np.asarray(secret, np.uint32))


def stepped(image: Array) -> jax.Array:
    """Returns an image in steps of 1/255: all that a release may depend on."""
    return jnp.round(255 * image) / 255


def key_of(secret: Array, image: Array, label: Array) -> Key:
    """Returns a key of all pixels of an image [H,W,C], in steps of 1/255, and of a class.

    A universal hash of the pixels (two sums mod 2**32, weighted by the secret) is folded into it.
    """
    key = jax.random.wrap_key_data(jnp.asarray(secret, jnp.uint32), impl="threefry2x32")
    # Round to steps, also below 0 and above 1: standardised images have such values
    pixels = jnp.round(255 * image).astype(jnp.int32).astype(jnp.uint32).ravel()
    # Odd weights, so that a change of one pixel changes the sum
    weights = jax.random.bits(key, (2, pixels.size), jnp.uint32) | jnp.uint32(1)
    for part in (*(weights * (pixels + 1)).sum(axis=1, dtype=jnp.uint32), label):
        key = jax.random.fold_in(key, part)
    return key


def seen(attack: Attack, maps: Array) -> Array:
    """Returns an attack's view of maps: the maps, or statistics of them."""
    if attack.summary:
        return summarised(attack.summary, maps)
    return maps


def defence_key(secret: Array, image: Array, label: Array) -> Key:
    """Returns the key of the defences' draws for an image [H,W,C] and a class."""
    return jax.random.fold_in(key_of(secret, image, label), _DEFENCE)


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
    # The caller's key would make repeated queries differ
    del key
    own = jax.random.fold_in(key_of(secret, image, label), _EXPLAINER)
    return explainer(apply, variables, stepped(image), label, own)


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
        # Explain, predict and defend one image, as a batch of one
        explained = _explain(explainer, secret, apply, variables, image, label, key)
        shown = stepped(image)[None]
        prediction = jax.nn.softmax(apply(variables, shown))
        own = defence_key(secret, image, label)
        observed = Observation(prediction, explained[None])
        return defences.applied(defence, state, observed, own, shown).explanation[0]

    return release


@functools.lru_cache(64)
def _change(defence: Defence) -> Any:
    def change(
        state: Any,
        secret: Array,
        images: Array,
        labels: Array,
        maps: Array,
    ) -> jax.Array:
        # Without predictions: such defences read maps alone
        def one(image: jax.Array, label: jax.Array, explained: jax.Array) -> jax.Array:
            own = defence_key(secret, image, label)
            observed = Observation(jnp.zeros((1, 0)), explained[None])
            released = defences.applied(defence, state, observed, own, stepped(image)[None])
            return released.explanation[0]

        return jax.vmap(one)(as_float(images), labels, maps)

    return change
