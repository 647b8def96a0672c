"""Membership from the variance of explanations (Shokri, Strobel and Zick 2021).

    # Digits, three minutes on two cores
    python launch/run.py --config=configs/shokri.py --workdir=runs/shokri

Explanations are of the probability, as in the paper: a model sure of an image hardly reacts to it.
A threshold on their variance is learned on a shadow model with a known training set, and tested on
the target's. The control learns and tests the same on two untrained networks:
they know no members, and its AUC must be near 0.5. Members and others are random parts of one data
set.
Expected: an AUC of .54 from the gradient, .49 of its control (configs/deepleak.md).
"""

from ml_collections import ConfigDict

from configs import base, datasets

EXPLANATIONS = ("gradient", "input_x_gradient")


def sizes() -> dict[str, base.Size]:
    """Returns "": digits at 32x32, and a target overfitted to its 350 images."""
    # Overfitting is wanted: no images held out, no early end
    train = base.recipe(
        batch_size=32,
        epochs=60,
        patience=0,
        validation=0.0,
        learning_rate=2e-3,
    )
    # As many others as members, of the target and of its shadow
    roles = dict(
        target_train=0.2,
        attack_test=0.2,
        shadow_train=0.2,
        shadow_test=0.2,
    )
    digits = base.Size(
        unit="shokri",
        data=datasets.digits(roles),
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
    )
    return {"": digits}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    config = base.audit(base.size(sizes(), arg))
    config.evaluation.roles = ("shadow_train",)

    # A shadow model whose training set the attacker knows, and two untrained models as a control
    target = config.target.to_dict()
    config.shadows = ConfigDict(
        dict(
            shadow=target | dict(roles=("shadow_train",)),
            untrained=target | dict(train={}),
            untrained_shadow=target | dict(train={}),
        )
    )
    attack = dict(name="map_statistic", statistic="variance")
    # Controls keep the truth: members of the shadow, and of the target
    untrained = dict(
        shadow="untrained_shadow",
        train_view=dict(members="shadow"),
        test_view=base.view_of("untrained", "target"),
    )
    explanations = {}
    arms = {}
    for name in EXPLANATIONS:
        explanations[name] = dict(name=name, of="probability", normalise="none")
        arms[f"variance({name})"] = base.membership(name, **attack)
        arms[f"control({name})"] = base.membership(
            name,
            control_of=f"variance({name})",
            **untrained,
            **attack,
        )
    config.explanations = ConfigDict(explanations)
    config.arms = ConfigDict(arms)
    return base.unshared(config)
