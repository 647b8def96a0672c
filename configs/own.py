"""Audit of a model that you have, or of what your service released.

The page is configs/own.md, a walk-through.

    # Your model, explained by xinv
    python launch/run.py --config=configs/own.py:function \\
        --config.target.function=my_model:load --workdir=runs/function
    # Your service's predictions and maps, in a file
    python launch/run.py --config=configs/own.py:recorded \\
        --config.target.recorded=release.npz --workdir=runs/recorded
    # Who was in the training set
    python launch/run.py --config=configs/own.py:membership \\
        --config.target.function=my_model:load --workdir=runs/who
    # A release that leaks less
    python launch/harden.py --config=configs/own.py:membership \\
        --config.target.function=my_model:load --workdir=runs/harden

`function` explains the model with xinv's explainers. `recorded` needs no model: predictions and
explanation maps come from any library, in a file. Both read images that the model was not trained
on, and their labels, from `my_data.npz` (--config.data.source.path). `membership` asks whether
explanations of models that are trained as yours tell training images from others: `train` beside
`load` trains the model that is attacked, the attacker's shadow, and a stranger that saw none of the
audited images, each on images of its own. Three minutes each on two cores for 900 images of 32x32.
"""

from ml_collections import ConfigDict

from configs import base

_SIZES = ("function", "recorded", "membership")
EXPLAINERS = ("gradient", "input_x_gradient", "gradcam")
RECORDED = ("saliency", "gradcam")
"""The arrays explanation/saliency and explanation/gradcam of release.npz."""


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "function" (or "") or "membership" for a model of yours, or "recorded" for your
    service's releases.
    """
    arg = arg or "function"
    if arg not in _SIZES:
        raise ValueError(
            f"configs/own.py has no size {arg!r}: choose one of {', '.join(map(repr, _SIZES))}"
        )
    if arg == "membership":
        return _membership()
    names = EXPLAINERS if arg == "function" else RECORDED
    target = {"function": dict(function="my_model:load"), "recorded": dict(recorded="release.npz")}[
        arg
    ]
    config = _config(f"own-{arg}", names, dict(attack_train=0.8, attack_test=0.2))
    config.arms = base.arms(("flatten_unet",), names)
    # The target is not trained here; the evaluation model is, on images that no figure is reported
    # on.
    config.target = ConfigDict(dict(label="label", roles=()) | target)
    config.evaluation.roles = ("attack_train",)
    return base.unshared(config)


def _membership() -> ConfigDict:
    """The arms of configs/deepleak.py on models that `train` beside the target's function makes."""
    shares = dict(
        target_train=0.25,
        attack_test=0.25,
        shadow_train=0.25,
        shadow_test=0.25,
    )
    config = _config("own-membership", EXPLAINERS, shares)
    config.target = ConfigDict(
        dict(
            label="label",
            roles=(),
            function="my_model:load",
        )
    )
    config.evaluation.roles = ("target_train",)
    for settings in config.explanations.values():
        settings.normalise = "none"  # the size of a map tells, too
    alike = dict(label="label", function="target")
    config.shadows = ConfigDict(
        dict(
            model=alike | dict(roles=("target_train",)),
            shadow=alike | dict(roles=("shadow_train",)),
            stranger=alike | dict(roles=("shadow_test",)),
        )
    )
    trained = dict(
        batch_size=64,
        epochs=15,
        learning_rate=1e-3,
        b1=0.9,
        weight_decay=1e-4,
        validation=0.2,
    )
    config.attack.train.update(trained)
    arms = {}
    attack = dict(name="membership_network", trunk="cnn", width=0.25, restarts=5)
    for name in EXPLAINERS:
        arms[name] = base.membership(
            name,
            test_view=base.view_of("model"),
            **attack,
        )
        arms[f"{name} stranger"] = base.membership(
            name,
            test_view=base.view_of("stranger", "model"),
            control_of=name,
            **attack,
        )
    config.arms = ConfigDict(arms)

    # launch/harden.py searches a release of the model that `train` makes
    config.data.roles.roles.update(base.searched("target_train", "attack_test"))
    changes = dict(target="model", transform_all=True)
    config.harden = ConfigDict(
        base.harden(EXPLAINERS, attack, attack | dict(restarts=2), **changes)
    )
    return base.unshared(config)


def _config(
    unit: str,
    names: tuple[str, ...],
    shares: dict[str, float],
) -> ConfigDict:
    """Images and labels of my_data.npz, and an explanation of each name."""
    train = base.recipe(batch_size=32, epochs=15, learning_rate=3e-3)
    return base.inversion(
        unit=unit,
        data=dict(
            auxiliary={},
            source=dict(
                name="arrays",
                path="my_data.npz",
                image="images",
                labels=dict(label="labels"),
                title="my data",
            ),
            transform=dict(crop=None, resize=None, grayscale=False),
            roles=dict(roles=shares, stratify="label", balance=None),
        ),
        target_label="label",
        attack_label="label",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=0.125,
        ),
        train=train,
        attack_width=0.0625,
        attack_train=base.recipe(batch_size=32, epochs=12, learning_rate=3e-3),
        explanations=ConfigDict(
            {name: dict(name=name, normalise="absolute_minmax") for name in names}
        ),
    )
