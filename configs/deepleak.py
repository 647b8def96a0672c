"""DeepLeak (2026): explanations that leak the members of the training set.

The page, configs/deepleak.md, has the claim, the measured figures and the open runs.

    python launch/run.py --config=configs/deepleak.py:SIZE --workdir=runs/deepleak
    # Each further experiment too
    python launch/sweep.py --config=configs/deepleak.py:SIZE --workdir=runs/deepleak-tables

| SIZE | members, others | resolves | cost of one seed |
|---|---|---|---|
| cifar10 (or none), cifar100 | 10,000, 28,800 | TPR at 0.1 % | an accelerator, 1 h (estimate) |
| gtsrb | 260, 390 tracks | AUC, TPR at 5 % | an accelerator, 1 h (estimate) |
| runlocal-cifar10 | 1,000, 1,500 | AUC, TPR at 1 % | two cores, 50 min beside other work |
| runlocal-gtsrb | 260, 390 tracks | AUC, TPR at 5 % | two cores, 20 min beside other work |
| quick | 359, 539 digits | AUC | two cores, 3 min (beside other work) |

`cifar10` and `cifar100` are read by TFDS, `gtsrb` from $XINV_DATA/gtsrb/gtsrb_train.npz.
`runlocal-cifar10` has 5,000 lossless images, `runlocal-gtsrb` signs at 32x32, three
frames of each track.

Every explainer is attacked by a network on its maps. An attack learns on a shadow model with a
known training set, and is tested on the target. Each has two controls, which must score chance: an
untrained pair of models, and a stranger trained on none of the audited images.

Expected at `runlocal-cifar10`: AUC .63 from confidences, at most .54 from explanations.
"""

import dataclasses
import itertools
from collections.abc import Iterable

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
"""Table III of the paper, in its order, and Guided Grad-CAM, the "GradCAM++" of its released code;
with the code's numbers of samples and steps.
"""
LOCAL = EXPLAINERS | {
    "integrated_gradients": dict(steps=16),
    "anchors": dict(max_samples=500),
}
"""The same with fewer steps, and a search for anchors of at most five rounds."""
GRADIENTS = (
    "smoothgrad",
    "vargrad",
    "saliency",
    "guided_backprop",
    "input_x_gradient",
    "deconvolution",
    "gradcam",
)
"""The gradient family; it must leak in the positive control."""
TRAJECTORIES = ("saliency", "integrated_gradients", "gradcam")
"""Explainers in whose order pixels are removed."""
SHARES = dict(
    target_train=0.2,  # members
    attack_test=0.3,  # others
    shadow_train=0.2,  # the shadow's members
    shadow_test=0.2,  # the shadow's others; the stranger's training images
    reference=0.05,  # public images
)
POOL = ("target_train", "attack_test")
"""Roles of the audited images."""
NOISES = (0.05, 0.2, 0.5, 1.0, 4.0)
"""Noise multipliers of DP-SGD; the smallest keep the accuracy (Aerni 2024)."""
PRIVATE = ("integrated_gradients", "saliency")
"""Explainers under DP-SGD."""
DEFENDED = dict(
    target_train=0.2,
    attack_test=0.2,
    shadow_train=0.2,
    shadow_test=0.2,
    reference=0.15,  # the defender learns from these
    defence_test=0.05,  # and measures its distortion on these
)
"""Shares of the unit "two-leaks"."""
LEAKING = "probability(saliency)"
"""The explanation of "two-leaks"; that of a memorised image vanishes, and so tells members."""
TRANSFORMS = ("clip", "mask", "noise")
"""The transforms of Table IV."""
ORDERS = (
    *(order for size in (1, 2, 3) for order in itertools.permutations(TRANSFORMS, size)),
    ("noise", "clip", "quantise", "mask"),
)
"""Table IV's 15 orders and subsets, and the order of the released code."""
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
"""Architectures of a shadow unlike the target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and the effort of its attacks.

    Attributes:
      explainers: parameters by name.
      attack: parameters of the attack's network.
      halves: shadow models of the likelihood ratio, each trained on a random half of the audited
        images.
      private: changes of the recipe under DP-SGD.
      grouped: changes of the model there, without statistics of the batch.
      trials: of the search for a release.
      search_restarts: restarts of the attack's network in these trials.
      published: a data set of deepleak_published.py, or "".
    """

    explainers: dict[str, dict]
    attack: dict
    halves: int
    private: dict
    grouped: dict = dataclasses.field(default_factory=dict)
    trials: int = 20
    search_restarts: int = 2
    published: str = ""


