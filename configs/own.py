"""Audit of a model that you have, or of what your service released: the walk-through is configs/own.md.

    python launch/run.py --config=configs/own.py:function --config.target.function=my_model:load --workdir=runs/function
    python launch/run.py --config=configs/own.py:recorded --config.target.recorded=release.npz --workdir=runs/recorded

`function` explains the model with xinv's explainers. `recorded` needs no model: predictions and explanation maps come
from any library, in a file. Both read images that the model was not trained on, and their labels, from `my_data.npz`
(--config.data.source.path). Three minutes each on two cores for 900 images of 32x32.
"""

from ml_collections import ConfigDict

from configs import base

_SIZES = ("function", "recorded")
EXPLAINERS = ("gradient", "input_x_gradient", "gradcam")
RECORDED = ("saliency", "gradcam")
"""The arrays explanation/saliency and explanation/gradcam of release.npz."""


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "function" (or "") for a model of your own, or "recorded" for what your service released."""
    arg = arg or "function"
    if arg not in _SIZES:
        raise ValueError(f"configs/own.py has no size {arg!r}: choose one of {', '.join(map(repr, _SIZES))}")
    names = EXPLAINERS if arg == "function" else RECORDED
    target = {"function": dict(function="my_model:load"), "recorded": dict(recorded="release.npz")}[arg]
    train = base.recipe(batch_size=32, epochs=15, learning_rate=3e-3)
    config = base.inversion(
        unit=f"own-{arg}",
        data=dict(
            auxiliary={},
            source=dict(
                name="arrays", path="my_data.npz", image="images", labels=dict(label="labels"), title="my data"
            ),
            transform=dict(crop=None, resize=None, grayscale=False),
            roles=dict(roles=dict(attack_train=0.8, attack_test=0.2), stratify="label", balance=None),
        ),
        target_label="label",
        attack_label="label",
        model=dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512, width=0.125),
        train=train,
        attack_width=0.0625,
        attack_train=base.recipe(batch_size=32, epochs=12, learning_rate=3e-3),
        explanations=ConfigDict({name: dict(name=name, normalise="absolute_minmax") for name in names}),
        arms=base.arms(("flatten_unet",), names),
    )
    # The target is not trained here; the evaluation model is, on images that no figure is reported on.
    config.target = ConfigDict(dict(label="label", roles=()) | target)
    config.evaluation.roles = ("attack_train",)
    return base.unshared(config)
