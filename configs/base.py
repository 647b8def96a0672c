"""Shared by the experiments: the complete config, its parts, and the sizes of an experiment.

`get_config` shows every key of a config with a comment, in the order of the pipeline. An experiment
replaces some sections of it. It defines

    sizes() -> {name: Size}            the sections in which its sizes differ
    get_config(arg) -> ConfigDict      audit(size(sizes(), arg), …), with the other sections
    sweep(arg, config) -> list         optional: changes of the config, one entry per unit

A section is a dict; `recipe`, `explanations`, `arm` and `metrics` below make the common ones.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import TypeVar

from ml_collections import ConfigDict

_HELD_OUT = "defence_test"
_Size = TypeVar("_Size", bound="Size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One size of an experiment: the sections of every experiment, in pipeline order.

    An experiment with further differences adds fields in a subclass.

    Attributes:
      unit: name of the experiment in rows and reports.
      data: section of the images; configs/datasets.py has those of the papers.
      target_label: the target predicts this label.
      attack_label: reconstructions are recognised by this label.
      model: network of the target and of the evaluation model.
      train: recipe of both.
      attack_width: factor on the channels of the attack's networks.
      attack_train: recipe of every attack.
      seeds: number of runs.
    """

    unit: str
    data: dict
    target_label: str
    attack_label: str
    model: dict
    train: ConfigDict
    attack_width: float
    attack_train: ConfigDict
    seeds: int = 3


def size(sizes: Mapping[str, _Size], arg: str) -> _Size:
    """Returns the size called `arg`; the first is the default, "".

    Raises:
      ValueError: there is no such size.
    """
    name = arg or next(iter(sizes))
    if name not in sizes:
        raise ValueError(f"there is no size {arg!r}: choose one of {', '.join(map(repr, sizes))}")
    return sizes[name]