def sizes() -> dict[str, Size]:
    """Returns the sizes of the table above, the paper's CIFAR-10 first."""
    # Shared by the paper's three data sets
    sgd = dict(
        optimizer="sgd",
        learning_rate=0.1,
        b1=0.9,
        weight_decay=1e-4,
        schedule="cosine",
    )
    cifar10 = Size(
        unit="deepleak-cifar10",
        data=_cifar("cifar10"),
        target_label="label",
        attack_label="label",
        model=dict(name="mobilenet_v2", dtype="float32", width=1.0, stem="small"),
        train=_recipe(batch_size=128, epochs=100, augment=("crop", "flip"), **sgd),
        explainers=EXPLAINERS,
        attack_width=1.0,
        attack_train=_attack_recipe(epochs=15),
        attack=dict(trunk="mobilenet_v2", width=1.0, restarts=5),
        halves=16,
        private=dict(
            batch_size=2000,
            epochs=50,
            optimizer="adam",
            learning_rate=2e-3,
        ),
        grouped=dict(norm="group"),
        published="cifar10",
    )
    cifar100 = dataclasses.replace(
        cifar10,
        unit="deepleak-cifar100",
        data=_cifar("cifar100"),
        published="cifar100",
    )
    gtsrb = dataclasses.replace(
        cifar10,
        unit="deepleak-gtsrb",
        data=_signs("gtsrb/gtsrb_train.npz"),
        target_label="sign",
        attack_label="sign",
        model=dict(name="resnet", dtype="float32", depth=18, width=1.0, stem="small"),
        # No flips: a flipped sign is another sign
        train=_recipe(batch_size=128, epochs=100, augment=("crop",), **sgd),
        published="gtsrb",
    )

    # On two cores
    adam = dict(batch_size=50, epochs=30, learning_rate=1e-3)
    cnn = dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512)
    network = dict(trunk="cnn", width=0.125, restarts=5)
    local = dataclasses.replace(
        cifar10,
        unit="deepleak-runlocal-cifar10",
        data=datasets.cifar10_subset(SHARES),
        model=cnn | dict(width=0.25),
        train=_recipe(augment=("crop", "flip"), **adam),
        explainers=LOCAL,
        attack=network,
        halves=8,
        private=dict(batch_size=500, learning_rate=4e-3),
        grouped={},
    )
    local_gtsrb = dataclasses.replace(
        local,
        unit="deepleak-runlocal-gtsrb",
        data=_signs("gtsrb32/gtsrb32_train_every3rd.npz", frames=("11", "20", "29")),
        target_label="sign",
        attack_label="sign",
        train=_recipe(augment=("crop",), **adam),
        published="gtsrb",
    )
    digits = dataclasses.replace(
        local,
        unit="deepleak-quick",
        data=datasets.section(dict(name="digits"), "digit", SHARES, resize=(32, 32)),
        target_label="digit",
        attack_label="digit",
        model=cnn | dict(width=0.125),
        train=_recipe(batch_size=25, epochs=25, learning_rate=2e-3),
        explainers={name: LOCAL[name] for name in ("integrated_gradients", "gradcam", "saliency")},
        attack_train=_attack_recipe(epochs=8),
        attack=network | dict(restarts=2),
        seeds=1,
        halves=4,
        private=dict(batch_size=175, learning_rate=1e-2),
        trials=4,
        search_restarts=1,
        published="",
    )
    return {
        "cifar10": cifar10,
        "cifar100": cifar100,
        "gtsrb": gtsrb,
        "runlocal-cifar10": local,
        "runlocal-gtsrb": local_gtsrb,
        "quick": digits,
    }


