"""Audit of your own model, or of your service's releases.

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
explanation maps come from any library, in a file. Both read images outside the model's training
set, and their labels, from `my_data.npz` (--config.data.source.path). `membership` asks if
explanations of a model like yours separate its training images from others: `train` beside `load`
trains the attacked model, the attacker's shadow, and a stranger to the audited images, each on
images of its own.
Expected: three minutes each on two cores for 900 images of 32x32; an AUC near .5 of the stranger.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base

EXPLAINERS = ("gradient", "input_x_gradient", "gradcam")
RECORDED = ("saliency", "gradcam")
"""The arrays explanation/saliency and explanation/gradcam of release.npz."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and the audited model.

    Attributes:
      target: the function or the recording, as a field of the target section.
      explanations: names of explainers, or of recorded maps.
      membership: whether training images are separated from others, and none rebuilt.
    """

    target: dict
    explanations: tuple[str, ...]
    membership: bool = False


def sizes() -> dict[str, Size]:
    """Returns "function" and "membership" for a model, "recorded" for a service's releases."""
    evaluation_train = base.recipe(batch_size=32, epochs=15, learning_rate=3e-3)
    function = Size(
        unit="own-function",
        data=_data(attack_train=0.8, attack_test=0.2),
        target_label="label",
        attack_label="label",
        target=dict(function="my_model:load"),
        # The evaluation model, which recognises reconstructions
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=0.125,
        ),
        train=evaluation_train,
        explanations=EXPLAINERS,
        attack_width=0.0625,
        attack_train=base.recipe(batch_size=32, epochs=12, learning_rate=3e-3),
    )
    recorded = dataclasses.replace(
        function,
        unit="own-recorded",
        target=dict(recorded="release.npz"),
        explanations=RECORDED,
    )
    membership = dataclasses.replace(
        function,
        unit="own-membership",
        data=_data(
            target_train=0.25,
            attack_test=0.25,
            shadow_train=0.25,
            shadow_test=0.25,
            # Halves for launch/harden.py, which searches a release of the model that `train` makes
            **base.searched("target_train", "attack_test"),
        ),
        membership=True,
        attack_train=base.recipe(
            batch_size=64,
            epochs=15,
            learning_rate=1e-3,
            b1=0.9,
            weight_decay=1e-4,
            validation=0.2,
        ),
    )
    return {"function": function, "recorded": recorded, "membership": membership}


def _data(**roles: object) -> dict:
    """Returns images and labels of my_data.npz."""
    # Names of the arrays in the file
    source = dict(
        name="arrays",
        path="my_data.npz",
        image="images",
        labels=dict(label="labels"),
        title="my data",
    )
    return dict(
        source=source,
        transform=dict(crop=None, resize=None, grayscale=False),
        roles=dict(roles=roles, stratify="label", balance=None),
        auxiliary={},
    )


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    size = base.size(sizes(), arg)
    # The target comes trained, and so has no training role
    target = dict(label=size.target_label, roles=()) | size.target
    config = base.audit(size, target=target)
    if size.membership:
        _ask_membership(config, size)
    else:
        _rebuild(config, size)
    return base.unshared(config)


def _explanations(size: Size, normalise: str) -> ConfigDict:
    found = {}
    for name in size.explanations:
        found[name] = dict(name=name, normalise=normalise)
    return ConfigDict(found)


def _rebuild(config: ConfigDict, size: Size) -> None:
    """Sets the arms of an inversion audit."""
    # The target is not trained here; the evaluation model is, on images without reported figures
    config.evaluation.roles = ("attack_train",)
    # Who adds a defence names a role of its own images
    config.defender.role = ""
    config.explanations = _explanations(size, "absolute_minmax")
    config.arms = base.arms(("flatten_unet",), size.explanations)


def _ask_membership(config: ConfigDict, size: Size) -> None:
    """Sets the arms of configs/deepleak.py, on models made by `train` beside the target."""
    config.evaluation.roles = ("target_train",)
    # Three models of one function, each trained on images of its own
    alike = dict(label=size.target_label, function="target")
    config.shadows = ConfigDict(
        dict(
            model=alike | dict(roles=("target_train",)),
            shadow=alike | dict(roles=("shadow_train",)),
            stranger=alike | dict(roles=("shadow_test",)),
        )
    )
    config.explanations = _explanations(size, "none")  # the size of a map leaks, too
    attack = dict(name="membership_network", trunk="cnn", width=0.25, restarts=5)
    # An attack on each explanation, with the stranger as its control
    arms = {}
    for name in size.explanations:
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
    config.harden = ConfigDict(
        base.harden(
            size.explanations,
            attack=attack,
            search_attack=attack | dict(restarts=2),
            target="model",
            transform_all=True,
        )
    )
