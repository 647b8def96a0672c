"""Jeong 2022 (GNIME): defended explanations, adaptive attackers; Tables 1 to 3, Figures 4 to 6.

The page is configs/gnime.md: the claim, what was measured, what was never run.

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

Folders are those of $XINV_DATA; FaceScrub must lack the people of CelebA. What is released is
stored: at 256x256 0.4 TB for each explanation and seed (estimate), most of it releases of noise.

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

An arm "…_rnd_16" learns from 16 releases of each of its images, not from one: noise drawn once for
each is learned by heart. So do all that attack noise in "gamma", "queries" and "lambda-…"; of large
maps, from 4. Attacks are trained until they stop improving, or nearly so at `runlocal`: stopped
early, every defence looks better than it is. GNIME's game takes thousands of steps: stopped early,
it looks worse (configs/gnime.md).

Attacks, the two players of GNIME and the inverter of OND are the networks of GNIME's code,
"gnime_decoder", since the published figures come from these; the paper's text names Zhao's,
"decoder", which takes ten times the operations. At `runlocal` they have an eighth of the channels:
8 at 32×32, doubling to 64 at 4×4.

Expected at `runlocal-gradcam`: SSIM .31 from predictions alone, .72 with Grad-CAM, .48 with GNIME.
"""

import functools

from ml_collections import ConfigDict, config_dict

from configs import base, datasets, gnime_published

PAPER = "mnist"
"""The size where none is named."""

GAMMAS = (0.0005, 0.001, 0.002, 0.004, 0.008)
LAMBDAS = (1.0, 10.0, 100.0, 1000.0)
QUERIES = (1, 4, 16, 64)
DEPLOYED = 0.25
"""The width, beside the attackers', of a generator whose releases take less than a fifth of
Gradient's time.
"""
NETWORK = "gnime_decoder"
CELEBA_ATTRIBUTES = tuple(
    f"attributes/{name}"
    for name in (
        "Eyeglasses",
        "Male",
        "Wearing_Hat",
        "Smiling",
        "Bald",
        "Mustache",
        "Wearing_Earrings",
        "Young",
    )
)
_CNN = dict(
    name="cnn",
    dtype="float32",
    channels=(128, 256),
    hidden=512,
    dropout=(0.0, 0.0),
)
_DEEP = _CNN | dict(channels=(128, 256, 512), dropout=(0.5, 0.5))
_HUGE = _CNN | dict(channels=(128, 256, 512, 1024), dropout=(0.5, 0.5))


def _sizes() -> dict:
    """Per size: data, label, network, factors on widths, seeds, training of target, attack and
    GNIME, lambda.
    """
    endless = dict(patience=0, validation=0.0)
    digits = base.recipe(batch_size=256)
    crops = base.recipe(batch_size=128)
    paper = digits, digits, base.recipe(batch_size=1024, epochs=500, **endless)
    crops = crops, crops, base.recipe(batch_size=128, epochs=500, **endless)
    game = base.recipe(learning_rate=1e-3, epochs=40, **endless)
    long = base.recipe(learning_rate=1e-3, epochs=160, schedule="cosine", **endless)
    local = *(base.recipe(learning_rate=2e-3, epochs=epochs) for epochs in (12, 20)), game
    quick = *(base.recipe(learning_rate=2e-3, epochs=epochs) for epochs in (8, 30)), long
    gradcam = *(base.recipe(learning_rate=2e-3, epochs=epochs) for epochs in (8, 60)), long
    slow = base.recipe(
        learning_rate=1e-3,
        epochs=2400,
        batch_size=16,
        schedule="cosine",
        **endless,
    )
    few = (
        *(
            base.recipe(learning_rate=2e-3, epochs=epochs, batch_size=16, **endless)
            for epochs in (40, 400)
        ),
        slow,
    )
    subset = datasets.cifar10_subset(datasets.DEFENDED)
    some = {r: 0.05 * part for r, part in datasets.DEFENDED.items()}
    objects = functools.partial(datasets.identities, "imagenet100", grayscale=False)
    celeba = _celeba(1000, 128)
    outside = dict(
        auxiliary=datasets.auxiliary(
            datasets.identities(
                "facescrub",
                datasets.HALVES,
                128,
                False,
            )
        )
    )
    marked = datasets.celeba(datasets.DEFENDED, 128, CELEBA_ATTRIBUTES)
    return {
        "runlocal": (_mnist(0.1), "label", _CNN, 0.125, 0.125, 3, *quick, 100.0),
        "runlocal-gradcam": (_mnist(0.1), "label", _CNN, 0.125, 0.125, 3, *gradcam, 100.0),
        "runlocal-cifar10": (subset, "label", _CNN, 0.25, 0.125, 3, *local, 100.0),
        "runlocal-yale": (_yale(32), "identity", _DEEP, 0.125, 0.125, 3, *few, 100.0),
        "runlocal-celeba": (_celeba(50, 64), "identity", _DEEP, 0.125, 0.125, 3, *local, 500.0),
        "runlocal-imagenet100": (
            objects(some, 64),
            "identity",
            _HUGE,
            0.125,
            0.125,
            3,
            *local,
            100.0,
        ),
        "mnist": (_mnist(1.0), "label", _CNN, 1.0, 1.0, 5, *paper, 100.0),
        "cifar10": (datasets.cifar10(datasets.DEFENDED), "label", _CNN, 1.0, 1.0, 5, *paper, 100.0),
        "celeba": (celeba, "identity", _DEEP, 1.0, 1.0, 5, *crops, 500.0),
        "celeba-facescrub": (celeba | outside, "identity", _DEEP, 1.0, 1.0, 5, *crops, 500.0),
        "celeba-attributes": (marked, CELEBA_ATTRIBUTES[0], _DEEP, 1.0, 1.0, 5, *crops, 500.0),
        "imagenet100": (
            objects(datasets.DEFENDED, 256),
            "identity",
            _HUGE,
            1.0,
            1.0,
            5,
            *crops,
            100.0,
        ),
        "imagenet100-tfds": (
            datasets.imagenet100(datasets.DEFENDED, 256),
            "label",
            _HUGE,
            1.0,
            1.0,
            5,
            *crops,
            100.0,
        ),
    }