def _recipe(**changes: object) -> ConfigDict:
    """Returns a recipe without held-out images: a classifier is trained on all of its roles."""
    return base.recipe(validation=0.0, patience=0, **changes)


def _attack_recipe(epochs: int) -> ConfigDict:
    return base.recipe(
        batch_size=128,
        epochs=epochs,
        learning_rate=1e-3,
        b1=0.9,
        weight_decay=1e-4,
        validation=0.2,
    )


def _signs(file: str, frames: tuple[str, ...] = ()) -> dict:
    """Returns GTSRB; `frames` keeps these of each track, none keeps all.

    Frames of one track are near-duplicates: tracks are split, counted and resampled as one.
    """
    source = dict(
        name="arrays",
        path=base.data_root(file),
        image="x",
        labels={"sign": "y", "track": "track_frame[0]", "frame": "track_frame[1]"},
        title="GTSRB",
    )
    # Choose frames as classes of the label `frame`
    kept = ("frame", frames) if frames else None
    data = datasets.section(source, "sign", SHARES, classes=kept)
    # Group by both labels: track numbers repeat from sign to sign
    data["roles"]["group"] = ("sign", "track")
    return data


def _cifar(dataset: str) -> dict:
    """Returns 10,000 members of 60,000 images; the others are all images without another use."""
    source = dict(
        name="tfds",
        dataset=dataset,
        root=base.data_root("tfds"),
        split="train+test",
        labels=("label",),
        threads=0,
    )
    # The paper's 10,000 each; 1,200 public images, for ProtoDash and RMIA
    roles = dict(
        target_train=1 / 6,
        attack_test=0.48,
        shadow_train=1 / 6,
        shadow_test=1 / 6,
        reference=0.02,
    )
    return datasets.section(source, "label", roles)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    return configured(base.size(sizes(), arg))


def configured(size: Size) -> ConfigDict:
    """Returns the audit of a size."""
    # Leave maps unscaled, as their size leaks too
    explanations = {}
    for name, parameters in size.explainers.items():
        explanations[name] = dict(name=name, normalise="none") | parameters
    config = base.audit(
        size,
        explanations=explanations,
        arms=arms(size),
        harden=harden(size),
    )

    # Roles of shadow models of the audited images, and of the search for a release
    roles = config.data.roles.roles
    for number in range(size.halves):
        roles[f"half_{number}"] = dict(
            half=POOL,
            number=number,
            of=size.halves,
        )
    roles.update(base.searched(*POOL))

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
    config.report.published = _of(deepleak_published.published(size.published), config.arms)
    return base.unshared(config)


def _of(rows: Iterable[dict], arms: Iterable[str]) -> tuple[dict, ...]:
    """Returns published figures of these arms and of the target."""
    known = {"target", *arms}
    return tuple(row for row in rows if row["arm"] in known)


def arms(size: Size) -> dict[str, ConfigDict]:
    """Returns attacks on each explainer by a network and by one statistic.

    Attacks on predictions, by confidence and by correctness, are for reference.
    """
    found = {}
    for name in size.explainers:
        found |= _attacked(name, size)
    # Both read a candidate's true label beside its prediction
    held = ("prediction", "label")
    found |= base.controlled("confidence", *held, name="confidence")
    found |= base.controlled("gap", *held, name="gap")
    return found


def harden(size: Size) -> dict:
    """Returns the search of launch/harden.py (Section IV-B)."""
    # Search with few restarts, report with all
    attack = dict(name="membership_network", **size.attack)
    return base.harden(
        tuple(size.explainers),
        attack=attack,
        search_attack=attack | dict(restarts=size.search_restarts),
        trials=size.trials,
        controls=dict(untrained=("untrained_shadow", "untrained"), stranger=("shadow", "stranger")),
    )


