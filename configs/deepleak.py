"""DeepLeak (2026): which explanations give away who was in the training set. The page is configs/deepleak.md.

    python launch/run.py --config=configs/deepleak.py:runlocal-cifar10 --workdir=runs/deepleak-cifar10
    python launch/sweep.py --config=configs/deepleak.py:runlocal-cifar10 --workdir=runs/deepleak-cifar10-tables

| size | images | members, others | resolves | cost of one seed |
|---|---|---|---|---|
| cifar10 (or none), cifar100 | TFDS | 10,000, 28,800 | TPR at 0.1 % | an accelerator, 1 h (estimate) |
| gtsrb | gtsrb/gtsrb_train.npz, by track | 260, 390 tracks | AUC, TPR at 5 % | an accelerator, 1 h (estimate) |
| runlocal-cifar10 | 5,000 of CIFAR-10, bit-exact | 1,000, 1,500 | AUC, TPR at 1 % | two cores, 3 h (estimate) |
| runlocal-gtsrb | GTSRB at 32x32, by track | 260, 390 tracks | AUC, TPR at 5 % | two cores, 3 h (estimate) |
| quick | digits | 359, 539 | AUC | two cores, 3 min (beside other work) |

Every explainer is attacked by a network on its maps. An attack learns on a shadow model, whose training set the
attacker knows, and is tested on the target. Each has two controls that must score chance: an untrained pair of models,
and a stranger that was trained on none of the audited images.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base, datasets, deepleak_published

EXPLAINERS = {
    "smoothgrad": dict(stdev=0.15, samples=5),
    "vargrad": dict(stdev=0.15, samples=5),
    "integrated_gradients": dict(steps=50),
    "gradcam": {},
    "gradcam_plus_plus": {},
    "kernel_shap": dict(samples=25),
    "lime": dict(samples=25),
    "saliency": {},
    "guided_backprop": {},
    "deeplift": {},
    "input_x_gradient": {},
    "deconvolution": {},
    "occlusion": dict(window=8, stride=4),
    "protodash": dict(reference=dict(role="reference", count=100)),
    "anchors": {},
    "guided_gradcam": {},
}
"""Table III of the paper, in its order, and what its released code calls GradCAM++, with the code's numbers of samples
and steps."""
LOCAL = EXPLAINERS | {"integrated_gradients": dict(steps=16)}
QUICK = {name: LOCAL[name] for name in ("integrated_gradients", "gradcam", "saliency")}
GRADIENTS = ("smoothgrad", "vargrad", "saliency", "guided_backprop", "input_x_gradient", "deconvolution", "gradcam")
"""The gradient family, of which a positive control must leak."""
SHARES = dict(target_train=0.2, attack_test=0.3, shadow_train=0.2, shadow_test=0.2, reference=0.05)
"""Members, others, a shadow's members and others, and public images; the stranger is trained on the shadow's others."""
POOL = ("target_train", "attack_test")
"""What is audited."""
PARTS = dict(search=0, report=1)
"""A search for a release sees one half of the members and of the others, and is reported on the other half."""


OTHERS = {
    "densenet": dict(name="densenet", dtype="float32", blocks=(6, 12, 24, 16), growth=32, width=0.25, stem="small"),
    "resnet": dict(name="resnet", dtype="float32", depth=18, width=0.25, stem="small", version=1),
}
"""Architectures of a shadow that differs from the target."""


class Size(NamedTuple):
    """What the sizes differ in.

    Attributes:
      data: the data section.
      label: what the target classifies.
      model: of the target and its like.
      train: their recipe.
      halves: shadow models of the likelihood ratio, each trained on a random half of what is audited.
      published: a data set of deepleak_published.py, or "".
      attack: parameters of the attack's network.
      epochs: of the attack.
      explainers: parameters by name.
      seeds: number of seeds.
    """

    data: dict
    label: str
    model: dict
    train: ConfigDict
    halves: int
    published: str
    attack: dict
    epochs: int
    explainers: dict[str, dict]
    seeds: int = 3


def _digits() -> dict:
    return datasets.section(dict(name="digits"), "digit", SHARES, resize=(32, 32))


def _signs(file: str) -> dict:
    """Frames of one track are near-duplicates: tracks are dealt, counted and resampled as one."""
    labels = {"sign": "y", "track": "track_frame[0]"}
    source = dict(name="arrays", path=base.data_root(file), image="x", labels=labels, title="GTSRB")
    data = datasets.section(source, "sign", SHARES)
    data["roles"]["group"] = ("sign", "track")
    return data


def _paper(dataset: str) -> dict:
    """10,000 members of 60,000 images, and every image that no model needs among the others."""
    sixth = 1 / 6
    roles = dict(target_train=sixth, attack_test=0.48, shadow_train=sixth, shadow_test=sixth, reference=0.02)
    source = dict(name="tfds", dataset=dataset, root=base.data_root("tfds"), split="train+test", labels=("label",))
    return datasets.section(source, "label", roles)


def _sizes() -> dict[str, Size]:
    cnn = dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512)
    mobilenet = dict(name="mobilenet_v2", dtype="float32", width=1.0, stem="small")
    resnet = dict(name="resnet", dtype="float32", depth=18, width=1.0, stem="small")
    sgd = dict(optimizer="sgd", learning_rate=0.1, b1=0.9, weight_decay=1e-4, schedule="cosine")
    signs = _recipe(batch_size=128, epochs=100, augment=("crop",), **sgd)  # a flipped sign is another one
    short = dict(batch_size=50, epochs=30, learning_rate=1e-3)
    network = dict(trunk="cnn", width=0.25, restarts=5)
    paper = Size(
        data=_paper("cifar10"),
        label="label",
        model=mobilenet,
        train=_recipe(batch_size=128, epochs=100, augment=("crop", "flip"), **sgd),
        halves=16,
        published="cifar10",
        attack=dict(trunk="mobilenet_v2", width=1.0, restarts=5),
        epochs=15,
        explainers=EXPLAINERS,
    )
    local = paper._replace(
        data=datasets.cifar10_subset(SHARES),
        model=cnn | dict(width=0.25),
        train=_recipe(**short, augment=("crop", "flip")),
        halves=8,
        attack=network,
        explainers=LOCAL,
    )
    return {
        "quick": Size(
            data=_digits(),
            label="digit",
            model=cnn | dict(width=0.125),
            train=_recipe(batch_size=25, epochs=25, learning_rate=2e-3),
            halves=4,
            published="",
            attack=network | dict(width=0.125, restarts=2),
            epochs=8,
            explainers=QUICK,
            seeds=1,
        ),
        "runlocal-cifar10": local,
        "runlocal-gtsrb": local._replace(
            data=_signs("gtsrb32/gtsrb32_train_every3rd.npz"),
            label="sign",
            train=_recipe(**short, augment=("crop",)),
            published="gtsrb",
        ),
        "cifar10": paper,
        "cifar100": paper._replace(data=_paper("cifar100"), published="cifar100"),
        "gtsrb": paper._replace(
            data=_signs("gtsrb/gtsrb_train.npz"), label="sign", model=resnet, train=signs, published="gtsrb"
        ),
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
            {name: dict(name=name, normalise="none") | given for name, given in size.explainers.items()}
        ),
    )
    config.seeds = size.seeds
    for number in range(size.halves):
        config.data.roles.roles[f"half_{number}"] = dict(half=POOL, number=number, of=size.halves)

    for part, number in PARTS.items():
        config.data.roles.roles[f"{part}_members"] = dict(half=POOL[:1], number=number, of=2)
        config.data.roles.roles[f"{part}_others"] = dict(half=POOL[1:], number=number, of=2)

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
    if size.published:
        rows = deepleak_published.published(size.published)
        config.report.published = tuple(row for row in rows if row["arm"] in config.arms)
    return base.unshared(config)


def arms(size: Size) -> dict[str, ConfigDict]:
    """Every explainer attacked by a network and by one statistic, and predictions by confidence, for reference."""
    found = {}
    for name in size.explainers:
        found |= _attacked(name, size)
    held = "prediction", "label"
    found |= base.controlled("confidence", *held, name="confidence")
    found |= base.controlled("gap", *held, name="gap")
    return found


def _attacked(name: str, size: Size) -> dict[str, ConfigDict]:
    """DeepLeak's attack and Shokri's on one explanation, with controls."""
    network = base.controlled(f"network({name})", name, name="membership_network", **size.attack)
    return network | base.controlled(f"variance({name})", name, name="map_statistic", statistic="variance")


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """The audit; shadow models of the audited images; a target that must leak; a shadow of another architecture.

    | unit | paper | question |
    |---|---|---|
    | audit | Tables I to III | which explanations leak |
    | overfitted | | does a target that learned its images by heart leak: the positive control |
    | likelihood | | how much more do many shadow models find |
    | trajectory | Table II, Liu 2024 | does the confidence while pixels are removed tell more than the map |
    | table-6-densenet, -resnet | Table VI | does the attack need the target's architecture |
    | table-7 | Table VII | does a smaller generalisation gap help |

    Table V has no unit: its "subset" shadow shares images with the target, and its "disjoint" one is that of "audit".
    """
    arg = arg or "cifar10"
    size, config = _sizes()[arg], config or get_config(arg)
    shadows, target = config.shadows.to_dict(), config.target.to_dict()
    plain = target["train"] | dict(augment=(), weight_decay=0.0, epochs=2 * target["train"]["epochs"])
    regular = target["train"] | dict(weight_decay=5e-3, epochs=max(1, target["train"]["epochs"] // 2))
    units = [
        dict(unit="audit"),
        dict(unit="overfitted") | _trained(config, plain) | _gradients(size, config),
        dict(unit="likelihood") | _likelihood(size, config),
        dict(unit="trajectory") | _trajectory(size, config),
    ]
    for name, model in OTHERS.items():
        changed = shadows | {part: shadows[part] | dict(model=model) for part in ("shadow", "untrained_shadow")}
        units.append({"unit": f"table-6-{name}", "shadows": changed})
    units.append(dict(unit="table-7") | _trained(config, regular))
    return units


def _trained(config: ConfigDict, recipe: dict) -> dict:
    """Every trained model by another recipe."""
    parts = dict(target=config.target.to_dict()) | config.shadows.to_dict()
    changed = {name: part | dict(train=recipe) if part["train"] else part for name, part in parts.items()}
    return dict(target=changed.pop("target"), shadows=changed)


def _gradients(size: Size, config: ConfigDict) -> dict:
    """The gradient family; also of probabilities, which saturate on what was learned by heart (Shokri 2021)."""
    explanations = {name: config.explanations[name].to_dict() for name in GRADIENTS if name in size.explainers}
    of_probability = dict(of="probability")
    for name in ("saliency", "input_x_gradient"):
        if name in explanations:
            explanations[f"probability({name})"] = explanations[name] | of_probability
    for name in ("smoothgrad", "vargrad"):
        if name in explanations:
            base_section = dict(name="saliency") | of_probability
            explanations[f"probability({name})"] = explanations[name] | dict(base=base_section)
    arms = references(config)
    for name in explanations:
        arms |= _attacked(name, size)
    return {"explanations": explanations, "arms": ConfigDict(arms).to_dict(), "report.published": ()}


def _likelihood(size: Size, config: ConfigDict) -> dict:
    """Likelihood ratios of maps and of confidences, and RMIA, by models of random halves of what is audited."""
    target = config.target.to_dict()
    halves = {f"half_{number}": target | dict(roles=(f"half_{number}",)) for number in range(size.halves)}
    shadows = dict(prediction=tuple(halves), explanation=tuple(halves), roles=())
    held, ratio = ("prediction", "label"), "likelihood_ratio"
    arms = references(config)
    for name in size.explainers:
        arms |= _paired(f"ratio({name})", name, shadows=shadows, name=ratio)
    arms |= _paired("ratio(confidence)", *held, shadows=shadows, name=ratio, signal="confidence")
    arms |= _paired("relative", *held, shadows=shadows, name="relative")
    found = ConfigDict(arms).to_dict()
    return {"shadows": config.shadows.to_dict() | halves, "arms": found, "report.published": ()}


def _paired(called: str, *inputs: str, shadows: dict, **attack: object) -> dict[str, ConfigDict]:
    """An attack that learns from many shadow models, and its control: the same on a stranger."""
    stranger = base.view_of("stranger", "target")
    control = base.arm(*inputs, train_view=shadows, test_view=stranger, control_of=called, **attack)
    return {called: base.arm(*inputs, train_view=shadows, **attack), f"{called} stranger": control}


def references(config: ConfigDict) -> dict[str, ConfigDict]:
    """The attacks on predictions, with their controls."""
    return {name: arm for name, arm in config.arms.items() if name.split()[0] in ("confidence", "gap")}


def _trajectory(size: Size, config: ConfigDict) -> dict:
    """The target's confidence while pixels go in the order of a map, read by a network."""
    explanations, arms = {}, references(config)
    for base_name in ("saliency", "integrated_gradients", "gradcam"):
        if base_name not in config.explanations:
            continue
        name = f"removal({base_name})"
        of = size.explainers[base_name] | dict(name=base_name)
        explanations[name] = dict(name="removal_trajectory", base=of, steps=16, normalise="none")
        attack = dict(name="membership_network", trunk="mlp", width=1.0, restarts=5)
        arms |= base.controlled(f"network({name})", name, **attack)
    return {
        "explanations": explanations,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": (),
    }


def _recipe(**changes: object) -> ConfigDict:
    """Without held-out images: each image of a classifier's roles is trained on."""
    return base.recipe(**dict(validation=0.0, patience=0) | changes)
