"""Yang 2019: truncated predictions, auxiliary sets, class inference, joint training, pre-images.

The page, configs/yang.md, has the claim, the measured figures and the open runs.

    # Every figure and Table II
    python launch/sweep.py --config=configs/yang.py:SIZE --workdir=runs/yang
    # The unit "truncation"
    python launch/run.py --config=configs/yang.py:SIZE --workdir=runs/yang

| SIZE | data | cost of the sweep, 3 seeds |
|---|---|---|
| runlocal | a tenth of MNIST, an eighth of the widths | two cores, 46 min (estimate) |
| runlocal-cifar10 | the 5,000-image subset in grey | two cores, an hour (estimate) |
| runlocal-faces | ORL faces, LFW as auxiliary set | two cores, half an hour (estimate) |
| mnist (or none) | the paper's setting | an accelerator, 2 hours (estimate) |
| cifar10 | CIFAR-10 in grey, treated as MNIST | an accelerator, 2 hours (estimate) |
| facescrub | facescrub/IDENTITY and celeba/IDENTITY | an accelerator, 16 hours (estimate) |

Folders are those of $XINV_DATA. Estimates count operations at 200 GFLOP/s of two cores and 50
TFLOP/s of an accelerator; of `runlocal` 36 min were measured without the unit "optimised". CelebA
must lack the 296 people whom FaceScrub has too. The distinct auxiliary set is the 5,000-image
subset of CIFAR-10, and MNIST for CIFAR-10 itself.

| unit | figure | settings |
|---|---|---|
| truncation | Figures 6, 7 | m = 3, 5, 10; FaceScrub 10, 50, 100, 530 |
| auxiliary-… | Figures 4, 5 | the attacker's images: same, generic, distinct |
| size-… | Figures 8, 9 | k = 3, 5, 10; FaceScrub 10, 50, 100, 530; ORL 10, 20, 40 |
| …-training | Figures 4 to 9 | these units on images that the target was trained on |
| classes | Figure 10 | class inference, without truncation, MI-Face |
| joint | Figures 11, 12, Table II | the weight of the reconstruction |
| optimised | Section II-B | the priors of optimisation |

Expected at `runlocal`, m = 3: SSIM .29 of the aligned attacker, .18 of the baseline.
"""

import dataclasses
import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base, datasets

HALVES = datasets.HALVES
OUTSIDE = dict(target_train=0.8, attack_test=0.2)
"""Roles if the attacker's images are of another set (Table I)."""
DIGITS = tuple("0123456789")
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
AUXILIARY = {"same": "", "distinct": "distinct", "generic": "generic"}
"""The auxiliary set of each unit "auxiliary-…"; "" is the target's own."""
JOINT_WEIGHTS = {"joint_10": 10.0, "joint_100": 100.0}
"""Weights of the reconstruction in joint training, beside Eq. 11's."""

TABLE_II = base.published("Table II", "mse", dict(black_box=0.3120, joint=0.0197))
TABLE_II += base.published("Table II", "accuracy", dict(target=0.994, joint=0.992))
"""MNIST."""
TABLE_II_FACES = base.published(
    "Table II",
    "mse",
    dict(
        black_box=0.1072,
        joint=0.0085,
        augmented=0.0083,
    ),
)
TABLE_II_FACES += base.published("Table II", "accuracy", dict(target=0.783, joint=0.768))
"""FaceScrub."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and its auxiliary sets and experiments.

    Attributes:
      images: `(auxiliary set, classes kept, roles) -> data section`, as `data`.
      outside: roles if the attacker's images are of another set.
      auxiliary: the default set of a unit; "" is the target's own.
      kept: the classes of the units "size-…", by name or by number.
      cuts: the m of the unit "truncation".
      steps: of an optimised inversion.
      side: of the images, in pixels.
      augmented: whether joint training also uses the generic set (Section V-F).
      accuracy: figures of the target as published, by auxiliary set.
      table_ii: figures of joint training.
    """

    images: Callable[..., dict]
    outside: dict[str, float]
    auxiliary: str = ""
    kept: tuple[tuple[str, ...] | int, ...]
    cuts: tuple[int, ...] = (3, 5, 10)
    steps: int
    side: int = 32
    augmented: bool = False
    accuracy: dict[str, tuple[dict, ...]]
    table_ii: tuple[dict, ...]