def _attacked(name: str, size: Size) -> dict[str, ConfigDict]:
    """Returns DeepLeak's attack and Shokri's on one explanation, with controls."""
    # A network, learned on the shadow's maps
    network = base.controlled(
        f"network({name})",
        name,
        name="membership_network",
        **size.attack,
    )
    # A threshold, learned on the same shadow
    variance = base.controlled(
        f"variance({name})",
        name,
        name="map_statistic",
        statistic="variance",
    )
    return network | variance


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns the audit, and the units beside it.

    | unit | paper | question |
    |---|---|---|
    | audit | Tables I to III | which explanations leak |
    | overfitted | | does a target leak after memorising its images: the positive control |
    | likelihood | | how much more do many shadow models find |
    | trajectory | Table II, Liu 2024 | do confidences, as pixels go, leak more than the map |
    | table-6-densenet, -resnet | Table VI | does the attack need the target's architecture |
    | table-7 | Table VII | does a smaller generalisation gap help |
    | two-leaks | | which defences against inversion also protect members |
    | table-4 | Table IV | which order of transforms hardens a map |
    | dp-0.05 to dp-4 | Table III | the cost of DP-SGD, and the remaining leak |

    Table V's "disjoint" shadow is in "audit"; its "subset" one shares images with the target and
    has no unit.
    """
    size = base.size(sizes(), arg)
    config = config or get_config(arg)
    # Experiments on the audit's models, or with other training
    units = [
        {"unit": "audit"},
        {"unit": "overfitted"} | _overfitted(size, config),
        {"unit": "likelihood"} | _likelihood(size, config),
        {"unit": "trajectory"} | _trajectory(size, config),
    ]

    # Tables of the paper
    for name, model in OTHERS.items():
        units.append({"unit": f"table-6-{name}"} | _table_6(size, config, name, model))
    units.append({"unit": "table-7"} | _table_7(size, config))
    units.append({"unit": "two-leaks"} | _two_leaks(size, config))
    units.append({"unit": "table-4"} | _table_4(size, config))
    for noise in NOISES:
        units.append({"unit": f"dp-{noise:g}"} | _private(size, config, noise))
    return units


def _table_6(size: Size, config: ConfigDict, name: str, model: dict) -> dict:
    """Returns a shadow of another architecture, and the untrained one alike."""
    shadows = config.shadows.to_dict()
    # Change the control with the attack; target and stranger stay
    for part in ("shadow", "untrained_shadow"):
        shadows[part]["model"] = model
    rows = deepleak_published.table_6(size.published, name)
    return {"shadows": shadows, "report.published": _of(rows, config.arms)}


def _table_7(size: Size, config: ConfigDict) -> dict:
    """Returns models with more weight decay, trained half as long."""
    train = config.target.train.to_dict()
    regular = train | dict(weight_decay=5e-3, epochs=max(1, train["epochs"] // 2))
    rows = deepleak_published.table_7(size.published)
    return _trained(config, regular) | {"report.published": _of(rows, config.arms)}


def _overfitted(size: Size, config: ConfigDict) -> dict:
    """Returns models trained twice as long without regularisation, and the gradient family.

    Probabilities are explained too: they saturate on memorised images (Shokri 2021).
    """
    # Without regularisation
    train = config.target.train.to_dict()
    plain = train | dict(augment=(), weight_decay=0.0, epochs=2 * train["epochs"])

    # Of the logit, and of the probability
    explanations = {}
    for name in GRADIENTS:
        if name in size.explainers:
            explanations[name] = config.explanations[name].to_dict()
    of_probability = dict(of="probability")
    for name in ("saliency", "input_x_gradient"):
        if name in explanations:
            explanations[f"probability({name})"] = explanations[name] | of_probability
    # SmoothGrad and VarGrad explain the probability by their base
    saliency = dict(name="saliency") | of_probability
    for name in ("smoothgrad", "vargrad"):
        if name in explanations:
            explanations[f"probability({name})"] = explanations[name] | dict(base=saliency)
    audited = _audited(size, config, explanations)
    audited["harden.trainings"] = {"dp-sgd": _dp(size, config, 1.0)}
    return {"report.positive_control": True} | _trained(config, plain) | audited


def _table_4(size: Size, config: ConfigDict) -> dict:
    """Returns the target of "overfitted", and for launch/harden.py every order of transforms."""
    overfitted = _overfitted(size, config)
    explanations = {LEAKING: overfitted["explanations"][LEAKING]}
    audited = _audited(size, config, explanations)
    return overfitted | audited | {"harden.orders": ORDERS, "harden.trainings": {}}


def _two_leaks(size: Size, config: ConfigDict) -> dict:
    """Returns defences, and both leaks of what they release: members, and images.

    The target is that of "overfitted", since only a leak can be closed. Attackers adapt: on a model
    of theirs, they apply the same defence, learnt from the defender's public images. So a learnt
    defence is trained for each of the five models. All arms share one recipe, long enough for an
    inverter.
    """
    # GNIME's own networks take a tenth of the operations of Zhao's
    networks = dict(
        network="gnime_decoder",
        encoder="flatten_unet",
        width=size.attack["width"],
    )
    game = _recipe(batch_size=32, epochs=200, learning_rate=1e-3, schedule="cosine")
    matched = dict(match_distortion_of="gnime")
    defences = dict(
        gnime=dict(name="gnime", lam=1.0, inverter_width=networks["width"], train=game) | networks,
        ond=dict(name="pgd", train=game) | networks | matched,
        rnd=dict(name="gaussian", clipped=False) | matched,
        reverse_sigmoid=dict(name="reverse_sigmoid"),
        top1=dict(name="truncate", m=1),
        rounded=dict(name="round_to", decimals=1),
    )

    # Of maps, and of predictions
    arms = {}
    for name in ("", "gnime", "ond", "rnd"):
        arms |= _both_leaks(name, (LEAKING,), ("prediction", LEAKING), size)
    for name in ("", "reverse_sigmoid", "top1", "rounded"):
        arms |= _both_leaks(name, ("prediction", "label"), ("prediction",), size)

    overfitted = _overfitted(size, config)
    attacker = ("shadow_train", "shadow_test")
    data = config.data.to_dict()
    data["roles"]["roles"] |= DEFENDED
    attack = config.attack.to_dict()
    attack["train"] |= dict(batch_size=32, epochs=40)
    return {
        "data": data,
        "target": overfitted["target"],
        "shadows": overfitted["shadows"],
        "evaluation.roles": attacker,
        "explanations": {LEAKING: overfitted["explanations"][LEAKING]},
        "defences": defences,
        "defender": dict(role="reference", held_out="defence_test"),
        "attack": attack,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": (),
        "harden.explanations": (LEAKING,),
        "harden.defences": (("gnime",), ("ond",), ("rnd",)),
        "harden.trainings": {"dp-sgd": _dp(size, config, 1.0)},
    }


def _both_leaks(
    defence: str,
    audited: tuple[str, ...],
    inverted: tuple[str, ...],
    size: Size,
) -> dict[str, ConfigDict]:
    """Returns attacks on a release: on members, by `audited`, and on images, by `inverted`."""
    by = (defence,) if defence else ()
    beside = f" by {defence}" if defence else ""
    if "label" in audited:
        attack = dict(name="confidence")
        encoder = "none"
    else:
        attack = dict(name="membership_network") | size.attack
        encoder = "flatten_unet"
    members = base.controlled(f"members({audited[0]}){beside}", *audited, by=by, **attack)
    images = base.arm(
        *inverted,
        train_view=dict(roles=("shadow_train", "shadow_test"), defences=by),
        test_view=dict(defences=by),
        encoder=encoder,
        width=size.attack["width"],
    )
    return members | {f"images({inverted[-1]}){beside}": images}


def _trained(config: ConfigDict, recipe: dict, **model: object) -> dict:
    """Returns each trained model with another recipe, and each model's network with changes."""
    parts = dict(target=config.target.to_dict()) | config.shadows.to_dict()
    # Untrained controls have no recipe
    for part in parts.values():
        part["model"] |= model
        if part["train"]:
            part["train"] = recipe
    return dict(target=parts.pop("target"), shadows=parts)


