"""Yang 2019: truncated predictions, auxiliary sets, class inference and joint training.

    python launch/sweep.py --config=configs/yang.py:SIZE --workdir=runs/yang    every figure and Table II

| SIZE | data | on |
|---|---|---|
| runlocal | a tenth of MNIST | two cores, minutes |
| runlocal-faces | ORL faces, LFW as generic auxiliary set | two cores, minutes |
| mnist (or none) | the paper's setting | an accelerator |
| facescrub | crops per identity in $XINV_DATA/facescrub, CelebA's in $XINV_DATA/celeba | an accelerator |

The units of a sweep: "truncation" (Figures 6, 7), "auxiliary-…" (4, 5), "size-…" (8, 9), "classes" (10), "joint" (11,
12, Table II). launch/run.py runs "truncation".

Published: aligned truncation reconstructs well at every m where the baseline, trained on full predictions, fails at
small m; same > generic > distinct auxiliary data; more classes, better reconstructions; class images of inference
recognisable, MI-Face's not. Table II: joint training improves the reconstruction loss on MNIST from .3120 to .0197 at
an accuracy of 99.4 -> 99.2 %, and on FaceScrub from .1072 to .0085 at 78.3 -> 76.8 %; .0083 at 78.3 % by an auxiliary
set augmented with CelebA. BUILD_NOTES.md has what we measured.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base, datasets

PAPER = "mnist"
"""The size where none is named."""

HIDDEN = {"label": 50, "identity": 2650}
"""Features before the last layer (Figures 13 and 15)."""
OTHERS = ("distinct", "generic")
_NETWORK = dict(name="cnn", dtype="float32", norm="batch", activation="none", dropout=(0.0, 0.5))


def _sizes() -> dict:
    """Per size: label, data by auxiliary set and classes, all classes, network, factors on widths, training."""
    paper = base.recipe(learning_rate=2e-4, batch_size=128, patience=0)
    local = base.recipe(learning_rate=2e-3, epochs=8, patience=0)
    few = base.recipe(learning_rate=2e-3, epochs=60, batch_size=16, patience=0)
    digits = _NETWORK | dict(channels=(128, 256, 512))
    faces = _NETWORK | dict(channels=(128, 256, 512, 1024))
    return {
        "runlocal": ("label", _mnist(0.1), _DIGITS, digits, 0.125, 0.0625, local),
        "runlocal-faces": ("identity", _orl, None, faces, 0.125, 0.0625, few),
        "mnist": ("label", _mnist(1.0), _DIGITS, digits, 1.0, 1.0, paper),
        "facescrub": ("identity", _facescrub, None, faces, 1.0, 1.0, paper),
    }


_DIGITS = tuple("0123456789")


def _mnist(share: float) -> Callable[..., dict]:
    def data(auxiliary: str = "", classes: tuple[str, ...] | None = None) -> dict:
        def of(kept: tuple[str, ...] | None) -> dict:
            return datasets.idx("mnist", datasets.HALVES, share, classes=kept and ("label", kept))

        if auxiliary == "generic":  # classes disjoint by construction
            return of(_DIGITS[:5]) | dict(auxiliary=datasets.auxiliary(of(_DIGITS[5:])))
        if auxiliary == "distinct":
            grey = datasets.cifar10_subset(datasets.HALVES, resize=(32, 32), grayscale=True)
            return of(classes) | dict(auxiliary=datasets.auxiliary(grey))
        return of(classes)

    return data


def _orl(auxiliary: str = "", classes: tuple[str, ...] | None = None) -> dict:
    data = datasets.orl(64)
    data["transform"]["classes"] = classes and ("identity", classes)
    others = {"generic": lambda: datasets.lfw(64), "distinct": _grey_objects}
    return data | dict(auxiliary=datasets.auxiliary(others[auxiliary]()) if auxiliary else {})


def _facescrub(auxiliary: str = "", classes: tuple[str, ...] | None = None) -> dict:
    data = datasets.identities("facescrub", datasets.HALVES, 64)
    data["transform"]["classes"] = classes and ("identity", classes)
    others = {"generic": lambda: datasets.identities("celeba", datasets.HALVES, 64), "distinct": _grey_objects}
    return data | dict(auxiliary=datasets.auxiliary(others[auxiliary]()) if auxiliary else {})


def _grey_objects() -> dict:
    return datasets.cifar10_subset(datasets.HALVES, resize=(64, 64), grayscale=True)


def get_config(arg: str = "") -> ConfigDict:
    """The truncation experiment on the data set of the size `arg`; the docstring above lists the sizes."""
    arg = arg or PAPER
    sizes = _sizes()
    if arg not in sizes:
        raise ValueError(f"configs/yang.py has no size {arg!r}: choose one of {', '.join(sizes)}")
    label, data, _, network, width, attack_width, train = sizes[arg]
    config = base.inversion(
        unit=f"yang-{arg}",
        data=data(),
        target_label=label,
        attack_label=label,
        model=network | dict(width=width, hidden=round(HIDDEN[label] / width)),  # as many features at any width
        train=train,
        attack_width=attack_width,
        attack_train=train,
        explanations=ConfigDict(),
        defences=ConfigDict({f"top{m}": dict(name="truncate", m=m) for m in (1, 3, 5, 10)}),
        arms=truncation((3, 5, 10)),
    )
    config.attack.encoder, config.attack.network, config.attack.rescale = "none", "tcnn", "logits"
    return config


def truncation(sizes: tuple[int, ...]) -> ConfigDict:
    """Trained on what it will see, beside the baseline, which is trained on full predictions (Section IV-B)."""
    arms = {}
    for m in sizes:
        seen = dict(defences=(f"top{m}",))
        arms |= {f"aligned_{m}": base.arm("prediction", learns=seen, sees=seen)}
        arms |= {f"baseline_{m}": base.arm("prediction", sees=seen)}
    return ConfigDict(arms)


def sweep(arg: str = "") -> list[dict]:
    """Every figure and Table II; units share what they have in common."""
    arg = arg or PAPER
    _, data, classes, *_ = _sizes()[arg]
    alone, outside = base.arm("prediction"), dict(roles=("auxiliary",))
    units = [{"unit": "truncation"}, {"unit": "auxiliary-same", "arms": _only(same=alone)}]
    for name in OTHERS:
        arms = _only(**{name: base.arm("prediction", learns=outside)})
        units.append({"unit": f"auxiliary-{name}", "data": data(name), "arms": arms})
    for count in (3, 5, 10) if classes else ():
        units.append({"unit": f"size-{count}", "data": data("", classes[:count]), "arms": _only(full=alone)})
    one = dict(defences=("top1",))
    inference = _only(
        mi_face=base.arm("prediction", known="target", name="fredrikson"),
        training_based=base.arm("prediction", sees=one),
        class_inference=base.arm("prediction", sees=one, name="class_inference", rescale="none"),
    )
    units.append({"unit": "classes", "arms": inference})
    return [*units, _joint(arg, data)]


def _joint(arg: str, data: Callable[..., dict]) -> dict:
    """A developer who trains classifier and inverter together, at weights of the reconstruction from 10 to Eq. 11's."""
    config, faces = get_config(arg), arg in ("facescrub", "runlocal-faces")
    own = {name: value for name, value in config.attack.to_dict().items() if name in _INVERTER}
    pixels = 64.0**2 if faces else 32.0**2  # Eq. 11 sums over them
    shadows, arms = {}, {"black_box": base.arm("prediction", learns=dict(roles=("target_train",)))}
    for name, weight in {"joint_10": 10.0, "joint_100": 100.0, "joint": pixels}.items():
        shadows[name] = config.target.to_dict() | dict(joint=own | dict(weight=weight, truncation=0))
        trained = dict(roles=(), prediction=name)
        arms[name] = base.arm("prediction", learns=trained, sees=dict(prediction=name))
    if faces:
        arms["augmented"] = base.arm("prediction", learns=dict(roles=("target_train", "auxiliary")))
    return {
        "unit": "joint",
        "data": data("generic") if faces else data(),
        "shadows": shadows,
        "arms": _only(**arms),
        "report.published": TABLE_II["facescrub" if faces else "mnist"],
    }


_INVERTER = ("network", "loss", "rescale", "width", "dtype")
TABLE_II = {
    "mnist": base.published("Table II", "mse", dict(black_box=0.3120, joint=0.0197))
    + base.published("Table II", "accuracy", dict(target=0.994, joint=0.992)),
    "facescrub": base.published("Table II", "mse", dict(black_box=0.1072, joint=0.0085, augmented=0.0083))
    + base.published("Table II", "accuracy", dict(target=0.783, joint=0.768)),
}


def _only(**arms: ConfigDict) -> dict:
    return ConfigDict(arms).to_dict()
