"""Release policies: how to release an explanation, its measured leak and its cost, in one file.

Example:
    policy = load_policy("policies/saliency.json")
    maps = policy.release(apply, variables, images)
"""

import dataclasses
import functools
import numbers
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from xinv import attacks, defences, explain, metrics, parallel, plugins, store, train
from xinv.audit import weights
from xinv.audit.outputs import explainer as build_explainer
from xinv.explain import door
from xinv.harden import policy_file, released
from xinv.harden.candidate import chain_of
from xinv.images import as_float
from xinv.numbers import require_count
from xinv.types import (
    Apply,
    Array,
    Attack,
    Estimate,
    Explainer,
    InputError,
    Observation,
    Variables,
)

_FORWARD = 64


class Policy(NamedTuple):
    """A way to release an explanation.

    Attributes:
      explainer: the explainer's section: its `name`, `normalise` and parameters.
      defences: sections of the defences, first to last.
      secret: seed of the noise of every image, uint32 [2]; whoever has it can remove the noise.
      model: fingerprint of the weights of the measured leak; None for any.
      reference: images [R,H,W,C] of an explainer with a reference, or None.
      state: of the trained defences; {} otherwise.
      measured: figures of leak, utility, controls and trials.
    """

    explainer: Mapping[str, Any]
    defences: tuple[Mapping[str, Any], ...]
    secret: np.ndarray
    model: str | None
    reference: np.ndarray | None
    state: Mapping[str, Any]
    measured: Mapping[str, Any]

    def __repr__(self) -> str:
        # Keep the secret and the arrays out of logs
        said = f"explainer={self.explainer!r}, defences={self.defences!r}, model={self.model!r}"
        outcome = self.measured.get("outcome", "not measured")
        return f"Policy({said}, outcome={outcome!r})"

    def release(
        self,
        apply: Apply,
        variables: Variables,
        images: Array,
        labels: Array | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the released maps of images, by one compiled program.

        The image is explained in steps of 1/255, and noise is a function of it and of the class, so
        the same image has the same map at every call. Bits are equal for equal batches; a batch of
        another size may round in another way.

        Args:
          apply: `apply(variables, images) -> logits`.
          variables: the weights for which the policy was made.
          images: [N,H,W,C], uint8 or float in [0,1].
          labels: the classes to explain, int [N]; None explains the predicted ones.
          out: array [N,h,w,c] to write into.

        Returns:
          Maps [N,h,w,c].

        Raises:
          InputError: the weights are others (see `adopt`), or an argument does not fit. Weights
            within `apply` are not seen.
        """
        self._require(variables)
        released_maps = self.explain()
        # Not read: all noise is a function of the image
        key = jax.random.key(0)
        return explain.batch(
            released_maps,
            apply,
            variables,
            images,
            labels,
            key,
            out=out,
        )

    def observe(
        self,
        apply: Apply,
        variables: Variables,
        images: Array,
        labels: Array | None = None,
    ) -> Observation:
        """Returns the released predictions [N,K] and maps [N,h,w,c] of images; see `release`.

        Defences of predictions, such as `truncate`, act on the predictions.
        """
        images = door.images(images)
        # Explain without defences first: they act on predictions and maps together
        maps = self._replace(defences=()).release(apply, variables, images, labels)
        program = _changed(door.hashable(apply), chain_of(self.defences))
        shared = (variables, self.state, self.secret)
        batch = {"image": images, "map": maps}
        if labels is not None:
            batch["label"] = np.asarray(labels, np.int32)
        return parallel.map_batches(program, shared, batch, _FORWARD)

    def explain(self) -> Explainer:
        """Returns the explainer of released maps, for use in your own code: callers vmap."""
        one = build_explainer(self.explainer, self.reference)
        return released.defended(
            one,
            chain_of(self.defences),
            self.state,
            self.secret,
        )

    def verify(
        self,
        apply: Apply,
        variables: Variables,
        images: Array,
        member: Array,
        group: Array | None = None,
        *,
        attack: Attack | None = None,
        seed: int = 0,
    ) -> dict[str, Estimate]:
        """Measures the leak of this release on images of your own.

        The attacker is stronger than one with a shadow model: it knows the membership of half of
        the images. It learns on their maps, and is tested on the other half.

        Args:
          apply, variables: the model.
          images: [N,H,W,C], of the training set and of others, without any further difference.
          member: 1 for images of the model's training set, 0 for others, [N].
          group: ids [N] of near-duplicates, which stay together; None if there are none.
          attack: a membership attack on explanations; None is a small `membership_network`.
          seed: of the halves and of the attack.

        Returns:
          Figures of `metrics.membership`: "auc", "tpr_at_0.01" and others, with 95 % intervals.

        Raises:
          InputError: an argument does not fit, or a half lacks members or others.
        """
        member = np.asarray(member).ravel()
        if not np.isin(member, (0, 1)).all():
            raise InputError(
                "member must be 1 for each image of the training set, and 0 for others"
            )
        require_count(least=0, seed=seed)
        ids = np.arange(len(member)) if group is None else np.asarray(group).ravel()
        if attack is None:
            attack = _small_network(len(ids) // 2)
        if not _reads_maps_alone(attack):
            raise InputError(
                "verify needs a membership attack that reads one model's maps alone, such as "
                "xinv.attacks.membership_network()"
            )
        if not len(member) == len(ids) == len(images):
            raise InputError(
                f"there are {len(images)} images, {len(member)} members and {len(ids)} groups"
            )
        # Halve the groups at random, so that near-duplicates stay together
        maps = self.release(apply, variables, images)
        names, place = np.unique(ids, return_inverse=True)
        known = np.random.default_rng(seed).permutation(len(names))[place] % 2 == 0

        def half(rows: np.ndarray) -> Observation:
            none = np.zeros((int(rows.sum()), 0), np.float32)
            return Observation(none, released.seen(attack, maps[rows]))

        # Learn on one half, judge on the other
        state = attack.fit(
            jax.random.key(seed),
            half(known),
            member[known].astype(np.int32),
        )
        score = np.asarray(attack.predict(state, half(~known)))
        found: dict[str, Estimate] = {}
        for metric in (metrics.membership.auc(), metrics.membership.tpr_at_fpr((0.01, 0.05))):
            found |= metric(member[~known], score, None if group is None else ids[~known])
        return found

    def adopt(self, variables: Variables) -> "Policy":
        """Returns this policy for other weights, without its measured leak: `verify` it.

        Its noise is new: that of two models with one secret would cancel in their difference.
        """
        secret = released.draw_secret()
        return self._replace(model=fingerprint(variables), secret=secret, measured={})

    def _require(self, variables: Variables) -> None:
        if self.model is not None and _fingerprint(variables) != self.model:
            raise InputError(
                f"the policy was made for a model with weights {self.model}, and these are "
                f"{_fingerprint(variables)}: give that model, or adopt() these and verify() again"
            )

    def save(self, path: str | Path) -> None:
        """Writes the policy atomically, and before it its arrays, in a file beside it.

        Every reader of the file knows the secret of the noise: keep it as private as weights.
        """
        arrays = flax.traverse_util.flatten_dict({"state": dict(self.state)}, sep="/")
        if self.reference is not None:
            arrays["reference"] = self.reference
        fields = {
            "explainer": dict(self.explainer),
            "defences": [dict(section) for section in self.defences],
            "secret": [int(word) for word in self.secret],
            "model": self.model,
            "measured": dict(self.measured),
        }
        policy_file.write(Path(path), fields, arrays)


def load_policy(path: str | Path) -> Policy:
    """Returns the policy in a file.

    Raises:
      InputError: there is no such file, it is damaged or of another version, or the arrays beside
        it are missing or others.
    """
    path = Path(path)
    found = policy_file.read(path)
    # A person may have edited the file: build the explainer, so that a wrong name fails here
    try:
        policy = _policy(path, found)
        policy.explain()
    except InputError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error}): write it again with launch/harden.py"
        ) from None
    return policy


def _policy(path: Path, found: Mapping[str, Any]) -> Policy:
    # A secret is the data of a threefry key
    words = found["secret"]
    if len(words) != 2:
        raise InputError(f"{path} has a secret of {len(words)} words: it must have 2")
    secret = np.array([operator.index(word) for word in words], np.uint32)
    sections = found["defences"]
    if not isinstance(sections, list):
        raise InputError(f"{path} has defences {sections!r}: they must be a list of sections")
    # Figures of another release would be believed
    measured = found["measured"]
    whole = plugins.complete(explain, found["explainer"])
    stated = {"explainer": whole, "transforms": sections}
    if store.canonical(measured.get("released", stated)) != store.canonical(stated):
        raise InputError(
            f"{path} was changed: its leak was measured of another release. Write it again with "
            'launch/harden.py, or set "measured" to {} and verify() it'
        )
    arrays = policy_file.read_arrays(path, found["arrays"])
    reference = arrays.pop("reference", None)
    states = {tuple(name.split("/")[1:]): array for name, array in arrays.items()}
    return Policy(
        found["explainer"],
        tuple(sections),
        secret,
        found["model"],
        reference,
        flax.traverse_util.unflatten_dict(states),
        measured,
    )


def fingerprint(variables: Variables) -> str:
    """Returns a hash of weights, plain numbers among them: of names, types, shapes and values."""
    arrays, form = weights.split(variables)
    names = []
    for name, leaf in zip(form.names, form.rest, strict=True):
        # Functions and other objects have no lasting value
        names.append(f"{name}={leaf!r}" if isinstance(leaf, str | numbers.Number) else name)
    return weights.fingerprint(" ".join(names), arrays)


def _small_network(count: int) -> Attack:
    """Returns a small membership network for about so many images to learn from."""
    recipe = train.Recipe()
    # Less than a batch of few images, so that a random half fills it
    batch_size = max(1, min(recipe.batch_size, int(0.8 * (1 - recipe.validation) * count)))
    recipe = dataclasses.replace(recipe, batch_size=batch_size)
    return attacks.membership_network(trunk="cnn", width=0.25, recipe=recipe)


def _reads_maps_alone(attack: Any) -> bool:
    if not isinstance(attack, Attack):
        return False
    return attack.goal == "membership" and not attack.paired and not attack.needs


# The last weights, and their hash
_KNOWN: dict[tuple[int, ...], tuple[list[Any], str]] = {}


def _fingerprint(variables: Variables) -> str:
    """Returns `fingerprint`, cached for the same arrays."""
    leaves = jax.tree.leaves(variables)
    # NumPy arrays may change in place, JAX arrays may not
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return fingerprint(variables)
    place = tuple(map(id, leaves))
    if place not in _KNOWN:
        _KNOWN.clear()
        # Keep the arrays alive, so that no others get their ids
        _KNOWN[place] = leaves, fingerprint(variables)
    return _KNOWN[place][1]


@functools.lru_cache(64)
def _changed(apply: Apply, chain: Any) -> Any:
    """Returns `(shared, batch, keys) -> released observations`."""

    def change(
        shared: tuple[Variables, Any, Array],
        batch: Any,
        keys: Any,
    ) -> Observation:
        del keys
        variables, state, secret = shared
        # As in a release: of the image in steps, and of the class that is explained
        images = as_float(batch["image"])
        logits = apply(variables, images)
        shown = released.stepped(images)
        observed = Observation(jax.nn.softmax(apply(variables, shown)), batch["map"])
        if chain is None:
            return observed
        labels = batch.get("label", logits.argmax(-1).astype(jnp.int32))
        own = jax.vmap(functools.partial(released.defence_key, secret))(images, labels)
        return defences.each(chain, state, observed, own, shown)

    return change
