"""Defences: changes of an observation before a service releases it.

>>> import jax, numpy as np
>>> from xinv import defences
>>> from xinv.types import Observation
>>> seen = Observation(np.float32([[0.9, 0.1]]), np.linspace(0, 1, 4).reshape(1, 2, 2, 1))
>>> defence = defences.build("quantise", step=0.5)
>>> images = np.zeros((1, 2, 2, 1), np.uint8)
>>> state = defence.init(jax.random.key(0), seen, images)  # on the defender's own images
>>> defences.release(defence, state, seen, jax.random.key(1)).explanation.ravel().tolist()
[0.0, 0.5, 0.5, 1.0]

Each factory returns an `xinv.types.Defence`. `init` fits a defence to the defender's own
observations and images; `release` applies it to others, example by example. None of them touches
the model, so its accuracy stays (`reverse_sigmoid` and `truncate` keep the label, `round_to` can
make ties).

| defence | changes | learns | queries it withstands |
|---|---|---|---|
| gnime | the map, by a generator trained against an inverter | two networks | any number |
| pgd (OND) | the map, by gradient ascent on an inverter's error | one network | any number |
| gaussian (RND) | the map, by noise of a stated distortion | one number | `withstands` |
| rescale, clip | the map's size; its range | nothing | any number |
| mask, quantise | the map's small values; its digits | nothing | any number |
| noise | the map, by noise of a stated deviation | nothing | 1/f, see below |
| truncate, round_to, reverse_sigmoid | the prediction | nothing | any number |

The mean of 1/f releases of `noise` has lost all but a fraction f of its distortion.

Predictions are probabilities, or logits by `logits=True` of `release` and of the defences that have
this parameter. All but `reverse_sigmoid` treat both.

How to extend. Write `xinv/defences/binarise.py`:

    '''Release of the most important pixels alone.'''

    import functools
    from typing import Any

    import jax.numpy as jnp

    from xinv import train
    from xinv.defences.maps import require_maps, required
    from xinv.numbers import is_number, require
    from xinv.types import Defence, Key, Observation


    @functools.cache
    def binarise(share: float = 0.1) -> Defence:
        '''Releases 1 where a map is among its largest values, 0 elsewhere.

        Args:
          share: the fraction of each map's values that become 1, in (0,1).
        '''
        require(is_number(share) and 0 < share < 1, "share", share, "between 0 and 1")

        def init(
            key: Key, observation: Observation, images: Any, session: Any = train.Session()
        ) -> dict:
            require_maps(observation, images)
            return {}  # learns nothing; otherwise a dict of arrays

        def apply(state: Any, observation: Observation, key: Key) -> Observation:
            maps = required(observation)  # [N,h,w,c], or one sentence
            cut = jnp.quantile(maps, 1 - share, axis=(1, 2, 3), keepdims=True)
            return observation._replace(explanation=(maps >= cut).astype(maps.dtype))

        return Defence(init, apply, require_maps, learns=False, logits=True)  # reads no prediction

Import it below and name it in `FACTORIES`. From outside of xinv one line registers it:

    defences.FACTORIES += (binarise,)

Configs then have it as `config.defences["binary"] = dict(name="binarise")`, and an arm meets it by
`base.defended("prediction", "gradcam", by=("binary",))`. The contract tests of
`tests/test_defences_contract.py` run it unasked.
"""

import sys
from collections.abc import Mapping
from typing import Any

from xinv import plugins
from xinv.defences.chain import chain
from xinv.defences.gaussian import gaussian
from xinv.defences.gnime import gnime
from xinv.defences.pgd import pgd
from xinv.defences.release import applied, each, release, withstands
from xinv.defences.transforms import (
    clip,
    mask,
    noise,
    quantise,
    rescale,
    reverse_sigmoid,
    round_to,
    truncate,
)
from xinv.types import Defence

FACTORIES = (
    clip,
    gaussian,
    gnime,
    mask,
    noise,
    pgd,
    quantise,
    rescale,
    reverse_sigmoid,
    round_to,
    truncate,
)
__all__ = [
    "FACTORIES",
    "applied",
    "build",
    "chain",
    "each",
    "release",
    "withstands",
    *(factory.__name__ for factory in FACTORIES),
]


def build(name: str, given: Mapping[str, Any] | None = None, **hyper: Any) -> Defence:
    """Builds a defence by its name, for example `build("quantise", step=0.1)`.

    Args:
      name: of the factory.
      given: the pipeline's offers, see `plugins.build`: a training's "recipe".
      hyper: the factory's parameters.

    Returns:
      The defence.

    Raises:
      InputError: an unknown name or parameter; lists those that exist.
    """
    return plugins.build(sys.modules[__name__], "defence", name, hyper, given)
