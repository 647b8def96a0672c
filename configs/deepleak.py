"""DeepLeak (2026): which explanations give away who was in the training set.

The page is configs/deepleak.md: the claim, what was measured, what was never run.

    python launch/run.py --config=configs/deepleak.py:SIZE --workdir=runs/deepleak
    # Each further experiment too
    python launch/sweep.py --config=configs/deepleak.py:SIZE --workdir=runs/deepleak-tables

| SIZE | members, others | resolves | cost of one seed |
|---|---|---|---|
| cifar10 (or none), cifar100 | 10,000, 28,800 | TPR at 0.1 % | an accelerator, 1 h (estimate) |
| gtsrb | 260, 390 tracks | AUC, TPR at 5 % | an accelerator, 1 h (estimate) |
| runlocal-cifar10 | 1,000, 1,500 | AUC, TPR at 1 % | two cores, 3 h (estimate) |
| runlocal-gtsrb | 260, 390 tracks | AUC, TPR at 5 % | two cores, 3 h (estimate) |
| quick | 359, 539 digits | AUC | two cores, 3 min (beside other work) |

`cifar10` and `cifar100` are read by TFDS, `gtsrb` from $XINV_DATA/gtsrb/gtsrb_train.npz.
`runlocal-cifar10` has 5,000 lossless images, `runlocal-gtsrb` signs at 32x32, three
frames of each track.

Every explainer is attacked by a network on its maps. An attack learns on a shadow model, whose
training set the attacker knows, and is tested on the target. Each has two controls that must score
chance: an untrained pair of models, and a stranger that was trained on none of the audited images.

Expected at `runlocal-cifar10`: AUC .64 from confidences, at most .53 from explanations.
"""

from collections.abc import Iterable
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
"""Table III of the paper, in its order, and what its released code calls GradCAM++, with the code's
numbers of samples and steps.
"""
LOCAL = EXPLAINERS | {
    "integrated_gradients": dict(steps=16),
    "anchors": dict(max_samples=500),
}
"""The same with fewer steps, and a search for anchors of at most five rounds."""
QUICK = {name: LOCAL[name] for name in ("integrated_gradients", "gradcam", "saliency")}
GRADIENTS = (
    "smoothgrad",
    "vargrad",
    "saliency",
    "guided_backprop",
    "input_x_gradient",
    "deconvolution",
    "gradcam",
)
"""The gradient family, of which a positive control must leak."""
SHARES = dict(
    target_train=0.2,
    attack_test=0.3,
    shadow_train=0.2,
    shadow_test=0.2,
    reference=0.05,
)
"""Members, others, a shadow's members and others, and public images; the stranger is trained on the
shadow's others.
"""
NOISES = (0.05, 0.2, 0.5, 1.0, 4.0)
"""Multipliers of the noise of DP-SGD, from the end that keeps the accuracy (Aerni 2024) on."""
PRIVATE = ("integrated_gradients", "saliency")
"""Explainers that are audited under DP-SGD."""
POOL = ("target_train", "attack_test")
"""What is audited."""


OTHERS = {
    "densenet": dict(
        name="densenet",
        dtype="float32",
        blocks=(6, 12, 24, 16),
        growth=32,
        width=0.25,
        stem="small",
    ),
    "resnet": dict(
        name="resnet",
        dtype="float32",
        depth=18,
        width=0.25,
        stem="small",
        version=1,
    ),
}
"""Architectures of a shadow that differs from the target."""