def _audited(size: Size, config: ConfigDict, explanations: dict) -> dict:
    """Returns attacks on these explanations instead of those of the audit, and on predictions."""
    arms = references(config)
    for name in explanations:
        arms |= _attacked(name, size)
    return {
        "explanations": explanations,
        "arms": ConfigDict(arms).to_dict(),
        # Published figures are of the audit's setting alone
        "report.published": (),
        "harden.explanations": tuple(explanations),
    }


def _private(size: Size, config: ConfigDict, noise: float) -> dict:
    """Returns each trained model trained by DP-SGD, and attacks on some of its explanations.

    An image is read once an epoch at any batch size, so that large batches have the same ε and less
    noise.
    """
    explanations = {name: config.explanations[name].to_dict() for name in PRIVATE}
    explanations["probability(saliency)"] = explanations["saliency"] | dict(of="probability")
    changed = _dp(size, config, noise)
    return _trained(config, changed["train"], **size.grouped) | _audited(size, config, explanations)


def _dp(size: Size, config: ConfigDict, noise: float) -> dict:
    """Returns the training of models by DP-SGD."""
    # Clip each example's gradient at 1; `noise` is in units of this bound
    private = dict(clip=1.0, noise=noise, weight_decay=0.0) | size.private
    return dict(train=config.target.train.to_dict() | private, model=size.grouped)