def audit(size: Size, **sections: object) -> ConfigDict:
    """Returns the audit of a size; `sections` replace whole sections, as in `inversion`."""
    # Pass the fields of every size: those of a subclass are no sections
    shared = {}
    for field in dataclasses.fields(Size):
        shared[field.name] = getattr(size, field.name)
    return inversion(**shared, **sections)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the complete config: an audit of the embedded digits at the papers' widths.

    Every section and every key of it is here. Methods (a `name` and its parameters) are those of
    `xinv.explain`, `xinv.defences`, `xinv.attacks`, `xinv.metrics` and `xinv.models`.
    """
    if arg:
        raise ValueError(f"there is no size {arg!r}: configs/base.py has none")
    network = dict(
        name="cnn",  # a factory of xinv.models; the other keys are its parameters
        dtype="float32",  # of the computation: or "bfloat16"
        channels=(128, 256),  # per stage
        hidden=512,  # features before the last layer
        width=1.0,  # factor on channels and hidden
    )
    complete = dict(
        unit="base",  # name of the experiment in rows and reports
        seed=0,  # the first seed
        seeds=3,  # number of runs
        # Images, their labels, and the parties that have them
        data=dict(
            source=dict(name="digits"),  # or "arrays", "folder", "idx", "tfds" (xinv.data)
            transform=dict(
                crop=None,  # or "centre", or (top, left, height, width)
                resize=(32, 32),  # height, width
                grayscale=False,
                classes=None,  # or (label, the classes to keep, or how many)
            ),
            roles=dict(
                roles="zhao",  # a protocol, or per role its fraction of the images
                stratify="digit",  # label of the classes that are equally frequent in every role
                balance=None,  # label of the classes that are cut to the size of the smallest
                group=None,  # images of one value of this label stay in one role
            ),
            auxiliary={},  # images of another distribution: source, transform, roles
        ),
        # The attacked classifier
        target=dict(
            label="digit",
            roles=("target_train",),  # its training images
            model=network,  # or function="module:load", or recorded="FILE.npz"
            train=recipe(),  # {}: no training, the initial weights
        ),
        # The classifier that recognises reconstructions, independent of the target
        evaluation=dict(
            label="digit",
            roles=("target_train", "attack_train"),
            model=network,
            train=recipe(),
        ),
        shadows={},  # further classifiers by name, for attackers and controls; as target
        attributes={},  # classifiers of attributes that a reconstruction may reveal; as target
        # The form of every prediction that attackers and defences see
        service=dict(prediction="probabilities"),  # or "logits"
        # Methods by name
        explanations=explanations(),
        defences={},
        # Images of the service that defends
        defender=dict(
            role="target_train",  # a defence is trained on these
            held_out="",  # its distortion is measured on these; "": predictions alone are defended
        ),
        # The attack: a factory of xinv.attacks, its parameters, and the recipe of every arm
        attack=dict(
            name="decoder",
            encoder="flatten_unet",  # how the explanation is read
            network="decoder",  # a factory of xinv.models
            loss="mse",
            rescale="none",  # or "logits": of the logarithms of released probabilities
            width=1.0,  # factor on the network's channels
            dtype="float32",
            train=recipe(),
        ),
        arms=arms(("flatten_unet",), tuple(explanations())),  # attacks that are compared
        metrics=metrics(),
        analysis={},  # or explanation and region ("bright", "ellipse") of Zhao 2021, Figure 6
        report=dict(
            role="attack_test",  # of reported images: trained on by nobody, or by the target alone
            examples=12,  # reported images that are drawn
            published=(),  # figures of the paper, see `published`
            positive_control=False,  # whether the target must leak
        ),
    )
    return unshared(complete)


def inversion(
    *,
    unit: str,
    data: dict,
    target_label: str,
    attack_label: str,
    model: dict,
    train: ConfigDict,
    attack_width: float,
    attack_train: ConfigDict,
    sigma: float = 1.5,
    **sections: object,
) -> ConfigDict:
    """Returns an inversion audit: the gain of each explanation over predictions alone.

    The target is trained for `target_label`. Recognition is judged for `attack_label` by an
    evaluation model of the same architecture, initialised independently and trained on originals
    outside the reported role.

    Args:
      unit: name of the experiment.
      data: the images.
      target_label: label of the target.
      attack_label: label of the evaluation model.
      model: network of both.
      train: recipe of both.
      attack_width: factor on the attack's channels.
      attack_train: recipe of the attacks.
      sigma: standard deviation of SSIM's window, in pixels.
      **sections: whole sections of the config, instead of those of `get_config`.

    Returns:
      A complete config without shared objects, see `unshared`.
    """
    # Targets and evaluation models share architecture and recipe, but no weights
    complete = get_config().to_dict()
    trained = dict(model=model, train=train)

    # Without images held back, explanations cannot be defended
    held_out = _HELD_OUT if _HELD_OUT in data["roles"]["roles"] else ""
    changed = dict(
        unit=unit,
        data=data,
        target=complete["target"] | dict(label=target_label) | trained,
        evaluation=complete["evaluation"] | dict(label=attack_label) | trained,
        defender=complete["defender"] | dict(held_out=held_out),
        attack=complete["attack"] | dict(width=attack_width, train=attack_train),
        metrics=metrics(sigma),
    )
    return unshared(complete | changed | sections)


def data_root(folder: str) -> str:
    """Returns the place of a data set, below $XINV_DATA (default: ./data)."""
    return os.path.join(os.environ.get("XINV_DATA", "data"), folder)


def recipe(**changes: object) -> ConfigDict:
    """Returns a complete training recipe: the papers' Adam (Zhao 2021, Section 4.1), changed."""
    return ConfigDict(
        dict(
            batch_size=64,  # images per step
            epochs=100,
            optimizer="adam",  # or "adamw", "sgd"
            learning_rate=1e-4,  # peak of the schedule
            b1=0.5,  # Adam's; SGD's momentum
            b2=0.999,
            weight_decay=0.0,
            schedule="constant",  # or "cosine", "linear"
            warmup_epochs=0.0,
            patience=10,  # epochs without a better validation loss before the end; 0: no early end
            validation=0.1,  # fraction of the images that is held out for it
            augment=(),  # any of "crop", "flip"
            crop_padding=4,  # pixels
            clip=0.0,  # bound of an example's gradient for DP-SGD; 0: none
            noise=0.0,  # DP-SGD's multiplier of it; 0: none
        )
        | changes
    )


def explanations(**changes: object) -> ConfigDict:
    """Returns the explanations of Zhao 2021 for any target, scaled to [0,1] per example.

    The scaling is GNIME's.
    """
    found = {}
    for name in ("gradient", "input_x_gradient", "gradcam"):
        found[name] = dict(name=name, normalise="absolute_minmax") | changes
    return ConfigDict(found)


