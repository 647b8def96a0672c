"""Zhao 2021: every input method, explanation and attack, on one target per data set.

The page, configs/zhao.md, has the claim, the measured figures and the open runs.

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
| celeba | 1,000 people of celeba/IDENTITY in grey, 256x256 | an accelerator, 12 hours (estimate) |
| celeba-facescrub | facescrub/IDENTITY out of distribution | an accelerator, 14 hours (estimate) |

Folders are those of $XINV_DATA. All sets but CIFAR-10 have one channel (Supplementary Tables 1 to
3). MNIST has Fashion-MNIST as its set out of distribution, CelebA has FaceScrub (Figure S5a). The
target of icv-mefed predicts emotions (Figures 1, 4), of icv-mefed-identity people (Figures 3, 5).
An estimate counts operations at 200 GFLOP/s of two cores and 50 TFLOP/s of an accelerator. The
sweep's unit "figure-4b-inputs" reads each type of explanation by each input method.

Expected at `runlocal`: SSIM .31 from predictions alone, .70 with CAM, .90 with partial-CAM.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base, datasets

ENCODERS = ("flatten", "cnn", "unet", "flatten_unet")
TYPES = ("lrp", "gradient", "gradcam", "input_x_gradient")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and parameters of metrics by its kind of images.

    Attributes:
      region: of expected relevance (Figure 6): "bright" pixels of an object, or the "ellipse"
        of a face.
      sigma: of SSIM's window, in pixels.
    """

    region: str = "ellipse"
    sigma: float = 1.5


def sizes() -> dict[str, Size]:
    """Returns the sizes of the table above, the paper's MNIST first."""
    # Recipes and widths of the attack
    paper = dict(
        train=base.recipe(),
        attack_width=1.0,
        attack_train=base.recipe(),
    )
    # On two cores: narrow networks at a higher rate
    local_train = base.recipe(learning_rate=2e-3, epochs=12)
    local = dict(
        train=local_train,
        attack_width=0.0625,
        attack_train=local_train,
    )
    # Few faces: small batches, and none held out
    faces_train = base.recipe(
        learning_rate=2e-3,
        epochs=60,
        batch_size=16,
        patience=0,
        validation=0.0,
    )
    local_faces = dict(
        train=faces_train,
        attack_width=0.0625,
        attack_train=faces_train,
    )

    # Labels of the target and of recognition
    objects = dict(target_label="label", attack_label="label", region="bright")
    emotions = dict(target_label="emotion", attack_label="identity")
    people = dict(target_label="identity", attack_label="identity")
    return {
        "mnist": Size(
            unit="zhao-mnist",
            data=_mnist(),
            model=_network(128, 256),
            **objects,
            **paper,
        ),
        "cifar10": Size(
            unit="zhao-cifar10",
            data=datasets.cifar10(datasets.HALVES),
            model=_network(128, 256),
            **objects,
            **paper,
        ),
        "icv-mefed": Size(
            unit="zhao-icv-mefed",
            data=_emotions(),
            model=_network(128, 256, 512),
            **emotions,
            **paper,
        ),
        "icv-mefed-identity": Size(
            unit="zhao-icv-mefed-identity",
            data=_emotions(),
            model=_network(128, 256, 512),
            **people,
            **paper,
        ),
        "celeba": Size(
            unit="zhao-celeba",
            data=_celeba(),
            model=_network(128, 256, 512, 1024, hidden=1024),
            sigma=2.5,
            **people,
            **paper,
        ),
        "celeba-facescrub": Size(
            unit="zhao-celeba-facescrub",
            data=_celeba() | dict(auxiliary=_facescrub()),
            model=_network(128, 256, 512, 1024, hidden=1024),
            sigma=2.5,
            **people,
            **paper,
        ),
        "runlocal": Size(
            unit="zhao-runlocal",
            data=_mnist(share=0.1, fashion_share=0.04),
            model=_network(128, 256, width=0.125),
            **objects,
            **local,
        ),
        "runlocal-cifar10": Size(
            unit="zhao-runlocal-cifar10",
            data=datasets.cifar10_subset(datasets.HALVES),
            model=_network(128, 256, width=0.25),
            **objects,
            **local,
        ),
        "runlocal-yale": Size(
            unit="zhao-runlocal-yale",
            data=datasets.yale(64),
            model=_network(128, 256, 512, width=0.125),
            **emotions,
            **local_faces,
        ),
        "runlocal-orl": Size(
            unit="zhao-runlocal-orl",
            data=datasets.orl(64) | dict(auxiliary=datasets.auxiliary(datasets.lfw(64))),
            model=_network(128, 256, 512, width=0.125),
            **people,
            **local_faces,
        ),
    }


