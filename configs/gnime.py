"""Jeong 2022 (GNIME): defended explanations, adaptive attackers; Tables 1 to 3, Figures 4 to 6.

The page, configs/gnime.md, has the claim, the measured figures and the open runs.

    # Tables 1 and 3, Figures 4 and 5
    python launch/run.py --config=configs/gnime.py:SIZE --workdir=runs/gnime
    # Each further experiment too
    python launch/sweep.py --config=configs/gnime.py:SIZE --workdir=runs/gnime-sweep

| SIZE | data | cost |
|---|---|---|
| runlocal | a tenth of MNIST, an eighth of the widths | two cores, 2.5 hours (estimate) |
| runlocal-gradcam | the same, Grad-CAM alone, few metrics | two cores, 25 min (estimate) |
| runlocal-cifar10 | the 5,000-image subset | two cores, an hour (estimate) |
| runlocal-yale | Yale faces at 32x32, attributes (Figure 6) | two cores, 1.5 hours (estimate) |
| runlocal-celeba | 50 people of `celeba` at 64x64 | two cores, an hour (estimate) |
| runlocal-imagenet100 | a twentieth of `imagenet100` at 64x64 | two cores, two hours (estimate) |
| mnist (or none), cifar10 | the paper's setting, 5 seeds | an accelerator, hours (estimate) |
| celeba | 1,000 people of celeba/IDENTITY, 128x128 | an accelerator, hours (estimate) |
| celeba-facescrub | with facescrub/IDENTITY (Table 2) | an accelerator, hours (estimate) |
| celeba-attributes | TFDS, eight attributes (Figure 6) | an accelerator, hours (estimate) |
| imagenet100 | imagenet100/CLASS, 256x256 | an accelerator, a day (estimate) |
| imagenet100-tfds | 100 classes of TFDS's imagenet2012 | an accelerator, a day (estimate) |

Folders are those of $XINV_DATA; FaceScrub must lack the people of CelebA. The decoded images of
ImageNet-100 take 24 GiB of a cache (configs/datasets.py). Releases are stored: at 256x256 0.4 TB
for each explanation and seed (estimate), most of it releases of noise.

| unit of the sweep | experiment |
|---|---|
| defences | Tables 1 and 3 |
| gamma | the trade-off of Eq. 3, and the others at equal distortion |
| lambda-… | the trade-off of Eq. 2, and the others at equal distortion |
| queries | an attacker who averages releases |
| reverse-sigmoid | ExpMI-3 |
| ood-… | Table 2: an attacker or a defender out of distribution |
| attributes | Figure 6 |
| logits | attackers who take the predictions' logarithms; GNIME's code reads logits |
| deployed | a generator of a quarter of the width, as a service would have it |
| ond-image | OND with the image, as in the paper: its inverter's error is ascended |

An arm "…_rnd_16" learns from 16 releases of each of its images, not from one: noise drawn once for
each would be memorised. So do all attacks on noise in "gamma", "queries" and "lambda-…"; on large
maps, from 4. Attacks are trained until they stop improving, or nearly so at `runlocal`: stopped
early, every defence looks better than it is. GNIME's own training takes thousands of steps: stopped
early, it looks worse (configs/gnime.md).

Attacks, the two players of GNIME and the inverter of OND are the networks of GNIME's code,
"gnime_decoder", since the published figures come from these; the paper's text names Zhao's,
"decoder", with ten times the operations. At `runlocal` they have an eighth of the channels:
8 at 32×32, doubling to 64 at 4×4; the codes of 64 and 512 numbers stay.

Expected at `runlocal-gradcam`: SSIM .32 from predictions alone, .85 with Grad-CAM, .56 with GNIME.
"""

import dataclasses
import functools

from ml_collections import ConfigDict, config_dict

from configs import base, datasets, gnime_published