class Size(NamedTuple):
    """What the sizes differ in.

    Attributes:
      data: the data section.
      label: what the target classifies.
      model: of the target and its like.
      train: their recipe.
      halves: shadow models of the likelihood ratio, each trained on a random half of what is
        audited.
      published: a data set of deepleak_published.py, or "".
      attack: parameters of the attack's network.
      epochs: of the attack.
      explainers: parameters by name.
      trials: of the search for a release.
      searching: restarts of the attack's network while searching.
      private: changes of the recipe under DP-SGD.
      grouped: changes of the model there, whose examples must not see each other.
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
    private: dict
    grouped: dict
    trials: int = 20
    searching: int = 2
    seeds: int = 3


def _digits() -> dict:
    return datasets.section(dict(name="digits"), "digit", SHARES, resize=(32, 32))


def _signs(file: str, frames: tuple[str, ...] = ()) -> dict:
    """Frames of one track are near-duplicates: tracks are dealt, counted and resampled as one.

    `frames` keeps these of each track; none keeps all.
    """
    labels = {"sign": "y", "track": "track_frame[0]", "frame": "track_frame[1]"}
    source = dict(
        name="arrays",
        path=base.data_root(file),
        image="x",
        labels=labels,
        title="GTSRB",
    )
    kept = ("frame", frames) if frames else None
    data = datasets.section(source, "sign", SHARES, classes=kept)
    data["roles"]["group"] = ("sign", "track")
    return data


def _paper(dataset: str) -> dict:
    """10,000 members of 60,000 images, and every image that no model needs among the others."""
    sixth = 1 / 6
    roles = dict(
        target_train=sixth,
        attack_test=0.48,
        shadow_train=sixth,
        shadow_test=sixth,
        reference=0.02,
    )
    source = dict(
        name="tfds",
        dataset=dataset,
        root=base.data_root("tfds"),
        split="train+test",
        labels=("label",),
        threads=0,
    )
    return datasets.section(source, "label", roles)


def _sizes() -> dict[str, Size]:
    cnn = dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512)
    mobilenet = dict(name="mobilenet_v2", dtype="float32", width=1.0, stem="small")
    resnet = dict(name="resnet", dtype="float32", depth=18, width=1.0, stem="small")
    sgd = dict(
        optimizer="sgd",
        learning_rate=0.1,
        b1=0.9,
        weight_decay=1e-4,
        schedule="cosine",
    )
    signs = _recipe(
        batch_size=128,
        epochs=100,
        augment=("crop",),
        **sgd,
    )  # a flipped sign is another one
    short = dict(batch_size=50, epochs=30, learning_rate=1e-3)
    network = dict(trunk="cnn", width=0.125, restarts=5)
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
        private=dict(
            batch_size=2000,
            epochs=50,
            optimizer="adam",
            learning_rate=2e-3,
        ),
        grouped=dict(norm="group"),
    )
    local = paper._replace(
        data=datasets.cifar10_subset(SHARES),
        model=cnn | dict(width=0.25),
        train=_recipe(**short, augment=("crop", "flip")),
        halves=8,
        attack=network,
        explainers=LOCAL,
        private=dict(batch_size=500, learning_rate=4e-3),
        grouped={},
    )
    return {
        "quick": Size(
            data=_digits(),
            label="digit",
            model=cnn | dict(width=0.125),
            train=_recipe(batch_size=25, epochs=25, learning_rate=2e-3),
            halves=4,
            published="",
            attack=network | dict(restarts=2),
            epochs=8,
            explainers=QUICK,
            trials=4,
            searching=1,
            private=dict(batch_size=175, learning_rate=1e-2),
            grouped={},
            seeds=1,
        ),
        "runlocal-cifar10": local,
        "runlocal-gtsrb": local._replace(
            data=_signs("gtsrb32/gtsrb32_train_every3rd.npz", frames=("11", "20", "29")),
            label="sign",
            train=_recipe(**short, augment=("crop",)),
            published="gtsrb",
        ),
        "cifar10": paper,
        "cifar100": paper._replace(data=_paper("cifar100"), published="cifar100"),
        "gtsrb": paper._replace(
            data=_signs("gtsrb/gtsrb_train.npz"),
            label="sign",
            model=resnet,
            train=signs,
            published="gtsrb",
        ),
    }


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is a size of the table above; "" is `cifar10`."""
    arg = arg or "cifar10"
    return configured(f"deepleak-{arg}", sized(arg))


def sized(arg: str) -> Size:
    """The size of that name."""
    sizes = _sizes()
    if arg not in sizes:
        raise ValueError(
            f"configs/deepleak.py has no size {arg!r}: choose one of {', '.join(sizes)}"
        )
    return sizes[arg]


def configured(unit: str, size: Size) -> ConfigDict:
    """The audit of a size."""
    attack_train = base.recipe(
        batch_size=128,
        epochs=size.epochs,
        learning_rate=1e-3,
        b1=0.9,
        weight_decay=1e-4,
        validation=0.2,
    )
    config = base.inversion(
        unit=unit,
        data=size.data,
        target_label=size.label,
        attack_label=size.label,
        model=size.model,
        train=size.train,
        attack_width=1.0,
        attack_train=attack_train,
        explanations=ConfigDict(
            {
                name: dict(name=name, normalise="none") | given
                for name, given in size.explainers.items()
            }
        ),
    )
    config.seeds = size.seeds
    for number in range(size.halves):
        config.data.roles.roles[f"half_{number}"] = dict(
            half=POOL,
            number=number,
            of=size.halves,
        )

    config.data.roles.roles.update(base.searched(*POOL))

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
    config.harden = ConfigDict(harden(size))
    rows = deepleak_published.published(size.published) if size.published else ()
    config.report.published = _of(rows, config.arms)
    return base.unshared(config)


