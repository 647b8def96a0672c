"""Zhao 2021: every input method, explanation and attack, on one target per data set.

The page is configs/zhao.md: the claim, what was measured, what was never run.

    # All arms on one data set
    python launch/run.py --config=configs/zhao.py:SIZE --workdir=runs/zhao
    # One unit per figure
    python launch/sweep.py --config=configs/zhao.py:SIZE --workdir=runs/zhao-figures

| SIZE | data | cost of all arms, 3 seeds |
|---|---|---|
| runlocal | a tenth of MNIST | two cores, 45 min beside other work |
| runlocal-cifar10 | the 5,000-image subset (S5b) | two cores, 35 min beside other work |
| runlocal-yale | Yale faces: emotion -> identity | two cores, 20 min (estimate) |
| runlocal-orl | ORL faces, LFW out of distribution (S5a) | two cores, an hour (estimate) |
| mnist (or none), cifar10 | the paper's setting | an accelerator, 4 hours (estimate) |
| icv-mefed, icv-mefed-identity | faces/IDENTITY/EMOTION | an accelerator, 6 hours (estimate) |
| celeba | 256x256 crops in faces/IDENTITY | an accelerator, 12 hours (estimate) |
| celeba-facescrub | facescrub out of distribution (S5a) | an accelerator, 14 hours (estimate) |

Folders are those of $XINV_DATA. MNIST has Fashion-MNIST as its set out of distribution. The target
of icv-mefed tells emotions (Figures 1, 4), that of icv-mefed-identity people (Figures 3, 5). An
estimate counts operations at 200 GFLOP/s of two cores and 50 TFLOP/s of an accelerator. The sweep's
unit "figure-4b-inputs" reads each type of explanation by each input method.

Expected at `runlocal`: SSIM .31 from predictions alone, .69 with CAM, .89 with partial-CAM.
"""

from ml_collections import ConfigDict

from configs import base, datasets

PAPER = "mnist"
"""The size where none is named."""

ENCODERS = ("flatten", "cnn", "unet", "flatten_unet")
TYPES = ("lrp", "gradient", "gradcam", "input_x_gradient")
_WIDE = dict(name="cnn", dtype="float32", hidden=512)
_SMALL = _WIDE | dict(channels=(128, 256))
_LARGE = _WIDE | dict(channels=(128, 256, 512))
_HUGE = _WIDE | dict(channels=(128, 256, 512, 1024), hidden=1024)


def _sizes() -> dict:
    """Per size: data, label of the target and of the attack, target network, factors on widths, and
    training.
    """
    local = base.recipe(learning_rate=2e-3, epochs=12)
    faces = base.recipe(
        learning_rate=2e-3,
        epochs=60,
        batch_size=16,
        patience=0,
        validation=0.0,
    )
    return {
        "runlocal": (_mnist(0.1), "label", "label", _SMALL, 0.125, 0.0625, local),
        "runlocal-cifar10": (
            datasets.cifar10_subset(datasets.HALVES),
            "label",
            "label",
            _SMALL,
            0.25,
            0.0625,
            local,
        ),
        "runlocal-yale": (datasets.yale(64), "emotion", "identity", _LARGE, 0.125, 0.0625, faces),
        "runlocal-orl": (_orl(64), "identity", "identity", _LARGE, 0.125, 0.0625, faces),
        "mnist": (_mnist(1.0), "label", "label", _SMALL, 1.0, 1.0, base.recipe()),
        "cifar10": (
            datasets.cifar10(datasets.HALVES),
            "label",
            "label",
            _SMALL,
            1.0,
            1.0,
            base.recipe(),
        ),
        "icv-mefed": (_emotions(128), "emotion", "identity", _LARGE, 1.0, 1.0, base.recipe()),
        "icv-mefed-identity": (
            _emotions(128),
            "identity",
            "identity",
            _LARGE,
            1.0,
            1.0,
            base.recipe(),
        ),
        "celeba": (_celeba(), "identity", "identity", _HUGE, 1.0, 1.0, base.recipe()),
        "celeba-facescrub": (
            _celeba() | _facescrub(),
            "identity",
            "identity",
            _HUGE,
            1.0,
            1.0,
            base.recipe(),
        ),
    }


def _mnist(share: float) -> dict:
    data = datasets.idx("mnist", datasets.HALVES, share)
    return data | dict(
        auxiliary=datasets.auxiliary(
            datasets.idx(
                "fashion_mnist",
                datasets.HALVES,
                share * 0.4,
            )
        )
    )


def _emotions(side: int) -> dict:
    labels = r"(?P<identity>[^/]+)/(?P<emotion>[^/]+)/[^/]+$"
    return datasets.faces(
        "faces",
        labels,
        "identity",
        datasets.HALVES,
        side,
        "iCV-MEFED",
    )