def sizes() -> dict[str, Size]:
    """Returns the sizes of the table above, the paper's MNIST first."""
    paper_train = base.recipe(learning_rate=2e-4, batch_size=128, patience=0)
    # Units choose classes and roles, so images are functions of these
    mnist_images = _ten_classes(
        functools.partial(datasets.idx, "mnist"),
        DIGITS,
        distinct=_objects(32),
    )
    mnist = Size(
        unit="yang-mnist",
        data=mnist_images(),
        images=mnist_images,
        outside=OUTSIDE,
        kept=_first(DIGITS),
        target_label="label",
        attack_label="label",
        model=_network(128, 256, 512, features=50),
        train=paper_train,
        attack_width=1.0,
        attack_train=paper_train,
        steps=400,
        accuracy={"": _accuracy(0.994), "distinct": _accuracy_outside(0.996)},
        table_ii=TABLE_II,
    )

    # Not in the paper
    cifar10_images = _ten_classes(
        functools.partial(datasets.cifar10, grayscale=True),
        CIFAR10,
        distinct=datasets.idx("mnist", HALVES),
    )
    cifar10 = dataclasses.replace(
        mnist,
        unit="yang-cifar10",
        data=cifar10_images(),
        images=cifar10_images,
        kept=_first(CIFAR10),
        accuracy={},
        table_ii=(),
    )

    # The attacker has other people's faces (Table I)
    facescrub_images = _people(_crops("facescrub"), generic=_crops("celeba"))
    facescrub = Size(
        unit="yang-facescrub",
        data=facescrub_images("generic", roles=OUTSIDE),
        images=facescrub_images,
        outside=OUTSIDE,
        auxiliary="generic",
        kept=(10, 50, 100, 530),
        cuts=(10, 50, 100, 530),
        side=64,
        target_label="identity",
        attack_label="identity",
        model=_network(128, 256, 512, 1024, features=2650),
        train=paper_train,
        attack_width=1.0,
        attack_train=paper_train,
        steps=400,
        augmented=True,
        accuracy={
            "": _accuracy(0.783),
            "distinct": _accuracy_outside(0.857),
            "generic": _accuracy_outside(0.857),
        },
        table_ii=TABLE_II_FACES,
    )

    # On two cores
    local_train = base.recipe(learning_rate=2e-3, epochs=8, patience=0)
    local_images = _ten_classes(
        functools.partial(datasets.idx, "mnist", share=0.1),
        DIGITS,
        distinct=_objects(32),
    )
    local = dataclasses.replace(
        mnist,
        unit="yang-runlocal",
        data=local_images(),
        images=local_images,
        outside=HALVES,
        model=_network(128, 256, 512, features=50, width=0.125),
        train=local_train,
        attack_width=0.0625,
        attack_train=local_train,
        steps=100,
        accuracy={},
    )
    subset_train = base.recipe(learning_rate=2e-3, epochs=20, patience=0)
    # This copy of CIFAR-10 numbers its classes; its distinct set is MNIST
    subset_images = _ten_classes(
        functools.partial(datasets.cifar10_subset, grayscale=True),
        DIGITS,
        distinct=datasets.idx("mnist", HALVES, share=0.1),
    )
    subset = dataclasses.replace(
        local,
        unit="yang-runlocal-cifar10",
        data=subset_images(),
        images=subset_images,
        train=subset_train,
        attack_train=subset_train,
        table_ii=(),
    )
    faces_train = base.recipe(learning_rate=2e-3, epochs=60, batch_size=16, patience=0)
    faces_images = _people(datasets.orl, generic=datasets.lfw)
    faces = dataclasses.replace(
        facescrub,
        unit="yang-runlocal-faces",
        data=faces_images(),
        images=faces_images,
        outside=HALVES,
        auxiliary="",
        kept=(10, 20, 40),
        cuts=(3, 5, 10),
        model=_network(128, 256, 512, 1024, features=2650, width=0.125),
        train=faces_train,
        attack_width=0.0625,
        attack_train=faces_train,
        steps=100,
        accuracy={},
    )
    return {
        "mnist": mnist,
        "cifar10": cifar10,
        "facescrub": facescrub,
        "runlocal": local,
        "runlocal-cifar10": subset,
        "runlocal-faces": faces,
    }


def _network(*channels: int, features: int, width: float = 1.0) -> dict:
    """Returns a target network, with so many features before its last layer.

    Figures 13 and 15. `hidden` fits this width: whoever overrides one overrides both.
    """
    return dict(
        name="cnn",
        dtype="float32",
        channels=channels,
        hidden=round(features / width),
        width=width,
        norm="batch",
        activation="none",
        dropout=(0.0, 0.5),
    )


def _accuracy(value: float) -> tuple[dict, ...]:
    """Returns the published accuracy of a target trained on half of the images."""
    return base.published("Table II", "accuracy", dict(target=value))


