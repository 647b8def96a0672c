"""Membership from the variance of explanations (Shokri, Strobel and Zick 2021).

    # Digits, three minutes on two cores
    python launch/run.py --config=configs/shokri.py --workdir=runs/shokri

Explanations are of the probability, as in the paper: a model that is sure of an image hardly reacts
to it. A threshold on their variance is learned on a shadow model, whose training set the attacker
knows, and tested on the target's. The control learns and tests the same on two untrained networks:
they know no members, and its AUC must be near 0.5. Members and others are dealt at random from one
data set. configs/deepleak.md has the figures measured here.
"""

from ml_collections import ConfigDict

from configs import base

EXPLANATIONS = ("gradient", "input_x_gradient")


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "": digits at 32x32, a target that learns 350 images by heart."""
    if arg:
        raise ValueError(f"configs/shokri.py has no size {arg!r}: choose ''")
    train = base.recipe(
        batch_size=32,
        epochs=60,
        patience=0,
        validation=0.0,
        learning_rate=2e-3,
    )
    shares = dict(
        target_train=0.2,
        attack_test=0.2,
        shadow_train=0.2,
        shadow_test=0.2,
    )
    config = base.inversion(
        unit="shokri",
        data=dict(
            auxiliary={},
            source=dict(name="digits"),
            transform=dict(crop=None, resize=(32, 32), grayscale=False),
            roles=dict(roles=shares, stratify="digit", balance=None),
        ),
        target_label="digit",
        attack_label="digit",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=0.125,
        ),
        train=train,
        attack_width=1.0,
        attack_train=train,
        explanations=ConfigDict(
            {name: dict(name=name, of="probability", normalise="none") for name in EXPLANATIONS}
        ),
    )
    config.evaluation.roles = ("shadow_train",)
    target = config.target.to_dict()
    config.shadows = ConfigDict(
        dict(
            shadow=target | dict(roles=("shadow_train",)),
            untrained=target | dict(train={}),
            untrained_shadow=target | dict(train={}),
        )
    )
    attack = dict(name="map_statistic", statistic="variance")
    untrained = dict(
        shadow="untrained_shadow",
        train_view=dict(members="shadow"),
        test_view=base.view_of("untrained", "target"),
    )
    config.arms = ConfigDict({})
    for name in EXPLANATIONS:
        config.arms[f"variance({name})"] = base.membership(name, **attack)
        config.arms[f"control({name})"] = base.membership(
            name,
            control_of=f"variance({name})",
            **untrained,
            **attack,
        )
    return base.unshared(config)