def _celeba() -> dict:
    """As many images of each person (Section 4.1)."""
    data = datasets.identities("faces", datasets.HALVES, 256, False)
    data["roles"]["balance"] = "identity"
    return data


def _facescrub() -> dict:
    return dict(
        auxiliary=datasets.auxiliary(
            datasets.identities(
                "facescrub",
                datasets.HALVES,
                256,
                False,
            )
        )
    )


def _orl(side: int) -> dict:
    return datasets.orl(side) | dict(auxiliary=datasets.auxiliary(datasets.lfw(side)))


def get_config(arg: str = "") -> ConfigDict:
    """All arms of all figures on the data set of the size `arg`; the docstring above lists the
    sizes.
    """
    arg = arg or PAPER
    sizes = _sizes()
    if arg not in sizes:
        raise ValueError(f"configs/zhao.py has no size {arg!r}: choose one of {', '.join(sizes)}")
    data, target_label, attack_label, model, width, attack_width, train = sizes[arg]
    config = base.inversion(
        unit=f"zhao-{arg}",
        data=data,
        target_label=target_label,
        attack_label=attack_label,
        model=model | dict(width=width),
        train=train,
        attack_width=attack_width,
        attack_train=train,
        sigma=2.5 if arg.startswith("celeba") else 1.5,
        explanations=explanations(),
        analysis=dict(
            explanation="gradcam", region="bright" if target_label == "label" else "ellipse"
        ),
    )
    shadows = dict(surrogate=config.target.to_dict() | dict(roles=("attack_train",)))
    if data[
        "auxiliary"
    ]:  # whose labels mean nothing to the target: what it answers is learned instead
        distilled = dict(roles=("auxiliary",), teacher=dict(prediction="target", defences=()))
        shadows["ood_surrogate"] = config.target.to_dict() | distilled
    config.shadows = ConfigDict(shadows)
    config.arms = ConfigDict(
        {name: arm for arms in figures(config).values() for name, arm in arms.items()}
    )
    return config


def explanations() -> ConfigDict:
    """Those of Section 4.1; the paper states no rule for LRP, so that of Jeong 2022 is taken."""
    names = ("gradient", "input_x_gradient", "gradcam", "class_cams", "constituent_cams")
    methods = {name: dict(name=name) for name in names} | {"lrp": dict(name="lrp", rule="gnime")}
    return ConfigDict(
        {name: method | dict(normalise="absolute_minmax") for name, method in methods.items()}
    )


def figures(config: ConfigDict) -> dict[str, dict[str, ConfigDict]]:
    """The arms of each figure."""
    alone = {"prediction": base.arm("prediction", encoder="none")}
    several = {name: _read(name) for name in ("class_cams", "constituent_cams")}
    several["several"] = _read("gradient", "gradcam", "lrp")
    surrogate = dict(explanation="surrogate")
    unexplained = dict(explanation="none")
    transfer = dict(name="attention_transfer", weight=1.0)
    others = {
        "fredrikson": base.arm("prediction", known="target", name="fredrikson"),
        "rs_cam": base.arm(
            "prediction",
            "gradcam",
            train_view=surrogate,
            test_view=unexplained,
            **transfer,
        ),
        "s_cam": _read("gradcam", train_view=surrogate, test_view=surrogate),
    }
    result = {
        "4a": alone | dict(base.arms(ENCODERS, ("gradcam",))) | several,
        "4b": alone | {f"flatten_unet({name})": _read(name) for name in TYPES},
        "5": alone | others | {"flatten_unet(gradcam)": _read("gradcam")},
    }
    if config.data.auxiliary:
        outside = dict(roles=("auxiliary",))
        result["S5a"] = {
            "ood_prediction": base.arm(
                "prediction",
                train_view=outside,
                encoder="none",
            ),
            "ood_cam": _read("gradcam", train_view=outside),
            "ood_rs_cam": base.arm(
                "prediction",
                "gradcam",
                train_view=outside | dict(explanation="ood_surrogate"),
                test_view=unexplained,
                **transfer,
            ),
        }
        result["S5a"] |= alone | {"flatten_unet(gradcam)": _read("gradcam")}
    return result


def _read(*names: str, **views: dict) -> ConfigDict:
    return base.arm("prediction", *names, encoder="flatten_unet", **views)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """One unit per figure; Figures 6 and S3 are drawn from the reconstructions of 4a and 4b."""
    units = figures(config or get_config(arg)) | {"4b-inputs": base.arms(ENCODERS, TYPES)}
    found = []
    for name, arms in units.items():
        found.append({"unit": f"figure-{name}", "arms": ConfigDict(arms).to_dict()})
    return found