def _mnist(share: float) -> dict:
    outside = datasets.auxiliary(
        datasets.idx(
            "fashion_mnist",
            datasets.HALVES,
            share * 0.4,
        )
    )
    return datasets.idx("mnist", datasets.DEFENDED, share) | dict(auxiliary=outside)


def _celeba(people: int, side: int) -> dict:
    """As many images of each person; the paper's subset has 30 of each of 1,000."""
    data = datasets.identities("celeba", datasets.DEFENDED, side, False)
    data["transform"]["classes"] = ("identity", people)
    data["roles"]["balance"] = "identity"
    return data


def _yale(side: int) -> dict:
    """Two attributes by the pictures' names; three people also wear glasses where these do not say
    so.
    """
    labels = r"(?P<picture>(?P<identity>subject\d+)\.(?P<condition>\w+))"
    roles = dict(
        target_train=0.3,
        defence_test=0.1,
        attack_train=0.4,
        attack_test=0.2,
    )
    lights = ("centerlight", "leftlight", "rightlight")
    faces = ("happy", "sad", "sleepy", "surprised", "wink")
    worn = [f"subject{number:02d}.glasses" for number in range(1, 16)]
    worn += [
        f"{who}.{condition}" for who in ("subject08", "subject13") for condition in lights + faces
    ]
    worn += [
        "subject13.normal",
        *(f"subject14.{light}" for light in lights),
    ]  # subject08.normal is a duplicate
    attributes = dict(
        glasses=("picture", worn), side_light=("condition", ("leftlight", "rightlight"))
    )
    return datasets.faces(
        "yale_faces/yalefaces.tar.xz",
        labels,
        "identity",
        roles,
        side,
        "Yale",
        attributes=attributes,
    )


def get_config(arg: str = "") -> ConfigDict:
    """Tables 1 and 3 at the size `arg`; the docstring above lists the sizes."""
    arg = arg or PAPER
    sizes = _sizes()
    if arg not in sizes:
        raise ValueError(f"configs/gnime.py has no size {arg!r}: choose one of {', '.join(sizes)}")
    data, label, network, width, attack_width, seeds, train, attack, game, lam = sizes[arg]
    config = base.inversion(
        unit=f"gnime-{arg}",
        data=data,
        target_label=label,
        attack_label=label,
        model=network | dict(width=width),
        train=train,
        attack_width=attack_width,
        attack_train=attack,
        explanations=explanations(_names(arg)),
        defences=defences(attack_width, attack, game, lam),
        arms=table_1(_names(arg), _releases(arg)),
    )
    config.seeds = seeds
    config.attack.network = NETWORK
    samples = 2 if arg.startswith("runlocal") else 10
    faithfulness = dict(
        deletion={},
        insertion={},
        max_sensitivity=dict(radius=0.02, samples=samples),
    )
    utility = dict(distortion={}, masked_deepsim={}) | (
        faithfulness if len(_names(arg)) > 1 else {}
    )
    config.metrics.explanation = ConfigDict(utility)
    config.report.published = tuple(
        row for row in gnime_published.tables_1_and_3(arg) if row["arm"] in config.arms
    )
    config.defences.gnime.gamma = config_dict.placeholder(
        float
    )  # None, for a number on the command line
    return config


