"""DeepLeak (2026): which explanations give away who was in the training set. The page is configs/deepleak.md.

    python launch/run.py --config=configs/deepleak.py:runlocal-cifar10 --workdir=runs/deepleak-cifar10
    python launch/sweep.py --config=configs/deepleak.py:runlocal-cifar10 --workdir=runs/deepleak-cifar10-tables

| size | images | members, others | report |
|---|---|---|---|
| `cifar10`, `cifar100`, `gtsrb` | TFDS in $XINV_DATA/tfds | 10,000 (gtsrb 7,500), all unused images | TPR at 0.1 % |
| `runlocal-cifar10` | the first 5,000 of CIFAR-10, bit-exact | 1,000, 1,500 | AUC, TPR at 1 % |
| `runlocal-gtsrb` | GTSRB at 32x32, dealt by track | 260 tracks, 390 tracks | AUC, TPR at 5 % |
| `quick` | digits | 250, 500 | AUC; for tests |

Every explainer is attacked by a network on its maps. An attack learns on a shadow model, whose training set the
attacker knows, and is tested on the target. Each has two controls that must score chance: an untrained pair of models,
and a stranger that was trained on none of the audited images.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base, datasets

EXPLAINERS = {
    "smoothgrad": dict(stdev=0.15, samples=25),
    "vargrad": dict(stdev=0.15, samples=25),
    "integrated_gradients": dict(steps=50),
    "gradcam": {},
    "gradcam_plus_plus": {},
    "kernel_shap": dict(samples=100),
    "lime": dict(samples=100),
    "saliency": {},
    "guided_backprop": {},
    "deeplift": {},
    "input_x_gradient": {},
    "deconvolution": {},
    "occlusion": dict(window=8, stride=4),
    "protodash": dict(reference=dict(role="reference", count=100)),
    "anchors": {},
}
"""Table III of the paper, in its order."""
QUICK = ("integrated_gradients", "gradcam", "saliency")
SHARES = dict(target_train=0.2, attack_test=0.3, shadow_train=0.2, shadow_test=0.2, reference=0.05)
"""Members, others, a shadow's members and others, and public images; the stranger is trained on the shadow's others."""


class Size(NamedTuple):
    """What the sizes differ in.

    Attributes:
      data: the data section.
      label: what the target classifies.
      model: of the target and its like.
      train: their recipe.
      attack: parameters of the attack's network.
      epochs: of the attack.
      explainers: names of `EXPLAINERS`.
      seeds: number of seeds.
    """

    data: dict
    label: str
    model: dict
    train: ConfigDict
    attack: dict
    epochs: int
    explainers: tuple[str, ...]
    seeds: int = 3


def _digits() -> dict:
    return datasets.section(dict(name="digits"), "digit", SHARES, resize=(32, 32))


def _signs() -> dict:
    """Frames of one track are near-duplicates: tracks are dealt, counted and resampled as one."""
    path = base.data_root("gtsrb32/gtsrb32_train_every3rd.npz")
    labels = {"sign": "y", "track": "track_frame[0]"}
    source = dict(name="arrays", path=path, image="x", labels=labels, title="GTSRB")
    data = datasets.section(source, "sign", SHARES)
    data["roles"]["group"] = ("sign", "track")
    return data


def _paper(dataset: str, members: float, label: str = "label") -> dict:
    source = dict(name="tfds", dataset=dataset, root=base.data_root("tfds"), split="train+test", labels=(label,))
    shadow = dict(shadow_train=members, shadow_test=members, reference=0.02)
    rest = 1 - 3 * members - 0.02
    roles = dict(target_train=members, attack_test=round(rest, 4)) | shadow
    return datasets.section(source, label, roles, resize=(32, 32))


def _sizes() -> dict[str, Size]:
    cnn = dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512)
    mobilenet = dict(name="mobilenet_v2", dtype="float32", width=1.0, stem="small")
    resnet = dict(name="resnet", dtype="float32", depth=18, width=1.0, stem="small")
    sgd = dict(optimizer="sgd", learning_rate=0.1, b1=0.9, weight_decay=1e-4, schedule="cosine")
    paper = _recipe(batch_size=128, epochs=100, augment=("crop", "flip"), **sgd)
    signs = _recipe(batch_size=128, epochs=100, augment=("crop",), **sgd)
    local = _recipe(batch_size=50, epochs=30, learning_rate=1e-3)
    everything = tuple(EXPLAINERS)
    network = dict(trunk="cnn", width=0.25, restarts=5)
    published = dict(trunk="mobilenet_v2", width=1.0, restarts=5)
    return {
        "quick": Size(
            data=_digits(),
            label="digit",
            model=cnn | dict(width=0.125),
            train=_recipe(batch_size=25, epochs=25, learning_rate=2e-3),
            attack=network | dict(width=0.125, restarts=2),
            epochs=8,
            explainers=QUICK,
            seeds=1,
        ),
        "runlocal-cifar10": Size(
            data=datasets.cifar10_subset(SHARES),
            label="label",
            model=cnn | dict(width=0.25),
            train=local,
            attack=network,
            epochs=15,
            explainers=everything,
        ),
        "runlocal-gtsrb": Size(
            data=_signs(),
            label="sign",
            model=cnn | dict(width=0.25),
            train=local,
            attack=network,
            epochs=15,
            explainers=everything,
        ),
        "cifar10": Size(_paper("cifar10", 1 / 6), "label", mobilenet, paper, published, 15, everything),
        "cifar100": Size(_paper("cifar100", 1 / 6), "label", mobilenet, paper, published, 15, everything),
        "gtsrb": Size(_paper("visual_domain_decathlon/gtsrb", 0.19), "label", resnet, signs, published, 15, everything),
    }


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is a size of the table above; "" is `cifar10`."""
    sizes = _sizes()
    arg = arg or "cifar10"
    if arg not in sizes:
        raise ValueError(f"configs/deepleak.py has no size {arg!r}: choose one of {', '.join(sizes)}")
    size = sizes[arg]
    attack_train = base.recipe(
        batch_size=128, epochs=size.epochs, learning_rate=1e-3, b1=0.9, weight_decay=1e-4, validation=0.2
    )
    config = base.inversion(
        unit=f"deepleak-{arg}",
        data=size.data,
        target_label=size.label,
        attack_label=size.label,
        model=size.model,
        train=size.train,
        attack_width=1.0,
        attack_train=attack_train,
        explanations=ConfigDict(
            {name: dict(name=name, normalise="none") | EXPLAINERS[name] for name in size.explainers}
        ),
    )
    config.seeds = size.seeds

    # Models whose training sets the attacker knows, and the controls
    target = config.target.to_dict()
    config.shadows = ConfigDict(
        dict(
            shadow=target | dict(roles=("shadow_train",)),
            stranger=target | dict(roles=("shadow_test",)),
            untrained=target | dict(roles=("reference",), train={}),
            untrained_shadow=target | dict(roles=("reference",), train={}),
        )
    )
    config.arms = ConfigDict(arms(size))
    return base.unshared(config)


def arms(size: Size) -> dict[str, ConfigDict]:
    """Every explainer attacked by a network and by one statistic, and predictions by confidence, for reference."""
    found = {}
    for name in size.explainers:
        found |= base.controlled(f"network({name})", name, name="membership_network", **size.attack)
    for name in size.explainers:
        found |= base.controlled(f"variance({name})", name, name="map_statistic", statistic="variance")
    held = "prediction", "label"
    found |= base.controlled("confidence", *held, name="confidence")
    found |= base.controlled("gap", *held, name="gap")
    return found


def _recipe(**changes: object) -> ConfigDict:
    """Without held-out images: each image of a classifier's roles is trained on."""
    return base.recipe(**dict(validation=0.0, patience=0) | changes)
