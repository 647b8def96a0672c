"""Yang 2019: truncated predictions, auxiliary sets, class inference, joint training, pre-images.

The page is configs/yang.md: the claim, what was measured, what was never run.

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
| classes | Figure 10 | class inference, without truncation, MI-Face |
| joint | Figures 11, 12, Table II | the weight of the reconstruction |
| optimised | Section II-B | the priors of optimisation |

Expected at `runlocal`, m = 3: SSIM .29 of the aligned attacker, .18 of the baseline.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base, datasets

PAPER = "mnist"
"""The size where none is named."""

HALVES = datasets.HALVES
OUTSIDE = dict(target_train=0.8, attack_test=0.2)
"""Who has which images where the attacker's are of another set (Table I)."""
HIDDEN = {"label": 50, "identity": 2650}
"""Features before the last layer (Figures 13 and 15)."""
_NETWORK = dict(
    name="cnn",
    dtype="float32",
    norm="batch",
    activation="none",
    dropout=(0.0, 0.5),
)
_SMALL = _NETWORK | dict(channels=(128, 256, 512))
_LARGE = _NETWORK | dict(channels=(128, 256, 512, 1024))
_DIGITS = tuple("0123456789")
_CIFAR10 = (
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


class Size(NamedTuple):
    """What a size decides.

    Attributes:
      label: of target and attack.
      data: `(auxiliary set, classes kept, roles) -> data section`.
      model: the target network.
      widths: factors on the channels of target and inverter.
      train: how both are trained.
      kept: the classes kept in the units "size-…".
      cuts: the m of the unit "truncation".
      steps: of an optimised inversion.
      outside: the roles where the attacker's images are of another set.
      auxiliary: that set, where a unit states none; "" is the target's own.
      accuracy: of the target as published, trained on half of the images and on 80 % of them.
    """

    label: str
    data: Callable[..., dict]
    model: dict
    widths: tuple[float, float]
    train: ConfigDict
    kept: tuple[tuple[str, ...] | int, ...]
    cuts: tuple[int, ...] = (3, 5, 10)
    steps: int = 400
    outside: dict = HALVES
    auxiliary: str = ""
    accuracy: tuple[float, ...] = ()


def _sizes() -> dict[str, Size]:
    paper = base.recipe(learning_rate=2e-4, batch_size=128, patience=0)
    local = base.recipe(learning_rate=2e-3, epochs=8, patience=0)
    longer = base.recipe(learning_rate=2e-3, epochs=20, patience=0)
    few = base.recipe(learning_rate=2e-3, epochs=60, batch_size=16, patience=0)
    digits, few_digits = (
        functools.partial(datasets.idx, "mnist", share=share) for share in (1.0, 0.1)
    )
    subset, cifar10 = (
        functools.partial(f, grayscale=True) for f in (datasets.cifar10_subset, datasets.cifar10)
    )
    objects = _objects(32)
    small = ((0.125, 0.0625), local)
    full = ((1.0, 1.0), paper)
    ten = _first(_DIGITS)
    named = _first(_CIFAR10)
    people = dict(
        cuts=(10, 50, 100, 530),
        auxiliary="generic",
        accuracy=(0.783, 0.857),
    )
    return {
        "runlocal": Size(
            "label",
            _ten(few_digits, _DIGITS, objects),
            _SMALL,
            *small,
            ten,
            steps=100,
        ),
        "runlocal-cifar10": Size(
            "label",
            _ten(subset, _DIGITS, few_digits(HALVES)),
            _SMALL,
            small[0],
            longer,
            ten,
            steps=100,
        ),
        "runlocal-faces": Size(
            "identity",
            _people(datasets.orl, datasets.lfw),
            _LARGE,
            small[0],
            few,
            (10, 20, 40),
            steps=100,
        ),
        "mnist": Size(
            "label",
            _ten(digits, _DIGITS, objects),
            _SMALL,
            *full,
            ten,
            outside=OUTSIDE,
            accuracy=(0.994, 0.996),
        ),
        "cifar10": Size(
            "label",
            _ten(cifar10, _CIFAR10, digits(HALVES)),
            _SMALL,
            *full,
            named,
            outside=OUTSIDE,
        ),
        "facescrub": Size(
            "identity",
            _people(_crops("facescrub"), _crops("celeba")),
            _LARGE,
            *full,
            people["cuts"],
            outside=OUTSIDE,
            **people,
        ),
    }


def _first(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(names[:count] for count in (3, 5, 10))


def _ten(
    read: Callable[..., dict],
    names: tuple[str, ...],
    distinct: dict,
) -> Callable[..., dict]:
    """Ten classes; the generic auxiliary set are five of them, the target's the other five."""

    def data(
        auxiliary: str = "",
        kept: tuple[str, ...] = (),
        roles: dict = HALVES,
    ) -> dict:
        if auxiliary == "generic":
            others = read(HALVES, classes=("label", names[5:]))
            return read(roles, classes=("label", names[:5])) | dict(
                auxiliary=datasets.auxiliary(others)
            )
        own = read(roles, classes=("label", kept) if kept else None)
        return own | dict(auxiliary=datasets.auxiliary(distinct) if auxiliary else {})

    return data


def _people(own: Callable[..., dict], generic: Callable[..., dict]) -> Callable[..., dict]:
    """Faces, and those of other people as generic auxiliary set."""

    def data(auxiliary: str = "", kept: int = 0, roles: dict = HALVES) -> dict:
        section = own(64, roles)
        section["transform"]["classes"] = ("identity", kept) if kept else None
        others = {"generic": generic, "distinct": _objects}
        return section | dict(
            auxiliary=datasets.auxiliary(others[auxiliary](64)) if auxiliary else {}
        )

    return data


def _crops(folder: str) -> Callable[..., dict]:
    return lambda side, roles=HALVES: datasets.identities(folder, roles, side)


def _objects(side: int) -> dict:
    return datasets.cifar10_subset(HALVES, resize=(side, side), grayscale=True)


def get_config(arg: str = "") -> ConfigDict:
    """The truncation experiment on the data set of the size `arg`; the docstring above lists the
    sizes.
    """
    arg = arg or PAPER
    sizes = _sizes()
    if arg not in sizes:
        raise ValueError(f"configs/yang.py has no size {arg!r}: choose one of {', '.join(sizes)}")
    size = sizes[arg]
    images = _images(size, size.auxiliary)
    config = base.inversion(
        unit=f"yang-{arg}",
        data=images["data"],
        target_label=size.label,
        attack_label=size.label,
        model=size.model
        | dict(width=size.widths[0], hidden=round(HIDDEN[size.label] / size.widths[0])),
        train=size.train,
        attack_width=size.widths[1],
        attack_train=size.train,
        explanations=ConfigDict(),
        defences=ConfigDict({f"top{m}": dict(name="truncate", m=m) for m in (1, *size.cuts)}),
        arms=_truncation(size),
    )
    config.attack.encoder, config.attack.network, config.attack.rescale = "none", "tcnn", "logits"
    config.evaluation.roles = images["evaluation.roles"]
    config.report.published = _accuracy(size, size.auxiliary)
    return config


def _arm(auxiliary: str, train_view: dict | None = None, **rest: object) -> ConfigDict:
    """An attack on predictions, by who has the images of that auxiliary set."""
    roles = dict(roles=("auxiliary",)) if auxiliary else {}
    return base.arm("prediction", train_view=roles | (train_view or {}), **rest)


def _images(
    size: Size,
    auxiliary: str,
    kept: tuple[str, ...] | int | None = None,
) -> dict:
    """The images of a unit, and those that its judge is trained on."""
    roles = size.outside if auxiliary else HALVES
    judge = tuple(role for role in roles if role != "attack_test")
    return {"data": size.data(auxiliary, kept, roles), "evaluation.roles": judge}


def _accuracy(size: Size, auxiliary: str) -> tuple[dict, ...]:
    """The accuracy published for a target of all classes."""
    if not size.accuracy:
        return ()
    source = "Section V-A" if auxiliary else "Table II"
    return base.published(
        source,
        "accuracy",
        dict(target=size.accuracy[bool(auxiliary)]),
    )


def _truncation(size: Size) -> ConfigDict:
    """Trained on what it will see, beside the baseline, which is trained on full predictions
    (Section IV-B).
    """
    arms = {}
    for m in size.cuts:
        seen = dict(defences=(f"top{m}",))
        arms |= {
            f"aligned_{m}": _arm(
                size.auxiliary,
                train_view=seen,
                test_view=seen,
            )
        }
        arms |= {f"baseline_{m}": _arm(size.auxiliary, test_view=seen)}
    return ConfigDict(arms)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Every figure and Table II; units share what they have in common."""
    size = _sizes()[arg or PAPER]
    units = [{"unit": "truncation"}]
    for name, auxiliary in {"same": "", "distinct": "distinct", "generic": "generic"}.items():
        images = _images(size, auxiliary) if auxiliary != size.auxiliary else {}
        if name == "generic" and size.label == "label":
            published = ()
        else:
            published = _accuracy(size, auxiliary)
        arms = {"arms": _only(**{name: _arm(auxiliary)})}
        units.append({"unit": f"auxiliary-{name}", "report.published": published} | arms | images)
    for kept in size.kept:
        count = kept if isinstance(kept, int) else len(kept)
        unit = {
            "unit": f"size-{count}",
            "report.published": (),
            "arms": _only(full=_arm(size.auxiliary)),
        }
        units.append(unit | _images(size, size.auxiliary, kept))
    units.append({"unit": "classes", "arms": _inference(size)})
    units.append(_joint(config or get_config(arg), arg or PAPER, size))
    return [*units, {"unit": "optimised", "arms": _optimised(size)}]


def _inference(size: Size) -> dict:
    one = dict(defences=("top1",))
    return _only(
        mi_face=_arm(size.auxiliary, known="target", name="fredrikson"),
        training_based=_arm(size.auxiliary, test_view=one),
        class_inference=_arm(
            size.auxiliary,
            test_view=one,
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
"""What Section II-B lists: none, Simonyan's, Mahendran and Vedaldi's of 2015 and of 2016, and
Yosinski's.

The paper states no weights. By each of these, 48 digits at `runlocal` are given images of the
observed class, and of its prediction to a mean squared distance below 0.003.
"""


def _optimised(size: Size) -> dict:
    """White-box searches for an image of the observed prediction, beside what an inverter makes of
    it.
    """
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


def _joint(config: ConfigDict, arg: str, size: Size) -> dict:
    """A developer who trains classifier and inverter together, at weights of the reconstruction
    from 10 to Eq. 11's.
    """
    faces = size.label == "identity"
    own = {name: value for name, value in config.attack.to_dict().items() if name in _INVERTER}
    pixels = 64.0**2 if faces else 32.0**2  # Eq. 11 sums over them
    shadows = {}
    arms = {"black_box": base.arm("prediction", train_view=dict(roles=("target_train",)))}
    for name, weight in {"joint_10": 10.0, "joint_100": 100.0, "joint": pixels}.items():
        shadows[name] = config.target.to_dict() | dict(
            joint=own | dict(weight=weight, truncation=0)
        )
        trained = dict(roles=(), prediction=name)
        arms[name] = base.arm(
            "prediction",
            train_view=trained,
            test_view=dict(prediction=name),
        )
    images = {}
    if faces:
        arms["augmented"] = base.arm(
            "prediction", train_view=dict(roles=("target_train", "auxiliary"))
        )
        images = _images(size, "") | {
            "data": size.data("generic")
        }  # halves of the target's set (Section V-F)
    unit = {"unit": "joint", "shadows": shadows, "arms": _only(**arms)}
    return unit | images | {"report.published": () if "cifar10" in arg else TABLE_II[size.label]}


_INVERTER = ("network", "loss", "rescale", "width", "dtype")
TABLE_II = {
    "label": (
        base.published("Table II", "mse", dict(black_box=0.3120, joint=0.0197))
        + base.published("Table II", "accuracy", dict(target=0.994, joint=0.992))
    ),
    "identity": (
        base.published(
            "Table II",
            "mse",
            dict(
                black_box=0.1072,
                joint=0.0085,
                augmented=0.0083,
            ),
        )
        + base.published("Table II", "accuracy", dict(target=0.783, joint=0.768))
    ),
}


def _only(**arms: ConfigDict) -> dict:
    return ConfigDict(arms).to_dict()
