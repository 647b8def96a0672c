"""The outputs of a network, of arrays alone: logits, and their explanations."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from xinv import attacks, data, explain, parallel, store
from xinv.audit.results import Config
from xinv.audit.stage import Create
from xinv.images import as_float
from xinv.types import Apply, Array, Batch, Explainer, InputError, Key, Variables

_TRACED: dict[str, Any] = {}  # by the hash of all that determines it


def traced(what: Any, trace: Callable[[], Any]) -> Any:
    """Returns `trace()`, called once for everything of the same content `what`.

    Many arms of an audit ask for the shapes of one network.
    """
    name = store.digest(what)
    if name not in _TRACED:
        _TRACED[name] = trace()
    return _TRACED[name]


def logits(
    apply: Apply,
    variables: Variables,
    images: data.Images,
    batch_size: int,
) -> Array:
    """Returns the logits [N,K] of images."""
    return parallel.map_batches(_answer(apply), variables, images, batch_size)


@functools.lru_cache(64)
def _answer(apply: Apply) -> Callable[[Variables, Batch, Any], jax.Array]:
    # One function for each network, so that it is compiled once
    return lambda variables, images, keys: apply(variables, as_float(images))


def explainer(settings: Config, reference: data.Images | None) -> Explainer:
    """Returns the explainer of a section of the config, on its scale.

    A `reference` in it is a number of images, spread evenly over those of `reference`, or a `role`
    and such a `count`.
    """
    # The scale is of the map, not of the explainer
    factory = dict(settings)
    if "normalise" not in factory:
        raise InputError(
            f"the explanation {factory.get('name')!r} has no scale: give it normalise, such as "
            "'none'"
        )
    given = {}
    scale = factory.pop("normalise")
    if "reference" in factory:
        given["reference"] = referred(settings, reference)
        factory.pop("reference")
    return explain.normalise(explain.build(given=given, **factory), scale)


def referred(settings: Config, images: data.Images) -> np.ndarray:
    """Returns the images that the explainer of a section refers to, evenly spread over `images`."""
    count = settings["reference"]
    if isinstance(count, Mapping):
        count = count["count"]
    positions = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return images[positions]


def public_reference(settings: Config) -> Sequence[str]:
    """Returns the role of an explanation's reference, if its section of the config names one."""
    reference = settings.get("reference")
    if isinstance(reference, Mapping):
        return [reference["role"]]
    return []


@functools.lru_cache(64)
def summarised(explainer: Explainer, names: tuple[str, ...]) -> Explainer:
    """Returns an explainer of the statistics [1,1,T] of another's maps."""
    summary = attacks.signals.signals(names)

    def explain_in_short(*arguments: Any) -> jax.Array:
        return summary(explainer(*arguments))[None, None, :]

    return explain_in_short


def fill(
    create: Create,
    explainer: Explainer,
    apply: Apply,
    variables: Variables,
    images: data.Images,
    labels: Array,
    key: Key,
) -> None:
    """Creates and fills the maps [N,h,w,c] of images for their classes `labels` [N]."""
    # On disk: maps may exceed memory
    shape = map_shape(explainer, apply, variables, images)
    maps = create("explanation", (len(images), *shape))
    explain.batch(
        explainer,
        apply,
        variables,
        images,
        labels,
        key,
        out=maps,
    )


def map_shape(
    explainer: Explainer,
    apply: Apply,
    variables: Variables,
    images: Any,
) -> tuple:
    """Returns the shape [h,w,c] of an explainer's maps of these images, computing nothing."""
    # An explainer treats one example
    image = jax.ShapeDtypeStruct(images.shape[1:], np.float32)
    label = jax.ShapeDtypeStruct((), np.int32)
    one = functools.partial(explainer, apply)
    return jax.eval_shape(
        one,
        variables,
        image,
        label,
        jax.random.key(0),
    ).shape