def _likelihood(size: Size, config: ConfigDict) -> dict:
    """Returns likelihood ratios of maps and of confidences, and RMIA.

    They learn from models of random halves of the audited images.
    """
    # Each audited image is in half of the training sets
    target = config.target.to_dict()
    halves = {}
    for number in range(size.halves):
        halves[f"half_{number}"] = target | dict(roles=(f"half_{number}",))
    shadows = dict(prediction=tuple(halves), explanation=tuple(halves), roles=())

    # Attacks on maps, and on predictions for reference
    held = ("prediction", "label")
    ratio = "likelihood_ratio"
    arms = references(config)
    for name in size.explainers:
        arms |= _paired(f"ratio({name})", name, shadows=shadows, name=ratio)
    arms |= _paired("ratio(confidence)", *held, shadows=shadows, name=ratio, signal="confidence")
    arms |= _paired("relative", *held, shadows=shadows, population="reference", name="relative")
    return {
        "shadows": config.shadows.to_dict() | halves,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": (),
    }


def _paired(called: str, *inputs: str, shadows: dict, **settings: object) -> dict[str, ConfigDict]:
    """Returns an attack learnt from many shadow models, and the same on a stranger."""
    # The stranger answers, and the truth stays: members of the target
    control = base.arm(
        *inputs,
        train_view=shadows,
        test_view=base.view_of("stranger", "target"),
        control_of=called,
        **settings,
    )
    return {
        called: base.arm(*inputs, train_view=shadows, **settings),
        f"{called} stranger": control,
    }


def references(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the attacks on predictions, with their controls."""
    found = {}
    for name, arm in config.arms.items():
        # A control's name begins with the name of its attack
        if name.split()[0] in ("confidence", "gap"):
            found[name] = arm
    return found


def _trajectory(size: Size, config: ConfigDict) -> dict:
    """Returns attacks on the target's confidence while pixels go in the order of a map."""
    # A few confidences are no image: a perceptron reads them
    attack = dict(name="membership_network", trunk="mlp", width=1.0, restarts=5)
    explanations = {}
    arms = references(config)
    for name in TRAJECTORIES:
        # A small size lacks some explainers
        if name not in config.explanations:
            continue
        removal = f"removal({name})"
        explanations[removal] = dict(
            name="removal_trajectory",
            base=size.explainers[name] | dict(name=name),
            steps=16,
            normalise="none",
        )
        arms |= base.controlled(f"network({removal})", removal, **attack)
    return {
        "explanations": explanations,
        "arms": ConfigDict(arms).to_dict(),
        "report.published": _of(deepleak_published.published(size.published), arms),
    }