def arm(
    *inputs: str,
    train_view: dict | None = None,
    test_view: dict | None = None,
    known: str = "",
    population: str = "",
    evaluate: bool = True,
    control_of: str = "",
    **attack: object,
) -> ConfigDict:
    """Returns an arm: one attack, the images it learns from, and the releases it sees.

    An attack learns from the service's answers about the attacker's images, and sees those about
    the reported ones: the mean of `queries` releases of each. With `releases` in its `train_view`
    it has several such means of each of its own images, the way to attack noise.

    Args:
      *inputs: "prediction", names of explanations, of other arms, and "label" or "image" of a
        membership attack's candidates.
      train_view: changes of the view of the attacker's own images.
      test_view: changes of the view of the reported images.
      known: a classifier of known weights (white-box).
      population: a role of public images, for attacks relative to the answers about these.
      evaluate: False for an arm without figures, read by other arms.
      control_of: the attack of a control.
      **attack: changes of the attack section's parameters; with a `name` they replace these.
    """
    # Both views are of one service; only learning chooses its images
    service = dict(
        prediction="target",  # the classifier that predicts
        explanation="target",  # the one that is explained, or "none"
        defences=(),  # names, in the order of their use
        queries=1,  # releases that are averaged
        members="",  # the classifier of whose training set is asked; "": the one that predicts
    )
    learned = service | dict(
        roles=("attack_train",),
        releases=1,  # means of releases per image
    )
    return ConfigDict(
        dict(
            inputs=inputs,
            attack=attack,
            train_view=learned | (train_view or {}),
            test_view=service | (test_view or {}),
            known=known,
            population=population,
            evaluate=evaluate,
            control_of=control_of,
        )
    )


def arms(encoders: tuple[str, ...], explanations: tuple[str, ...]) -> ConfigDict:
    """Returns arms on predictions alone and, for each encoder, on each explanation.

    Zhao 2021, Figure 4.
    """
    found = {"prediction": arm("prediction", encoder="none")}
    for name in explanations:
        for encoder in encoders:
            found[f"{encoder}({name})"] = arm("prediction", name, encoder=encoder)
    return ConfigDict(found)


def defended(*inputs: str, by: tuple[str, ...], **changes: object) -> ConfigDict:
    """Returns an arm of an adaptive attacker: it learns from defended releases, as it will see."""
    return arm(
        *inputs,
        train_view=dict(defences=by),
        test_view=dict(defences=by),
        **changes,
    )


def membership(
    *inputs: str, shadow: str = "shadow", train_view: dict | None = None, **changes: object
) -> ConfigDict:
    """Returns an arm to separate members of the target's training set from others.

    It learns on `shadow`, a classifier whose training set the attacker knows.
    """
    # Join both kinds in one role: the shadow's training set tells them apart
    trained = dict(prediction=shadow, explanation=shadow, roles=("shadow_train+shadow_test",))
    return arm(*inputs, train_view=trained | (train_view or {}), **changes)


def view_of(model: str, members: str = "") -> dict[str, str]:
    """Returns a view of another classifier; `members` as in `arm`."""
    return dict(prediction=model, explanation=model, members=members)


def controlled(
    called: str,
    *inputs: str,
    by: tuple[str, ...] = (),
    **attack: object,
) -> dict[str, ConfigDict]:
    """Returns a membership attack and its two controls, alike but for the models.

    It learns from what the defences `by` release, and is tested on such.

    `untrained`: the attack learns on an untrained model and is tested on another one. Any leak is
    then one of the images.
    `stranger`: the same attack, tested on a model trained on none of the images.
    """
    # Controls keep the truth of the attack: members of the target, and of its shadow
    defended = dict(defences=by)
    untrained = view_of("untrained", "target") | defended
    stranger = view_of("stranger", "target") | defended
    learned = dict(members="shadow") | defended
    return {
        called: membership(*inputs, train_view=defended, test_view=defended, **attack),
        f"{called} untrained": membership(
            *inputs,
            shadow="untrained_shadow",
            train_view=learned,
            test_view=untrained,
            control_of=called,
            **attack,
        ),
        f"{called} stranger": membership(
            *inputs,
            train_view=defended,
            test_view=stranger,
            control_of=called,
            **attack,
        ),
    }