def _network(*channels: int, hidden: int = 512, width: float = 1.0) -> dict:
    return dict(name="cnn", dtype="float32", channels=channels, hidden=hidden, width=width)


def _mnist(share: float = 1.0, fashion_share: float = 0.4) -> dict:
    """Returns MNIST, and as many images of Fashion-MNIST as an attacker has of MNIST."""
    fashion = datasets.idx("fashion_mnist", datasets.HALVES, fashion_share)
    data = datasets.idx("mnist", datasets.HALVES, share)
    return data | dict(auxiliary=datasets.auxiliary(fashion))


def _emotions() -> dict:
    return datasets.faces(
        "faces",
        labels=r"(?P<identity>[^/]+)/(?P<emotion>[^/]+)/[^/]+$",
        stratify="identity",
        roles=datasets.HALVES,
        side=128,
        title="iCV-MEFED",
    )


def _celeba() -> dict:
    """Returns grey crops of CelebA, equally many of each person.

    The paper's subset has 30 of each of 1,000 (Section 4.1), with one channel (Supplementary
    Table 2); here these are the first people with as many.
    """
    data = datasets.identities("celeba", datasets.HALVES, 256)
    data["transform"]["classes"] = ("identity", 1000, 30)
    data["roles"]["balance"] = "identity"
    return data


def _facescrub() -> dict:
    return datasets.auxiliary(datasets.identities("facescrub", datasets.HALVES, 256))


def get_config(arg: str = "") -> ConfigDict:
    """Returns all arms of all figures on the data set of the size `arg`."""
    size = base.size(sizes(), arg)
    config = base.audit(
        size,
        sigma=size.sigma,
        explanations=explanations(),
        analysis=dict(explanation="gradcam", region=size.region),
    )

    # Surrogates of attackers in and out of distribution
    target = config.target.to_dict()
    shadows = dict(surrogate=target | dict(roles=("attack_train",)))
    if config.data.auxiliary:
        # The target does not know these images' labels: the surrogate learns its answers instead
        teacher = dict(prediction="target", defences=())
        shadows["ood_surrogate"] = target | dict(roles=("auxiliary",), teacher=teacher)
    config.shadows = ConfigDict(shadows)

    # The arms of all figures; equal names are equal arms
    arms = {}
    for of_figure in figures(config).values():
        arms |= of_figure
    config.arms = ConfigDict(arms)
    return base.unshared(config)


def explanations() -> ConfigDict:
    """Returns the explanations of Section 4.1.

    The paper states no rule for LRP; this one is of Jeong 2022.
    """
    found = {}
    for name in ("gradient", "input_x_gradient", "gradcam", "class_cams", "constituent_cams"):
        found[name] = dict(name=name, normalise="absolute_minmax")
    found["lrp"] = dict(name="lrp", rule="gnime", normalise="absolute_minmax")
    return ConfigDict(found)


def figures(config: ConfigDict) -> dict[str, dict[str, ConfigDict]]:
    """Returns the arms of each figure; S5a needs images out of distribution."""
    alone = {"prediction": base.arm("prediction", encoder="none")}
    with_cam = {"flatten_unet(gradcam)": _read("gradcam")}

    # 4a: input methods, and several maps at once; 4b: types of explanations
    several = {
        "class_cams": _read("class_cams"),
        "constituent_cams": _read("constituent_cams"),
        "several": _read("gradient", "gradcam", "lrp"),
    }
    types = {f"flatten_unet({name})": _read(name) for name in TYPES}

    # 5: attacks on targets that release no explanation, by an attacker who explains a surrogate
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
    found = {
        "4a": alone | dict(base.arms(ENCODERS, ("gradcam",))) | several,
        "4b": alone | types,
        "5": alone | others | with_cam,
    }
    if not config.data.auxiliary:
        return found

    # S5a: attackers who learn from images of another distribution
    outside = dict(roles=("auxiliary",))
    shifted = {
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
    return found | {"S5a": alone | shifted | with_cam}


def _read(*names: str, **views: dict) -> ConfigDict:
    return base.arm("prediction", *names, encoder="flatten_unet", **views)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns one unit per figure; Figures 6 and S3 use the reconstructions of 4a and 4b."""
    # A further unit reads each type by each input method
    found = figures(config or get_config(arg)) | {"4b-inputs": base.arms(ENCODERS, TYPES)}
    units = []
    for name, arms in found.items():
        units.append({"unit": f"figure-{name}", "arms": ConfigDict(arms).to_dict()})
    return units
