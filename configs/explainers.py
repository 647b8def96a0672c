"""Gallery: the same images explained by every method, one row per image, one column per method.

    # Embedded digits
    python launch/run.py --config=configs/explainers.py --workdir=runs/gallery
    # GTSRB traffic signs
    python launch/run.py --config=configs/explainers.py:signs --workdir=runs/gallery-signs
    # The digits on a CNN, a ViT and a ConvNeXt, side by side on one page
    python launch/sweep.py --config=configs/explainers.py --workdir=runs/gallery-networks

No attack; some minutes on two cores. Every parameter of a method can be set:
--config.explanations.smoothgrad.samples=100.
Data of `signs`: gtsrb32_train_every3rd.npz in $XINV_DATA/gtsrb32, or
--config.data.source.path=FILE.
"""

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
"""What the sweep explains, each small enough to be trained in minutes on CPU."""
RECTIFIED = ("deconvolution", "guided_backprop", "guided_gradcam")
"""Methods that change the ReLUs' derivative: the ViT and the ConvNeXt have none."""
_SIZES = ("", "signs")


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "" for digits or "signs" for traffic signs."""
    if arg not in _SIZES:
        raise ValueError(
            f"configs/explainers.py has no size {arg!r}: choose one of"
            f" {', '.join(map(repr, _SIZES))}"
        )
    if arg == "signs":
        path = base.data_root("gtsrb32/gtsrb32_train_every3rd.npz")
        labels = {"sign": "y", "track": "track_frame[0]"}
        label = "sign"
        source = dict(
            name="arrays",
            path=path,
            image="x",
            labels=labels,
            title="GTSRB",
        )
        roles = dict(
            roles=dict(target_train=0.5, attack_train=0.01, attack_test=0.05),
            stratify=label,
            group=("sign", "track"),
        )
        train = base.recipe(batch_size=64, epochs=8, learning_rate=2e-3)
    else:
        source = dict(name="digits")
        label = "digit"
        roles = dict(
            roles=dict(
                target_train=0.9,
                attack_train=0.02,
                attack_test=0.02,
            ),
            stratify=label,
        )
        train = base.recipe(batch_size=32, epochs=15, learning_rate=3e-3)
    config = base.inversion(
        unit="gallery" + (f"-{arg}" if arg else ""),
        data=dict(
            auxiliary={},
            source=source,
            transform=dict(crop=None, resize=(32, 32), grayscale=False),
            roles=roles,
        ),
        target_label=label,
        attack_label=label,
        model=NETWORKS["cnn"],
        train=train,
        attack_width=1.0,
        attack_train=train,
    )
    config.seeds = 1
    config.arms = ConfigDict()
    config.explanations = ConfigDict(
        {name: dict(name=name, normalise="none") | hyper for name, hyper in METHODS.items()}
    )
    return config


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """One unit per network, on the same images; each leaves out the methods that it has no ReLU
    for.
    """
    config = config or get_config(arg)
    units = []
    for name, model in NETWORKS.items():
        methods = dict(config.explanations.items())
        if name != "cnn":
            methods = {key: value for key, value in methods.items() if key not in RECTIFIED}
        # A transformer learns nothing at the CNN's rate.
        rate = config.target.train.learning_rate if name == "cnn" else 1e-3
        train = config.target.train.to_dict() | {"learning_rate": rate}
        target = config.target.to_dict() | {"model": model, "train": train}
        units.append({"unit": f"{config.unit}-{name}", "target": target, "explanations": methods})
    return units
