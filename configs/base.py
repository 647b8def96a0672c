"""Shared by the experiments: a complete training recipe and the skeleton of the audit."""

import os

from ml_collections import ConfigDict

_HELD_OUT = "defence_test"


def data_root(folder: str) -> str:
    """Where a data set is looked for: below $XINV_DATA, or ./data where that is unset."""
    return os.path.join(os.environ.get("XINV_DATA", "data"), folder)


def recipe(**changes: object) -> ConfigDict:
    """A complete training recipe: the papers' Adam (Zhao 2021, Section 4.1) unless changed."""
    return ConfigDict(
        dict(
            batch_size=64,
            epochs=100,
            optimizer="adam",
            learning_rate=1e-4,
            b1=0.5,
            b2=0.999,
            weight_decay=0.0,
            schedule="constant",
            warmup_epochs=0.0,
            patience=10,
            validation=0.1,
            augment=(),
            crop_padding=4,
            clip=0.0,
            noise=0.0,
        )
        | changes
    )


def explanations(**changes: object) -> ConfigDict:
    """The explanations of Zhao 2021 that every target has, each scaled to [0,1] per example
    (GNIME's scaling).
    """
    names = ("gradient", "input_x_gradient", "gradcam")
    return ConfigDict(
        {name: dict(name=name, normalise="absolute_minmax") | changes for name in names}
    )


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
    """One attack: what it reads ("prediction", explanations, other arms), what it learns from, and
    what it sees.

    `attack` changes the attack section's parameters; with a `name` it replaces them. An attack
    learns from what the service answers about the attacker's images, and sees what it releases
    about the reported ones: the mean of `queries` releases of each. With `releases` among what it
    learns it has several such means of each of its own images, which is what noise is to be tested
    with. `known` names a classifier whose weights the attacker has. `population` names a role of
    public images, whose answers the attacker compares with. `members` names the classifier whose
    training set a membership attack is about, "" for the one that is explained. `control_of` names
    the arm that this one is the control of.
    """
    service = dict(
        prediction="target",
        explanation="target",
        defences=(),
        queries=1,
        members="",
    )
    return ConfigDict(
        dict(
            inputs=inputs,
            attack=attack,
            train_view=dict(roles=("attack_train",), releases=1) | service | (train_view or {}),
            test_view=service | (test_view or {}),
            known=known,
            population=population,
            evaluate=evaluate,
            control_of=control_of,
        )
    )


def defended(*inputs: str, by: tuple[str, ...], **changes: object) -> ConfigDict:
    """An arm whose attacker adapts: it learns from what the defences release, as it will see it."""
    return arm(
        *inputs,
        train_view=dict(defences=by),
        test_view=dict(defences=by),
        **changes,
    )


def membership(
    *inputs: str, shadow: str = "shadow", train_view: dict | None = None, **changes: object
) -> ConfigDict:
    """An arm that separates members of the target's training set from others, as it learned on a
    shadow model.
    """
    trained = dict(prediction=shadow, explanation=shadow, roles=("shadow_train+shadow_test",)) | (
        train_view or {}
    )
    return arm(*inputs, train_view=trained, **changes)


def view_of(model: str, members: str = "") -> dict[str, str]:
    """A view of another classifier; `members` names the one whose training set is asked for, "" for
    that itself.
    """
    return dict(prediction=model, explanation=model, members=members)


def controlled(called: str, *inputs: str, **attack: object) -> dict[str, ConfigDict]:
    """A membership attack with its two controls, in which all is alike but the models.

    `untrained`: the attack learns on an untrained model and is tested on another one. What it finds
    is in the images.
    `stranger`: the very attack, tested on a model that was trained on none of the images.
    """
    untrained = view_of("untrained", "target")
    stranger = view_of("stranger", "target")
    learned = dict(members="shadow")
    return {
        called: membership(*inputs, **attack),
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
            test_view=stranger,
            control_of=called,
            **attack,
        ),
    }


PARTS = ("search", "report")


def searched(members: str, others: str) -> dict[str, dict]:
    """Halves of two roles: a search for a release sees the first half of each and is reported on
    the second.
    """
    found = {}
    for number, part in enumerate(PARTS):
        found[f"{part}_members"] = dict(half=(members,), number=number, of=2)
        found[f"{part}_others"] = dict(half=(others,), number=number, of=2)
    return found