def _accuracy_outside(value: float) -> tuple[dict, ...]:
    """Returns the published accuracy of a target trained on 80 % of the images."""
    return base.published("Section V-A", "accuracy", dict(target=value))


def _first(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(names[:count] for count in (3, 5, 10))


def _ten_classes(
    read: Callable[..., dict],
    names: tuple[str, ...],
    distinct: dict,
) -> Callable[..., dict]:
    """Returns `images` of ten classes.

    The generic auxiliary set has the last five of them, and the target then the first five.
    """

    def images(
        auxiliary: str = "",
        kept: tuple[str, ...] | None = None,
        roles: dict = HALVES,
    ) -> dict:
        # Both parties have halves of the classes, or the attacker has another set
        if auxiliary == "generic":
            own = read(roles, classes=("label", names[:5]))
            others = read(HALVES, classes=("label", names[5:]))
        else:
            own = read(roles, classes=("label", kept) if kept else None)
            others = distinct
        return own | dict(auxiliary=datasets.auxiliary(others) if auxiliary else {})

    return images


def _people(own: Callable[..., dict], generic: Callable[..., dict]) -> Callable[..., dict]:
    """Returns `images` of faces at 64x64, with other people as generic auxiliary set."""
    others = {"generic": generic, "distinct": _objects}

    def images(auxiliary: str = "", kept: int | None = None, roles: dict = HALVES) -> dict:
        data = own(64, roles)
        if kept:
            data["transform"]["classes"] = ("identity", kept)
        if auxiliary:
            data["auxiliary"] = datasets.auxiliary(others[auxiliary](64))
        return data

    return images


def _crops(folder: str) -> Callable[..., dict]:
    return lambda side, roles=HALVES: datasets.identities(folder, roles, side)


def _objects(side: int) -> dict:
    return datasets.cifar10_subset(HALVES, resize=(side, side), grayscale=True)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the unit "truncation" on the data set of the size `arg`."""
    size = base.size(sizes(), arg)
    defences = {}
    # top1 serves class inference
    for m in (1, *size.cuts):
        defences[f"top{m}"] = dict(name="truncate", m=m)
    config = base.audit(
        size,
        explanations={},
        defences=defences,
        arms=_truncation(size),
    )

    # No image of the evaluation model is reported
    config.evaluation.roles = _images(size, size.auxiliary)["evaluation.roles"]

    # The paper's inverter reads the logarithm of predictions (Eq. 12)
    config.attack.encoder = "none"
    config.attack.network = "tcnn"
    config.attack.rescale = "logits"
    config.report.published = size.accuracy.get(size.auxiliary, ())
    return config


def _arm(auxiliary: str, train_view: dict | None = None, **rest: object) -> ConfigDict:
    """Returns an attack on predictions, by an attacker with the images of an auxiliary set."""
    roles = dict(roles=("auxiliary",)) if auxiliary else {}
    return base.arm("prediction", train_view=roles | (train_view or {}), **rest)


def _images(
    size: Size,
    auxiliary: str,
    kept: tuple[str, ...] | int | None = None,
) -> dict:
    """Returns the images of a unit, and the training roles of its evaluation model."""
    roles = size.outside if auxiliary else HALVES
    # The evaluation model must not have seen reported images
    unreported = tuple(role for role in roles if role != "attack_test")
    return {"data": size.images(auxiliary, kept, roles), "evaluation.roles": unreported}


def _truncation(size: Size) -> ConfigDict:
    """Returns attacks on truncated predictions (Section IV-B).

    The aligned one is trained on such, the baseline on full ones.
    """
    arms = {}
    for m in size.cuts:
        seen = dict(defences=(f"top{m}",))
        arms[f"aligned_{m}"] = _arm(size.auxiliary, train_view=seen, test_view=seen)
        arms[f"baseline_{m}"] = _arm(size.auxiliary, test_view=seen)
    return ConfigDict(arms)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns every figure and Table II; units share common stages."""
    size = base.size(sizes(), arg)
    config = config or get_config(arg)
    units = [{"unit": "truncation"}]

    # Figures 4 and 5: the attacker's images
    for name, auxiliary in AUXILIARY.items():
        unit = {
            "unit": f"auxiliary-{name}",
            "arms": _only(**{name: _arm(auxiliary)}),
            "report.published": size.accuracy.get(auxiliary, ()),
        }
        # The default set's images are the config's own
        if auxiliary != size.auxiliary:
            unit |= _images(size, auxiliary)
        units.append(unit)

    # Figures 8 and 9: the number of classes
    for kept in size.kept:
        count = kept if isinstance(kept, int) else len(kept)
        unit = {
            "unit": f"size-{count}",
            "arms": _only(full=_arm(size.auxiliary)),
            "report.published": (),
        }
        units.append(unit | _images(size, size.auxiliary, kept))

    # The other half of Figures 4 to 9: images that the target was trained on
    units += [_trained_on(unit, config) for unit in units]

    # Figures 10 to 12, and Section II-B
    units.append({"unit": "classes", "arms": _inference(size)})
    units.append(_joint(config, size))
    units.append({"unit": "optimised", "arms": _optimised(size)})
    return units


def _trained_on(unit: dict, config: ConfigDict) -> dict:
    """Returns a unit whose reported images are the target's training images.

    Its evaluation model learns from the other roles, so that its measures are not comparable with
    those of the unit itself; MSE and SSIM are.
    """
    reported = "target_train"
    data = unit.get("data", config.data)
    # In one order, so that units share the judge
    unreported = tuple(sorted(role for role in data["roles"]["roles"] if role != reported))
    return unit | {
        "unit": f"{unit['unit']}-training",
        "report.role": reported,
        "report.published": (),
        "evaluation.roles": unreported,
    }


def _inference(size: Size) -> dict:
    """Returns attacks on the image of a class (Figure 10)."""
    only_class = dict(defences=("top1",))
    return _only(
        mi_face=_arm(size.auxiliary, known="target", name="fredrikson"),
        training_based=_arm(size.auxiliary, test_view=only_class),
        class_inference=_arm(
            size.auxiliary,
            test_view=only_class,
            name="class_inference",
            rescale="none",
        ),
    )


_NO_PRIOR = dict(alpha_weight=0.0, tv_weight=0.0, jitter=0, blur=0.0)
_NORM_AND_VARIATION = _NO_PRIOR | dict(alpha=6.0, alpha_weight=5.0, beta=2.0, tv_weight=5.0)
PRIORS = {
    "no_prior": _NO_PRIOR,
    "l2_norm": _NO_PRIOR | dict(alpha=2.0, alpha_weight=5.0),
    "l6_norm_tv": _NORM_AND_VARIATION,
    "l6_norm_tv_jitter": _NORM_AND_VARIATION | dict(jitter=1),
    "blur": _NO_PRIOR | dict(blur=0.5),
}
"""Priors that Section II-B lists: none, Simonyan's, Mahendran and Vedaldi's of 2015 and of 2016,
and Yosinski's.

The paper states no weights. With each of these, 48 digits at `runlocal` lead to images of the
observed class, and of its prediction to a mean squared distance below 0.003.
"""


def _optimised(size: Size) -> dict:
    """Returns white-box searches for an image of the observed prediction, and an inverter."""
    # Longer searches take smaller steps
    search = dict(
        name="preimage",
        known="target",
        distance="logits",
        steps=size.steps,
        learning_rate=0.3 / size.steps,
    )
    found = {}
    for name, prior in PRIORS.items():
        found[name] = _arm(size.auxiliary, **search, **prior)
    return _only(
        **found,
        mi_face=_inference(size)["mi_face"],
        training_based=_arm(size.auxiliary),
    )


def _joint(config: ConfigDict, size: Size) -> dict:
    """Returns a developer who trains classifier and inverter together, by several weights."""
    # The developer's inverter is built as the attacker's
    inverter = {}
    for name in ("network", "loss", "rescale", "width", "dtype"):
        inverter[name] = config.attack[name]
    weights = JOINT_WEIGHTS | dict(joint=float(size.side**2))  # Eq. 11 sums over pixels
    shadows = {}
    arms = {"black_box": base.arm("prediction", train_view=dict(roles=("target_train",)))}
    for name, weight in weights.items():
        joint = inverter | dict(weight=weight, truncation=0)
        shadows[name] = config.target.to_dict() | dict(joint=joint)
        arms[name] = base.arm(
            "prediction",
            train_view=dict(roles=(), prediction=name),
            test_view=dict(prediction=name),
        )
    unit = {"unit": "joint", "shadows": shadows, "report.published": size.table_ii}
    if size.augmented:
        # Halves of the target's set, beside the generic one
        both = dict(roles=("target_train", "auxiliary"))
        arms["augmented"] = base.arm("prediction", train_view=both)
        unit |= _images(size, "") | {"data": size.images("generic")}
    return unit | {"arms": _only(**arms)}


def _only(**arms: ConfigDict) -> dict:
    return ConfigDict(arms).to_dict()