def _of(rows: Iterable[dict], arms: Iterable[str]) -> tuple[dict, ...]:
    """Published figures of these arms and of the target."""
    known = {"target", *arms}
    return tuple(row for row in rows if row["arm"] in known)


def arms(size: Size) -> dict[str, ConfigDict]:
    """Every explainer attacked by a network and by one statistic, and predictions by confidence,
    for reference.
    """
    found = {}
    for name in size.explainers:
        found |= _attacked(name, size)
    held = "prediction", "label"
    found |= base.controlled("confidence", *held, name="confidence")
    found |= base.controlled("gap", *held, name="gap")
    return found


def harden(size: Size) -> dict:
    """The search of launch/harden.py (Section IV-B): 20 trials for each explainer."""
    attack = dict(name="membership_network", **size.attack)
    return base.harden(
        tuple(size.explainers),
        attack,
        attack | dict(restarts=size.searching),
        trials=size.trials,
        controls=dict(untrained=("untrained_shadow", "untrained"), stranger=("shadow", "stranger")),
    )


def _attacked(name: str, size: Size) -> dict[str, ConfigDict]:
    """DeepLeak's attack and Shokri's on one explanation, with controls."""
    network = base.controlled(
        f"network({name})",
        name,
        name="membership_network",
        **size.attack,
    )
    return network | base.controlled(
        f"variance({name})", name, name="map_statistic", statistic="variance"
    )


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """The audit; shadow models of the audited images; a target that must leak; a shadow of another
    architecture.

    | unit | paper | question |
    |---|---|---|
    | audit | Tables I to III | which explanations leak |
    | overfitted | | does a target that learned its images by heart leak: the positive control |
    | likelihood | | how much more do many shadow models find |
    | trajectory | Table II, Liu 2024 | does the confidence, as pixels go, tell more than the map |
    | table-6-densenet, -resnet | Table VI | does the attack need the target's architecture |
    | table-7 | Table VII | does a smaller generalisation gap help |
    | dp-0.05 to dp-4 | Table III | what does DP-SGD cost, and what does it leave to attacks |

    Table V's "disjoint" shadow is that of "audit"; its "subset" one shares images with the target
    and has no unit.
    """
    arg = arg or "cifar10"
    size, config = sized(arg), config or get_config(arg)
    shadows = config.shadows.to_dict()
    target = config.target.to_dict()
    plain = target["train"] | dict(
        augment=(), weight_decay=0.0, epochs=2 * target["train"]["epochs"]
    )
    regular = target["train"] | dict(
        weight_decay=5e-3, epochs=max(1, target["train"]["epochs"] // 2)
    )
    units = [
        dict(unit="audit"),
        {"unit": "overfitted", "report.positive_control": True}
        | _trained(config, plain)
        | _gradients(size, config),
        dict(unit="likelihood") | _likelihood(size, config),
        dict(unit="trajectory") | _trajectory(size, config),
    ]
    for name, model in OTHERS.items():
        changed = shadows | {
            part: shadows[part] | dict(model=model) for part in ("shadow", "untrained_shadow")
        }
        rows = _of(deepleak_published.table_6(size.published, name), config.arms)
        units.append({"unit": f"table-6-{name}", "shadows": changed, "report.published": rows})
    rows = _of(deepleak_published.table_7(size.published), config.arms)
    units.append({"unit": "table-7", "report.published": rows} | _trained(config, regular))
    units += [dict(unit=f"dp-{noise:g}") | _private(size, config, noise) for noise in NOISES]
    return units


def _trained(config: ConfigDict, recipe: dict, **model: object) -> dict:
    """Every trained model by another recipe, and every model's network with these changes."""
    parts = dict(target=config.target.to_dict()) | config.shadows.to_dict()
    changed = {}
    for name, part in parts.items():
        changed[name] = part | dict(model=part["model"] | model)
        if part["train"]:
            changed[name]["train"] = recipe
    return dict(target=changed.pop("target"), shadows=changed)


def _gradients(size: Size, config: ConfigDict) -> dict:
    """The gradient family; also of probabilities, which saturate on what was learned by heart
    (Shokri 2021).
    """
    explanations = {
        name: config.explanations[name].to_dict() for name in GRADIENTS if name in size.explainers
    }
    of_probability = dict(of="probability")
    for name in ("saliency", "input_x_gradient"):
        if name in explanations:
            explanations[f"probability({name})"] = explanations[name] | of_probability
    for name in ("smoothgrad", "vargrad"):
        if name in explanations:
            base_section = dict(name="saliency") | of_probability
            explanations[f"probability({name})"] = explanations[name] | dict(base=base_section)
    return _audited(size, config, explanations)


def _audited(size: Size, config: ConfigDict, explanations: dict) -> dict:
    """Attacks on these explanations instead of those of the audit, and on predictions."""
    arms = references(config)
    for name in explanations:
        arms |= _attacked(name, size)
    return {
        "explanations": explanations,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": (),
        "harden.explanations": tuple(explanations),
    }


def _private(size: Size, config: ConfigDict, noise: float) -> dict:
    """Every trained model by DP-SGD, and the attacks on some of its explanations.

    An image is read once an epoch, whatever the batches, so that large ones have the same ε and
    less noise.
    """
    explanations = {name: config.explanations[name].to_dict() for name in PRIVATE}
    explanations["probability(saliency)"] = explanations["saliency"] | dict(of="probability")
    recipe = (
        config.target.train.to_dict() | dict(clip=1.0, noise=noise, weight_decay=0.0) | size.private
    )
    return _trained(config, recipe, **size.grouped) | _audited(size, config, explanations)


def _likelihood(size: Size, config: ConfigDict) -> dict:
    """Likelihood ratios of maps and of confidences, and RMIA, by models of random halves of what is
    audited.
    """
    target = config.target.to_dict()
    halves = {}
    for number in range(size.halves):
        halves[f"half_{number}"] = target | dict(roles=(f"half_{number}",))
    shadows = dict(prediction=tuple(halves), explanation=tuple(halves), roles=())
    held = ("prediction", "label")
    ratio = "likelihood_ratio"
    arms = references(config)
    for name in size.explainers:
        arms |= _paired(f"ratio({name})", name, shadows=shadows, name=ratio)
    arms |= _paired("ratio(confidence)", *held, shadows=shadows, name=ratio, signal="confidence")
    arms |= _paired("relative", *held, shadows=shadows, population="reference", name="relative")
    found = ConfigDict(arms).to_dict()
    return {"shadows": config.shadows.to_dict() | halves, "arms": found, "report.published": ()}


def _paired(called: str, *inputs: str, shadows: dict, **settings: object) -> dict[str, ConfigDict]:
    """An attack that learns from many shadow models, and its control: the same on a stranger."""
    stranger = base.view_of("stranger", "target")
    control = base.arm(
        *inputs,
        train_view=shadows,
        test_view=stranger,
        control_of=called,
        **settings,
    )
    return {
        called: base.arm(*inputs, train_view=shadows, **settings),
        f"{called} stranger": control,
    }


def references(config: ConfigDict) -> dict[str, ConfigDict]:
    """The attacks on predictions, with their controls."""
    return {
        name: arm for name, arm in config.arms.items() if name.split()[0] in ("confidence", "gap")
    }


def _trajectory(size: Size, config: ConfigDict) -> dict:
    """The target's confidence while pixels go in the order of a map, read by a network."""
    explanations = {}
    arms = references(config)
    rows = deepleak_published.published(size.published) if size.published else ()
    for base_name in ("saliency", "integrated_gradients", "gradcam"):
        if base_name not in config.explanations:
            continue
        name = f"removal({base_name})"
        of = size.explainers[base_name] | dict(name=base_name)
        explanations[name] = dict(
            name="removal_trajectory",
            base=of,
            steps=16,
            normalise="none",
        )
        attack = dict(name="membership_network", trunk="mlp", width=1.0, restarts=5)
        arms |= base.controlled(f"network({name})", name, **attack)
    return {
        "explanations": explanations,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": _of(rows, arms),
    }


def _recipe(**changes: object) -> ConfigDict:
    """Without held-out images: each image of a classifier's roles is trained on."""
    return base.recipe(**dict(validation=0.0, patience=0) | changes)