def harden(
    explanations: tuple[str, ...], attack: dict, search_attack: dict, **changes: object
) -> dict:
    """The section of launch/harden.py: the least leak within the floors of utility (DeepLeak,
    Section IV-B).

    The data has the roles of `searched`; `attack` is on membership, and `search_attack` a cheaper
    one for the trials.
    """
    decoder = dict(
        name="decoder",
        encoder="flatten_unet",
        network="decoder",
        loss="mse",
        rescale="none",
        width=0.125,
    )
    parts = {part: f"{part}_members+{part}_others" for part in PARTS}
    return dict(
        explanations=explanations,
        trials=20,
        startup=10,  # random ones
        generation=5,
        transforms=("rescale", "clip", "mask", "noise"),  # without rescale: the paper's
        transform_all=False,
        search_attack=search_attack,
        attack=attack,
        leak="auc",
        utility="spearman",
        floors=dict(spearman=0.5, insertion=0.9, deletion=0.9),
        alpha=0.05,  # of the test that an explanation leaks
        sample=256,  # images for insertion, deletion and max-sensitivity
        queries=8,
        roles=dict(shadow="shadow_train+shadow_test", **parts),
        target="target",
        shadow="shadow",
        controls=dict(stranger=("shadow", "stranger")),
        inversion=dict(
            attack=decoder,
            train=recipe(
                epochs=15,
                learning_rate=1e-3,
                batch_size=32,
            ),
        ),
    ) | dict(changes)


def arms(encoders: tuple[str, ...], explanations: tuple[str, ...]) -> ConfigDict:
    """Predictions alone, and every explanation read in every way (Zhao 2021, Figure 4)."""
    read = {
        f"{encoder}({name})": arm("prediction", name, encoder=encoder)
        for name in explanations
        for encoder in encoders
    }
    return ConfigDict({"prediction": arm("prediction", encoder="none")} | read)


def metrics(sigma: float = 1.5, window: int = 11) -> ConfigDict:
    """Zhao 2021, Section 4.2, and GNIME's DeePSiM, grouped by what the truth of a reconstruction
    is.
    """
    return ConfigDict(
        dict(
            image=dict(
                mse={},
                one_minus_mse={},
                psnr={},
                ssim=dict(sigma=sigma, window=window),
                embedding_similarity={},
                deepsim={},
            ),
            label=dict(attack_accuracy={}),
            explanation=dict(distortion={}),
            membership=dict(
                auc={},
                tpr_at_fpr={},
                transferred={},
                precision={},
                epsilon=dict(delta=1e-5),
            ),
        )
    )


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
    """An inversion audit: what each explanation adds to predictions alone.

    The target is trained for `target_label`; recognition is judged for `attack_label` by an
    evaluation model of the same architecture, initialised independently and trained on originals
    that the reported role does not contain. `sections` replace whole sections.
    """
    return unshared(
        dict(
            unit=unit,
            seed=0,
            seeds=3,
            data=data,
            target=dict(
                label=target_label,
                roles=("target_train",),
                model=model,
                train=train,
            ),
            evaluation=dict(
                label=attack_label,
                roles=("target_train", "attack_train"),
                model=model,
                train=train,
            ),
            shadows={},
            attributes={},
            explanations=explanations(),
            defences={},
            defender=dict(
                role="target_train",
                held_out=_HELD_OUT if _HELD_OUT in data["roles"]["roles"] else "",
            ),
            attack=dict(
                name="decoder",
                encoder="flatten_unet",
                network="decoder",
                loss="mse",
                rescale="none",
                width=attack_width,
                dtype="float32",
                train=attack_train,
            ),
            arms=arms(("flatten_unet",), tuple(explanations())),
            metrics=metrics(sigma),
            analysis={},
            report=dict(examples=12, published=(), positive_control=False),
        )
        | sections
    )


def unshared(config: ConfigDict | dict) -> ConfigDict:
    """A copy of which no two places are one object, so that a command line that changes one leaves
    the others.
    """
    if isinstance(config, ConfigDict):
        config = dict(config.items())
    nested = (dict, ConfigDict)
    return ConfigDict(
        {
            name: unshared(value) if isinstance(value, nested) else value
            for name, value in config.items()
        }
    )


def published(
    source: str,
    metric: str,
    values: dict[str, float | tuple[float, float]],
    tolerance: float = 0.05,
) -> tuple[dict, ...]:
    """What a paper states, to be shown beside what is measured: per arm a mean, or a mean and a
    standard deviation.

    A measured mean is said to be within the published one where it differs by at most two of its
    standard deviations, or by the fraction `tolerance`.
    """
    pairs = {}
    for arm, value in values.items():
        pairs[arm] = value if isinstance(value, tuple) else (value, None)
    return tuple(
        dict(source=source, arm=arm, metric=metric, value=mean, spread=spread, tolerance=tolerance)
        for arm, (mean, spread) in pairs.items()
    )