def _releases(arg: str) -> int:
    """From how many releases of an image an attacker learns what noise hides; fewer where maps are
    large.
    """
    if arg.startswith(("celeba", "imagenet100")):
        return 4
    return 16


def _names(arg: str) -> tuple[str, ...]:
    """The explanations of a size; the experiments beyond Table 1 take the first."""
    if arg == "runlocal-gradcam":
        return ("gradcam",)
    return gnime_published.EXPLANATIONS


def explanations(names: tuple[str, ...]) -> ConfigDict:
    """Absolute values scaled to [0,1]; LRP by the paper's rule."""
    rules = {"lrp": dict(rule="gnime")}
    return ConfigDict(
        {name: dict(name=name, normalise="absolute_minmax") | rules.get(name, {}) for name in names}
    )


def defences(
    width: float,
    attack: ConfigDict,
    game: ConfigDict,
    lam: float,
) -> ConfigDict:
    """GNIME, and random and optimised noise of the magnitude that GNIME has on images that the
    defender holds back.

    Random noise leaves the maps' range, as in GNIME's code.
    """
    network = dict(
        network=NETWORK,
        encoder="flatten_unet",
        width=width,
        dtype="float32",
    )
    limits = dict(max_distortion=2.0, max_inverter_error=1.0)
    player = (
        dict(
            name="gnime",
            lam=lam,
            gamma=None,
            inverter_width=width,
            updates="alternating",
            train=game,
        )
        | limits
    )
    optimised = (
        dict(name="pgd", match_distortion_of="gnime", steps=10, step_size=0.25, train=attack)
        | network
    )
    random = dict(name="gaussian", match_distortion_of="gnime", clipped=False)
    return ConfigDict(dict(gnime=player | network, ond=optimised, rnd=random))


