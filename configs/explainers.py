"""Gallery: the same images explained by every method, one row per image, one column per method.

    # Embedded digits
    python launch/run.py --config=configs/explainers.py --workdir=runs/gallery
    # GTSRB traffic signs
    python launch/run.py --config=configs/explainers.py:signs --workdir=runs/gallery-signs
    # The digits on a CNN, a ViT and a ConvNeXt, side by side on one page
    python launch/sweep.py --config=configs/explainers.py --workdir=runs/gallery-networks

Some minutes on two cores. It attacks nothing: a page of maps is expected, and no figure but the
target's accuracy. Every parameter of a method can be set:
--config.explanations.smoothgrad.samples=100.
Data of `signs`: gtsrb32_train_every3rd.npz in $XINV_DATA/gtsrb32, or
--config.data.source.path=FILE.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base

METHODS = {
    "gradient": {},
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": dict(steps=50),
    "smoothgrad": dict(stdev=0.15, samples=25),
    "vargrad": dict(stdev=0.15, samples=25),
    "deconvolution": {},
    "guided_backprop": {},
    "deeplift": {},
    "lrp": dict(rule="epsilon_plus"),
    "gradcam": {},
    "gradcam_plus_plus": {},
    "guided_gradcam": {},
    "class_cams": {},
    "constituent_cams": {},
    "occlusion": dict(window=6, stride=3),
    "lime": dict(samples=200),
    "kernel_shap": dict(samples=200),
    "shapley_sampling": dict(samples=10),
    "anchors": {},
    "protodash": dict(reference=200),
}
NETWORKS = {
    "cnn": dict(
        name="cnn",
        dtype="float32",
        channels=(128, 256),
        hidden=512,
        width=0.25,
    ),
    "vit": dict(
        name="vit",
        dtype="float32",
        patch=4,
        width=64,
        depth=4,
        heads=4,
        expansion=4,
    ),
    "convnext": dict(
        name="convnext",
        dtype="float32",
        depths=(1, 1, 1),
        widths=(16, 32, 64),
        layer_scale=0.1,
        stem="small",
    ),
}
"""Networks of the sweep, each small enough to be trained in minutes on CPU."""
WITH_RELUS = ("cnn",)
RECTIFIED = ("deconvolution", "guided_backprop", "guided_gradcam")
"""Methods with another derivative of ReLUs, for networks that have any."""
LEARNING_RATES = {"vit": 1e-3, "convnext": 1e-3}
"""Rates of transformers and the like: at the CNN's they learn nothing."""


def sizes() -> dict[str, base.Size]:
    """Returns "" for digits, "signs" for traffic signs."""
    digits_train = base.recipe(batch_size=32, epochs=15, learning_rate=3e-3)
    digits = base.Size(
        unit="gallery",
        data=_data(
            source=dict(name="digits"),
            roles=dict(
                # Few images are shown, all others are trained on
                roles=dict(
                    target_train=0.9,
                    attack_train=0.02,
                    attack_test=0.02,
                ),
                stratify="digit",
            ),
        ),
        target_label="digit",
        attack_label="digit",
        model=NETWORKS["cnn"],
        train=digits_train,
        # Unused, since the gallery has no arms
        attack_width=1.0,
        attack_train=digits_train,
        seeds=1,
    )
    signs_train = base.recipe(batch_size=64, epochs=8, learning_rate=2e-3)
    signs = dataclasses.replace(
        digits,
        unit="gallery-signs",
        data=_data(
            source=dict(
                name="arrays",
                path=base.data_root("gtsrb32/gtsrb32_train_every3rd.npz"),
                image="x",
                labels={"sign": "y", "track": "track_frame[0]"},
                title="GTSRB",
            ),
            roles=dict(
                roles=dict(target_train=0.5, attack_train=0.01, attack_test=0.05),
                stratify="sign",
                # Frames of one track are near-duplicates
                group=("sign", "track"),
            ),
        ),
        target_label="sign",
        attack_label="sign",
        train=signs_train,
        attack_train=signs_train,
    )
    return {"": digits, "signs": signs}


def _data(source: dict, roles: dict) -> dict:
    transform = dict(crop=None, resize=(32, 32), grayscale=False)
    return dict(source=source, transform=transform, roles=roles, auxiliary={})


def get_config(arg: str = "") -> ConfigDict:
    """Returns the explanations of the size `arg`, unscaled, without any attack."""
    methods = {}
    for name, parameters in METHODS.items():
        methods[name] = dict(name=name, normalise="none") | parameters
    return base.audit(base.size(sizes(), arg), explanations=methods, arms={})


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns one unit per network, on the same images, with the methods it allows."""
    config = config or get_config(arg)
    units = []
    for name, model in NETWORKS.items():
        # Copy the target, so that a unit's changes stay its own
        target = config.target.to_dict()
        target["model"] = model
        if name in LEARNING_RATES:
            target["train"]["learning_rate"] = LEARNING_RATES[name]

        # A method that changes ReLUs raises an error for a network without any
        methods = dict(config.explanations.items())
        if name not in WITH_RELUS:
            methods = {key: value for key, value in methods.items() if key not in RECTIFIED}
        units.append({"unit": f"{config.unit}-{name}", "target": target, "explanations": methods})
    return units