GAMMAS = (0.0005, 0.001, 0.002, 0.004, 0.008)
LAMBDAS = (1.0, 10.0, 100.0, 1000.0)
QUERIES = (1, 4, 16, 64)
DEPLOYED = 0.25
"""Width of a deployed generator beside the attackers'.

Its releases take less than a fifth of Gradient's time.
"""
NETWORK = "gnime_decoder"
AS_RELEASED = dict(
    # Of the last convolution's output, before the pool: 16x16 of MNIST's images
    gradcam=dict(layer=-1, relu=False),
    lrp=dict(rule="gnime"),
)
"""Parameters by which an explainer is that of GNIME's code."""
CELEBA_ATTRIBUTES = (
    "attributes/Eyeglasses",
    "attributes/Male",
    "attributes/Wearing_Hat",
    "attributes/Smiling",
    "attributes/Bald",
    "attributes/Mustache",
    "attributes/Wearing_Earrings",
    "attributes/Young",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and its explanations, defences and further experiments.

    Attributes:
      explanations: names; the experiments beyond Table 1 take the first.
      lam: GNIME's trade-off (Eq. 2).
      gnime_train: recipe of GNIME's two networks.
      releases: of each image for an attacker on noise; fewer of large maps.
      faithfulness: whether insertion, deletion and max-sensitivity are measured.
      neighbours: of an image, for max-sensitivity.
      attributes: labels of the unit "attributes" (Figure 6).
      attribute_model: their network.
      published: tables of gnime_published.py, or "".
    """

    explanations: tuple[str, ...] = gnime_published.EXPLANATIONS
    lam: float = 100.0
    gnime_train: ConfigDict
    releases: int = 16
    faithfulness: bool = True
    neighbours: int
    attributes: tuple[str, ...] = ()
    attribute_model: dict = dataclasses.field(default_factory=dict)
    published: str = ""


def sizes() -> dict[str, Size]:
    """Returns the sizes of the table above, the paper's MNIST first."""
    return _papers() | _local()


def _papers() -> dict[str, Size]:
    """Returns the paper's settings."""
    train = base.recipe(batch_size=256)
    mnist = Size(
        unit="gnime-mnist",
        data=_mnist(),
        target_label="label",
        attack_label="label",
        model=_network(128, 256),
        train=train,
        attack_width=1.0,
        attack_train=train,
        seeds=5,
        gnime_train=_gnime_recipe(batch_size=1024, epochs=500),
        neighbours=10,
        published="mnist",
    )
    cifar10 = dataclasses.replace(
        mnist,
        unit="gnime-cifar10",
        data=datasets.cifar10(datasets.DEFENDED),
        published="cifar10",
    )

    # Larger images: smaller batches, and fewer releases for attackers on noise
    crops_train = base.recipe(batch_size=128)
    celeba = dataclasses.replace(
        mnist,
        unit="gnime-celeba",
        data=_celeba(people=1000, side=128),
        target_label="identity",
        attack_label="identity",
        model=_network(128, 256, 512, dropout=0.5),
        train=crops_train,
        attack_train=crops_train,
        gnime_train=_gnime_recipe(batch_size=128, epochs=500),
        lam=500.0,
        releases=4,
        published="celeba",
    )
    # Images out of distribution, for attackers and for defenders
    facescrub = datasets.identities("facescrub", datasets.HALVES, 128, grayscale=False)
    celeba_facescrub = dataclasses.replace(
        celeba,
        unit="gnime-celeba-facescrub",
        data=celeba.data | dict(auxiliary=datasets.auxiliary(facescrub)),
        published="celeba-facescrub",
    )

    # TFDS has no identities: an attribute is the target's label
    celeba_attributes = dataclasses.replace(
        celeba,
        unit="gnime-celeba-attributes",
        data=datasets.celeba(datasets.DEFENDED, 128, CELEBA_ATTRIBUTES),
        target_label=CELEBA_ATTRIBUTES[0],
        attack_label=CELEBA_ATTRIBUTES[0],
        attributes=CELEBA_ATTRIBUTES,
        attribute_model=_resnet(depth=50, width=1.0, stem="large"),
        published="",
    )
    imagenet100 = dataclasses.replace(
        celeba,
        unit="gnime-imagenet100",
        data=_imagenet100(side=256),
        model=_network(128, 256, 512, 1024, dropout=0.5),
        lam=100.0,
        published="imagenet100",
    )
    # TFDS calls the class `label`, a folder source `identity`
    imagenet100_tfds = dataclasses.replace(
        imagenet100,
        unit="gnime-imagenet100-tfds",
        data=datasets.imagenet100(datasets.DEFENDED, 256),
        target_label="label",
        attack_label="label",
    )
    return {
        "mnist": mnist,
        "cifar10": cifar10,
        "celeba": celeba,
        "celeba-facescrub": celeba_facescrub,
        "celeba-attributes": celeba_attributes,
        "imagenet100": imagenet100,
        "imagenet100-tfds": imagenet100_tfds,
    }


def _local() -> dict[str, Size]:
    """Returns sizes for two cores."""
    mnist = Size(
        unit="gnime-runlocal",
        data=_mnist(share=0.1, fashion_share=0.04),
        target_label="label",
        attack_label="label",
        model=_network(128, 256, width=0.125),
        train=base.recipe(learning_rate=2e-3, epochs=8),
        attack_width=0.125,
        attack_train=base.recipe(learning_rate=2e-3, epochs=30),
        gnime_train=_gnime_recipe(learning_rate=1e-3, epochs=160, schedule="cosine"),
        neighbours=2,
        published="mnist",
    )

    # One explanation, without the metrics that take most of the time
    gradcam = dataclasses.replace(
        mnist,
        unit="gnime-runlocal-gradcam",
        explanations=("gradcam",),
        attack_train=base.recipe(learning_rate=2e-3, epochs=60),
        faithfulness=False,
    )
    # Objects: a wider target, trained longer
    cifar10 = dataclasses.replace(
        mnist,
        unit="gnime-runlocal-cifar10",
        data=datasets.cifar10_subset(datasets.DEFENDED),
        model=_network(128, 256, width=0.25),
        train=base.recipe(learning_rate=2e-3, epochs=12),
        attack_train=base.recipe(learning_rate=2e-3, epochs=20),
        gnime_train=_gnime_recipe(learning_rate=1e-3, epochs=40),
        published="cifar10",
    )
    # Larger images, with deeper targets
    celeba = dataclasses.replace(
        cifar10,
        unit="gnime-runlocal-celeba",
        data=_celeba(people=50, side=64),
        target_label="identity",
        attack_label="identity",
        model=_network(128, 256, 512, dropout=0.5, width=0.125),
        lam=500.0,
        published="celeba",
    )
    imagenet100 = dataclasses.replace(
        celeba,
        unit="gnime-runlocal-imagenet100",
        data=_imagenet100(side=64, share=0.05),
        model=_network(128, 256, 512, 1024, dropout=0.5, width=0.125),
        lam=100.0,
        published="imagenet100",
    )

    # 150 images: small batches, many epochs, and none held out
    few_images = functools.partial(base.recipe, batch_size=16, patience=0, validation=0.0)
    yale = dataclasses.replace(
        mnist,
        unit="gnime-runlocal-yale",
        data=_yale(side=32),
        target_label="identity",
        attack_label="identity",
        model=_network(128, 256, 512, dropout=0.5, width=0.125),
        train=few_images(learning_rate=2e-3, epochs=40),
        attack_train=few_images(learning_rate=2e-3, epochs=400),
        gnime_train=few_images(learning_rate=1e-3, epochs=2400, schedule="cosine"),
        attributes=("glasses", "side_light"),
        attribute_model=_resnet(depth=18, width=0.125, stem="small"),
        published="",
    )
    return {
        "runlocal": mnist,
        "runlocal-gradcam": gradcam,
        "runlocal-cifar10": cifar10,
        "runlocal-yale": yale,
        "runlocal-celeba": celeba,
        "runlocal-imagenet100": imagenet100,
    }


def _network(*channels: int, dropout: float = 0.0, width: float = 1.0) -> dict:
    return dict(
        name="cnn",
        dtype="float32",
        channels=channels,
        hidden=512,
        dropout=(dropout, dropout),
        width=width,
    )


def _resnet(depth: int, width: float, stem: str) -> dict:
    return dict(name="resnet", depth=depth, version=2, width=width, stem=stem)


def _gnime_recipe(**changes: object) -> ConfigDict:
    """Returns a recipe without early end: two players have no common validation loss."""
    return base.recipe(patience=0, validation=0.0, **changes)


def _mnist(share: float = 1.0, fashion_share: float = 0.4) -> dict:
    """Returns MNIST, with images of Fashion-MNIST as a set out of distribution."""
    fashion = datasets.idx("fashion_mnist", datasets.HALVES, fashion_share)
    data = datasets.idx("mnist", datasets.DEFENDED, share)
    return data | dict(auxiliary=datasets.auxiliary(fashion))


def _celeba(people: int, side: int) -> dict:
    """Returns crops of CelebA, equally many of each person.

    The paper's subset has 30 of each of 1,000; here these are the first people with as many.
    """
    data = datasets.identities("celeba", datasets.DEFENDED, side, grayscale=False)
    data["transform"]["classes"] = ("identity", people, 30)
    data["roles"]["balance"] = "identity"
    return data


def _imagenet100(side: int, share: float = 1.0) -> dict:
    roles = datasets.shared(datasets.DEFENDED, share)
    return datasets.identities("imagenet100", roles, side, grayscale=False)


def _yale(side: int) -> dict:
    """Returns Yale faces with two attributes, by the names of the pictures.

    Three people also wear glasses in further pictures.
    """
    lights = ("centerlight", "leftlight", "rightlight")
    expressions = ("happy", "sad", "sleepy", "surprised", "wink")
    # One picture with glasses of each person
    glasses = [f"subject{number:02d}.glasses" for number in range(1, 16)]
    # Further pictures of the people who also wear them there
    for person in ("subject08", "subject13"):
        glasses += [f"{person}.{condition}" for condition in lights + expressions]
    glasses.append("subject13.normal")  # subject08.normal is a duplicate
    glasses += [f"subject14.{light}" for light in lights]
    attributes = dict(
        glasses=("picture", glasses),
        side_light=("condition", ("leftlight", "rightlight")),
    )
    return datasets.faces(
        "yale_faces/yalefaces.tar.xz",
        labels=r"(?P<picture>(?P<identity>subject\d+)\.(?P<condition>\w+))",
        stratify="identity",
        roles=dict(
            target_train=0.3,
            defence_test=0.1,
            attack_train=0.4,
            attack_test=0.2,
        ),
        side=side,
        title="Yale",
        attributes=attributes,
    )


def get_config(arg: str = "") -> ConfigDict:
    """Returns Tables 1 and 3 at the size `arg`."""
    size = base.size(sizes(), arg)
    config = base.audit(
        size,
        explanations=explanations(size.explanations),
        defences=defences(size),
        arms=table_1(size),
    )
    # None, for a number on the command line
    config.defences.gnime.gamma = config_dict.placeholder(float)
    # The network of the authors' code, the source of the published figures
    config.attack.network = NETWORK
    # Utility of a release; faithfulness costs many passes of the target
    utility = dict(distortion={}, masked_deepsim={})
    if size.faithfulness:
        utility |= dict(
            deletion={},
            insertion={},
            max_sensitivity=dict(radius=0.02, samples=size.neighbours),
        )
    config.metrics.explanation = ConfigDict(utility)
    # A size may lack some of the paper's explanations
    rows = gnime_published.tables_1_and_3(size.published)
    config.report.published = tuple(row for row in rows if row["arm"] in config.arms)
    return config


def explanations(names: tuple[str, ...]) -> ConfigDict:
    """Returns explanations as in GNIME's code, absolute values scaled to [0,1]."""
    found = {}
    for name in names:
        found[name] = dict(name=name, normalise="absolute_minmax") | AS_RELEASED.get(name, {})
    return ConfigDict(found)


def defences(size: Size) -> ConfigDict:
    """Returns GNIME, and random and optimised noise of GNIME's magnitude.

    The magnitude is measured on the defender's held-out images. Random noise leaves the maps'
    range, as in GNIME's code.
    """
    network = dict(
        network=NETWORK,
        encoder="flatten_unet",
        width=size.attack_width,
        dtype="float32",
    )
    # Two players, of which the generator is released (Eq. 2)
    gnime = dict(
        name="gnime",
        lam=size.lam,
        gamma=None,
        inverter_width=size.attack_width,
        updates="alternating",
        train=size.gnime_train,
        max_distortion=2.0,
        max_inverter_error=1.0,
    )

    # Noise of GNIME's magnitude
    optimised = dict(
        name="pgd",
        match_distortion_of="gnime",
        steps=10,
        step_size=0.25,
        train=size.attack_train,
    )
    random = dict(name="gaussian", match_distortion_of="gnime", clipped=False)
    return ConfigDict(dict(gnime=gnime | network, ond=optimised | network, rnd=random))


def table_1(size: Size) -> ConfigDict:
    """Returns predictions alone, and each explanation without and with each defence.

    Attackers adapt. Noise is also attacked by one who learns from several releases of each of its
    images, and so to see through it.
    """
    arms = {"prediction": base.arm("prediction", encoder="none")}
    for name in size.explanations:
        arms[name] = base.arm("prediction", name)
        for defence in gnime_published.DEFENCES:
            arms[f"{name}_{defence}"] = _by(name, defence)
        arms[f"{name}_rnd_{size.releases}"] = _by(name, "rnd", releases=size.releases)
    return ConfigDict(arms)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns Table 1, then each further experiment; units share common stages."""
    size = base.size(sizes(), arg)
    config = config or get_config(arg)
    name = size.explanations[0]
    defences = config.defences.to_dict()
    # The arms of several units
    undefended = dict(
        prediction=base.arm("prediction", encoder="none"), bare=base.arm("prediction", name)
    )
    with_gnime = undefended | dict(gnime=_by(name, "gnime"))

    # Experiments on the first explanation
    bounded = {}
    for gamma in GAMMAS:
        bounded |= _bounded(gamma, defences)
    units = [
        {"unit": "defences"},
        _unit(
            "gamma",
            with_gnime | _limited(name, bounded, size.releases),
            defences=defences | bounded,
        ),
        _unit("queries", undefended | _averaged(name, size.releases)),
        _reverse_sigmoid(name, undefended, config, size),
    ]

    # Experiments of some data sets
    if config.data.auxiliary:
        units += [
            _unit(
                "ood-attacker",
                table_2(size.explanations),
                **{"report.published": gnime_published.table_2(size.published)},
            ),
            _unit("ood-defender", with_gnime, **{"defender.role": "auxiliary"}),
        ]
    if size.attributes:
        units.append({"unit": "attributes", "attributes": _attributes(config, size)})
    # Changes of the attackers' input, and of the generator's size
    deployed = DEPLOYED * defences["gnime"]["width"]
    units += [
        _unit("logits", with_gnime, **{"attack.rescale": "logits"}),
        _unit("deployed", with_gnime, **{"defences.gnime.width": deployed}),
        _unit(
            "ond-image",
            undefended | dict(ond=_by(name, "ond"), ond_image=_by(name, "ond_image")),
            defences=defences | dict(ond_image=_ond_with_image()),
        ),
    ]

    # All defences at each trade-off
    alike = with_gnime | dict(ond=_by(name, "ond"), rnd=_by(name, "rnd", releases=size.releases))
    for lam in LAMBDAS:
        units.append(_unit(f"lambda-{lam:g}", alike, **{"defences.gnime.lam": lam}))
    return units


def _unit(name: str, arms: dict, **changes: object) -> dict:
    # The config's published figures are of its own arms alone
    return {"unit": name, "arms": ConfigDict(arms).to_dict(), "report.published": (), **changes}


def _bounded(gamma: float, defences: dict) -> dict:
    """Returns GNIME within Eq. 3's bound, and both kinds of noise of its magnitude."""
    written = f"{gamma * 1e4:02.0f}e-4"  # so that names are in the order of numbers
    bound = f"gamma_{written}"
    return {
        # Reuse what is learned: γ acts at the release alone
        bound: dict(reuse_state_of="gnime", gamma=gamma),
        f"rnd_{written}": defences["rnd"] | dict(match_distortion_of=bound),
        f"ond_{written}": dict(reuse_state_of="ond", match_distortion_of=bound),
    }


def _ond_with_image() -> dict:
    """Returns OND by a service that still has the image when it releases the map."""
    return dict(reuse_state_of="ond", match_distortion_of="gnime", away_from="image")


def _limited(name: str, bounded: dict, releases: int) -> dict:
    """Returns an arm for each of these defences; against noise it learns from several releases."""
    found = {}
    for by, settings in bounded.items():
        # A reused defence has no name of its own; random noise has
        is_noise = settings.get("name") == "gaussian"
        found[by] = _by(name, by, releases=releases if is_noise else 1)
    return found


def _averaged(name: str, releases: int) -> dict:
    """Returns attackers who average releases, of noise and of GNIME."""
    found = {}
    for count in QUERIES:
        found[f"rnd_queries_{count}"] = _by(
            name,
            "rnd",
            queries=count,
            releases=releases,
        )
    # GNIME draws nothing: the fewest and the most queries suffice
    for count in (QUERIES[0], QUERIES[-1]):
        found[f"gnime_queries_{count}"] = _by(name, "gnime", queries=count)
    return found


def _by(name: str, *defences: str, queries: int = 1, releases: int = 1) -> ConfigDict:
    """Returns an explanation, defended, against an attacker who adapts.

    It averages `queries` releases of each image, and learns from `releases` such means of each of
    its own.
    """
    # Take several releases in learning alone: a reported image has one mean
    view = dict(defences=defences, queries=queries)
    return base.arm(
        "prediction",
        name,
        train_view=view | dict(releases=releases),
        test_view=view,
    )


def _reverse_sigmoid(name: str, undefended: dict, config: ConfigDict, size: Size) -> dict:
    """Returns ExpMI-3: perturbed predictions, and attackers who explain a surrogate."""
    # Each attacker with full and with perturbed predictions
    sigmoid = dict(name="reverse_sigmoid", beta=1.0, gamma=0.1)
    arms = dict(
        prediction_sigmoid=base.defended(
            "prediction",
            by=("sigmoid",),
            encoder="none",
        ),
        surrogate=_transferred(name, "surrogate"),
        surrogate_sigmoid=_transferred(
            name,
            "surrogate_sigmoid",
            "sigmoid",
        ),
        gnime=_by(name, "gnime"),
        gnime_sigmoid=_by(name, "gnime", "sigmoid"),
    )
    return _unit(
        "reverse-sigmoid",
        undefended | arms,
        defences=config.defences.to_dict() | dict(sigmoid=sigmoid),
        shadows=_surrogates(config),
        **{"report.published": gnime_published.section_6(size.published)},
    )


def _surrogates(config: ConfigDict) -> dict:
    """Returns an attacker's models of the target's answers, plain or perturbed."""
    # Same network and recipe as the target, on the attacker's images
    own = config.target.to_dict() | dict(roles=("attack_train",))
    teachers = {"surrogate": (), "surrogate_sigmoid": ("sigmoid",)}
    found = {}
    for name, by in teachers.items():
        found[name] = own | dict(teacher=dict(prediction="target", defences=by))
    return found


def _transferred(name: str, surrogate: str, *defences: str) -> ConfigDict:
    """Returns an attack on predictions alone, learnt from a surrogate's explanations.

    Zhao's rs-CAM.
    """
    # Explain the attacker's own images alone: the service releases no maps
    train_view = dict(explanation=surrogate, defences=defences)
    test_view = dict(explanation="none", defences=defences)
    return base.arm(
        "prediction",
        name,
        train_view=train_view,
        test_view=test_view,
        name="attention_transfer",
        weight=1.0,
    )


def table_2(names: tuple[str, ...]) -> dict[str, ConfigDict]:
    """Returns predictions alone, and explanations without and with GNIME.

    Attackers have images of another kind.
    """
    # The attacker learns on its own images, also of defended releases
    roles = dict(roles=("auxiliary",))
    seen = dict(defences=("gnime",))
    arms = dict(prediction=base.arm("prediction", train_view=roles, encoder="none"))
    for name in names:
        arms[name] = base.arm("prediction", name, train_view=roles)
        arms[f"{name}_gnime"] = base.arm(
            "prediction",
            name,
            train_view=roles | seen,
            test_view=seen,
        )
    return arms


def _attributes(config: ConfigDict, size: Size) -> dict:
    """Returns classifiers of attributes, trained on the target's images.

    Those of Figure 6 are ResNet-50 V2.
    """
    train = config.target.train.to_dict() | dict(learning_rate=1e-3)
    found = {}
    for name in size.attributes:
        found[name] = dict(
            label=name,
            roles=("target_train",),
            model=size.attribute_model,
            train=train,
        )
    return found