def metrics(sigma: float = 1.5, window: int = 11) -> ConfigDict:
    """Returns the metrics of Zhao 2021, Section 4.2, and GNIME's DeePSiM.

    They are grouped by the truth of a guess. SSIM's Gaussian has a standard deviation of `sigma`
    pixels in a window of `window`.
    """
    return ConfigDict(
        dict(
            # Reconstructions: the image, and its label by the evaluation model
            image=dict(
                mse={},
                one_minus_mse={},
                psnr={},
                ssim=dict(sigma=sigma, window=window),
                embedding_similarity={},
                deepsim={},
            ),
            label=dict(attack_accuracy={}),
            # The cost of a defence
            explanation=dict(distortion={}),
            # Scores of candidates, of the whole set at once
            membership=dict(
                auc={},
                tpr_at_fpr={},
                transferred={},
                precision={},
                epsilon=dict(delta=1e-5),
            ),
        )
    )


def published(
    source: str,
    metric: str,
    values: dict[str, float | tuple[float, float]],
) -> tuple[dict, ...]:
    """Returns figures of a paper, for the report's section `published`.

    A measured mean counts as within a published one if they differ by at most two of its standard
    deviations, or by 5 %.

    Args:
      source: the place in the paper.
      metric: name of the metric.
      values: a mean per arm, or a mean and a standard deviation.
    """
    rows = []
    for arm, value in values.items():
        mean, spread = value if isinstance(value, tuple) else (value, None)
        row = dict(
            source=source,
            arm=arm,
            metric=metric,
            value=mean,
            spread=spread,
        )
        rows.append(row)
    return tuple(rows)


PARTS = ("search", "report")


def searched(members: str, others: str) -> dict[str, dict]:
    """Returns roles for `harden`: halves of the roles of members and of others.

    The search for a release sees the first half of each; the second is reported.
    """
    # Each image is in one of two halves, so the parts are disjoint
    found = {}
    for number, part in enumerate(PARTS):
        found[f"{part}_members"] = dict(half=(members,), number=number, of=2)
        found[f"{part}_others"] = dict(half=(others,), number=number, of=2)
    return found


def harden(
    explanations: tuple[str, ...], attack: dict, search_attack: dict, **changes: object
) -> dict:
    """Returns the section of launch/harden.py: the least leak within floors of utility.

    DeepLeak, Section IV-B. The data must have the roles of `searched`.

    Args:
      explanations: names.
      attack: the membership attack of the report.
      search_attack: a cheaper one, for the trials.
      **changes: other values of keys.
    """
    decoder = dict(
        name="decoder",
        encoder="flatten_unet",
        network="decoder",
        loss="mse",
        rescale="none",
        width=0.125,
    )
    decoder_train = recipe(epochs=15, learning_rate=1e-3, batch_size=32)
    # Join members and others of each part, as an attack judges both
    parts = {part: f"{part}_members+{part}_others" for part in PARTS}
    return dict(
        explanations=explanations,
        # The search
        trials=20,
        startup=10,  # random ones before the sampler
        generation=5,  # trials proposed at once
        transforms=("rescale", "clip", "mask", "noise"),  # without rescale: the paper's
        transform_all=False,  # True: also of explainers that have parameters of their own
        # Further ways to compare
        orders=(),  # a search each: (("noise", "clip"), …)
        defences=(),  # of the section defences: (("gnime",), …)
        trainings={},  # of all models: dict(name=dict(train=changes, model=changes), …)
        search_attack=search_attack,
        # Leak and utility
        attack=attack,
        leak="auc",
        utility="spearman",
        floors=dict(spearman=0.5, insertion=0.9, deletion=0.9),
        alpha=0.05,  # of the test that an explanation leaks
        sample=256,  # images for insertion, deletion and max-sensitivity
        queries=8,  # releases that a second attacker averages
        # Images and models
        roles=dict(shadow="shadow_train+shadow_test", **parts),
        target="target",
        shadow="shadow",
        controls=dict(stranger=("shadow", "stranger")),  # the shadow and the target of each
        # The inversion attack that a hardened release must not help
        inversion=dict(attack=decoder, train=decoder_train),
    ) | dict(changes)


def unshared(config: ConfigDict | dict) -> ConfigDict:
    """Returns a copy without shared objects.

    A change of one place on the command line then leaves the others.
    """
    # ml_collections keeps it if two places are one object
    found = {}
    for name, value in config.items():
        nested = isinstance(value, dict | ConfigDict)
        found[name] = unshared(value) if nested else value
    return ConfigDict(found)