def table_1(names: tuple[str, ...], releases: int) -> ConfigDict:
    """Predictions alone, and every explanation without and with each defence, against attackers
    that adapt.

    Noise also against one that learns from several releases of each of its images, and so to see
    through it.
    """
    arms = {"prediction": base.arm("prediction", encoder="none")}
    for name in names:
        arms[name] = base.arm("prediction", name)
        arms |= {f"{name}_{defence}": _by(name, defence) for defence in gnime_published.DEFENCES}
        arms[f"{name}_rnd_{releases}"] = _by(name, "rnd", releases=releases)
    return ConfigDict(arms)


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Table 1, then each further experiment; units share what they have in common."""
    arg = arg or PAPER
    config = config or get_config(arg)
    name = _names(arg)[0]
    known = config.defences.to_dict()
    shared = dict(
        prediction=base.arm("prediction", encoder="none"), bare=base.arm("prediction", name)
    )
    with_gnime = shared | dict(gnime=_by(name, "gnime"))
    bounded = {by: defence for gamma in GAMMAS for by, defence in _bounded(gamma, known).items()}
    asked = {}
    for count in QUERIES:
        asked[f"rnd_queries_{count}"] = _by(
            name,
            "rnd",
            queries=count,
            releases=_releases(arg),
        )
    asked |= {
        f"gnime_queries_{count}": _by(name, "gnime", queries=count)
        for count in (QUERIES[0], QUERIES[-1])
    }
    sigmoid = dict(sigmoid=dict(name="reverse_sigmoid", beta=1.0, gamma=0.1))
    third = {
        "prediction_sigmoid": base.defended(
            "prediction",
            by=("sigmoid",),
            encoder="none",
        )
    }
    third |= {"surrogate": _transferred(name, "surrogate")}
    third |= {
        "surrogate_sigmoid": _transferred(
            name,
            "surrogate_sigmoid",
            "sigmoid",
        )
    }
    extracted = {"report.published": gnime_published.section_6(arg)}
    third |= {"_".join(by): _by(name, *by) for by in (("gnime",), ("gnime", "sigmoid"))}
    units = [
        {"unit": "defences"},
        _unit(
            "gamma",
            with_gnime | _limited(name, bounded, _releases(arg)),
            defences=known | bounded,
        ),
        _unit("queries", shared | asked),
        _unit(
            "reverse-sigmoid",
            shared | third,
            defences=known | sigmoid,
            shadows=_surrogates(config),
            **extracted,
        ),
    ]
    if config.data.auxiliary:
        units += [
            _unit(
                "ood-attacker",
                table_2(_names(arg)),
                **{"report.published": gnime_published.table_2(arg)},
            ),
            _unit("ood-defender", with_gnime, **{"defender.role": "auxiliary"}),
        ]
    attributes = _attributes(arg, config)
    units += [{"unit": "attributes", "attributes": attributes}] if attributes else []
    units += [_unit("logits", with_gnime, **{"attack.rescale": "logits"})]
    units += [
        _unit(
            "deployed",
            with_gnime,
            **{"defences.gnime.width": DEPLOYED * known["gnime"]["width"]},
        )
    ]
    alike = with_gnime | dict(
        ond=_by(name, "ond"),
        rnd=_by(
            name,
            "rnd",
            releases=_releases(arg),
        ),
    )
    return units + [
        _unit(f"lambda-{lam:g}", alike, **{"defences.gnime.lam": lam}) for lam in LAMBDAS
    ]


def _unit(name: str, arms: dict, **changes: object) -> dict:
    return {"unit": name, "arms": ConfigDict(arms).to_dict(), "report.published": (), **changes}


def _bounded(gamma: float, known: dict) -> dict:
    """GNIME within Eq. 3's bound, and noise and optimised noise of the magnitude that leaves it."""
    size = f"{gamma * 1e4:02.0f}e-4"  # in the order of the sizes, also of the names
    bound = f"gamma_{size}"
    return {
        bound: dict(reuse_state_of="gnime", gamma=gamma),
        f"rnd_{size}": known["rnd"] | dict(match_distortion_of=bound),
        f"ond_{size}": dict(reuse_state_of="ond", match_distortion_of=bound),
    }


def _limited(name: str, bounded: dict, releases: int) -> dict:
    """An arm for each of these defences; noise is attacked by one that learns from several
    releases.
    """
    noise = dict(releases=releases)
    found = {}
    for by, known in bounded.items():
        found[by] = _by(
            name,
            by,
            **(noise if known.get("name") == "gaussian" else {}),
        )
    return found


def _by(name: str, *defences: str, queries: int = 1, releases: int = 1) -> ConfigDict:
    """An explanation, defended, against an attacker who adapts.

    It averages `queries` releases of each image, and learns from so many such means of each of its
    own.
    """
    view = dict(defences=defences, queries=queries)
    return base.arm(
        "prediction",
        name,
        train_view=view | dict(releases=releases),
        test_view=view,
    )


def _surrogates(config: ConfigDict) -> dict:
    """Models that an attacker trains on what the target answers, plain or perturbed, about images
    of its own.
    """
    own = config.target.to_dict() | dict(roles=("attack_train",))
    teachers = {"surrogate": (), "surrogate_sigmoid": ("sigmoid",)}
    found = {}
    for name, by in teachers.items():
        found[name] = own | dict(teacher=dict(prediction="target", defences=by))
    return found


def _transferred(name: str, surrogate: str, *defences: str) -> ConfigDict:
    """ExpMI-3: the target releases predictions alone, and the attacker explains a surrogate instead
    (Zhao's rs-CAM).
    """
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
    """Predictions alone, and explanations without and with GNIME, against attackers who have images
    of another kind.
    """
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


def _attributes(arg: str, config: ConfigDict) -> dict:
    """Classifiers of attributes (Figure 6: ResNet-50 V2), trained on images that no attack learns
    from.
    """
    names = {
        "celeba-attributes": CELEBA_ATTRIBUTES,
        "runlocal-yale": ("glasses", "side_light"),
    }.get(arg, ())
    depth, width, stem = (18, 0.125, "small") if arg.startswith("runlocal") else (50, 1.0, "large")
    model = dict(name="resnet", depth=depth, version=2, width=width, stem=stem)
    train = config.target.train.to_dict() | dict(learning_rate=1e-3)
    return {
        name: dict(label=name, roles=("target_train",), model=model, train=train) for name in names
    }
