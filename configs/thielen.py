"""Thielen 2024: reconstructions by a shadow model's gradient, and networks that read them.

The page is configs/thielen.md: the claim, what was measured, what was never run.

    # Tables 2 to 6
    python launch/run.py --config=configs/thielen.py:SIZE --workdir=runs/thielen
    # Every table and Figure 8
    python launch/sweep.py --config=configs/thielen.py:SIZE --workdir=runs/thielen-tables

| SIZE | data | cost of the sweep |
|---|---|---|
| runlocal | a fifth of those images, 3 seeds | two cores, an hour (estimate) |
| runlocal-cifar10 | the 5,000-image subset, in colour, 3 seeds | two cores, an hour (estimate) |
| mnist (or none) | 20,000 + 4,000 images, 5 seeds | an accelerator, an hour (estimate) |
| cifar10 | as many images of CIFAR-10 | an accelerator, an hour (estimate) |

`mnist` is the paper's setting; the paper leaves CIFAR-10 to future work. `runlocal` has an eighth
of the classifiers' and a quarter of the inverters' widths.

| unit | settings |
|---|---|
| table-1-… | the target's activation and dropout |
| table-3 to table-6 | starts, inputs, rounding, truncation; target and shadow of Table 2 |
| table-3-shadow | the starts on the shadow's answers, the "shadow validation set" |
| figure-8 | the search of the weights of L2 and TV (Section 5.1), beside the paper's own |

The attacker holds a shadow of the target, trained on images of its own (attack_train), and learns
from the shadow's answers; of the private images it sees the target's. X is a gradient
reconstruction, A the shadow's last activations. The paper's output vectors are logits (Figure 25
ends in a linear layer, Eq. 16 takes its softmax). A service releases probabilities; the networks
read their logarithm, which is the logits up to the constant that is hidden.

Expected at `runlocal`: SSIM .37 from O, .41 from X, .45 from O, A and X together.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base, datasets

PAPER = "mnist"
"""The size where none is named."""

READS = {"O": ("prediction",), "A": ("activations",), "X": ("pixels",)}
STARTS = ("random", "class_instance", "class_average")
ACTIVATIONS = ("none", "relu", "sigmoid", "gelu", "silu")


class Size(NamedTuple):
    """What a size decides.

    Attributes:
      read: `(roles) -> data section`.
      images: that the paper's numbers of images are taken of.
      widths: factors on the channels of classifiers and of inverters.
      epochs: of every training.
      seeds: runs.
      steps: of descent.
      trials: coarse and fine ones of the search.
      published: whether the paper's figures are of these images.
    """

    read: Callable[..., dict]
    images: int
    widths: tuple[float, float]
    epochs: int
    seeds: int
    steps: int
    trials: tuple[int, int]
    published: bool = True


_LOCAL = dict(widths=(0.125, 0.25), epochs=10, seeds=3, steps=100, trials=(6, 3))
_FULL = dict(widths=(1.0, 1.0), epochs=20, seeds=5, steps=400, trials=(20, 10))
_MNIST = functools.partial(datasets.idx, "mnist")
_SIZES = {
    "runlocal": Size(functools.partial(_MNIST, share=0.2), 70_000, **_LOCAL),
    "runlocal-cifar10": Size(
        datasets.cifar10_subset,
        25_000,
        **_LOCAL,
        published=False,
    ),
    "mnist": Size(_MNIST, 70_000, **_FULL),
    "cifar10": Size(datasets.cifar10, 60_000, **_FULL, published=False),
}


def get_config(arg: str = "") -> ConfigDict:
    """Tables 2 to 6 at the size `arg`; the docstring above lists the sizes."""
    arg = arg or PAPER
    if arg not in _SIZES:
        raise ValueError(
            f"configs/thielen.py has no size {arg!r}: choose one of {', '.join(_SIZES)}"
        )
    size = _SIZES[arg]
    width, attack_width = size.widths
    # 10,000 to train on and 1,333 to validate, each of two; 1,333 are reported (Section 3.3.1)
    used = 11_333 / size.images
    roles = dict(
        target_train=used,
        attack_train=used,
        attack_test=1_333 / size.images,
    )
    layers = dict(channels=(128, 256, 512), hidden=round(50 / width))  # 50 activations at any width
    network = layers | dict(norm="batch", activation="none", dropout=(0.0, 0.5))
    train = base.recipe(
        batch_size=64,
        epochs=size.epochs,
        learning_rate=1e-3,
        b1=0.9,
        patience=0,
        validation=0.1176,
    )
    config = base.inversion(
        unit=f"thielen-{arg}",
        data=size.read(roles),
        target_label="label",
        attack_label="label",
        model=dict(name="cnn", dtype="float32", width=width) | network,
        train=train,
        attack_width=attack_width,
        attack_train=train,
        explanations=ConfigDict(),
        defences=ConfigDict(
            {"rounded": dict(name="round_to", decimals=1)}
            | {f"top{k}": dict(name="truncate", m=k) for k in (5, 3, 1)}
        ),
    )
    config.seeds = size.seeds
    config.attack.encoder, config.attack.network, config.attack.loss = (
        "flatten",
        "dropout_tcnn",
        "dssim",
    )
    config.attack.rescale = "logits"
    config.shadows = ConfigDict(
        dict(shadow=config.target.to_dict() | dict(roles=("attack_train",)))
    )
    config.metrics.image = ConfigDict(dict(ssim=dict(sigma=1.5, window=11), mse={}))
    config.arms = ConfigDict(
        {name: arm for arms in tables(size.steps).values() for name, arm in arms.items()}
    )
    config.report.published = PUBLISHED if size.published else ()
    return config


def tables(steps: int) -> dict[str, dict[str, ConfigDict]]:
    """The arms of each table; X and A are arms too, whose guesses the inversion networks read."""
    derived = {
        "pixels": _pixels(steps),
        "activations": _shadowed("prediction", evaluate=False, name="activations"),
    }
    starts = {start: _pixels(steps, start) for start in STARTS}
    sets = [part for count in (1, 2, 3) for part in itertools.combinations("OAX", count)]
    combined = {}
    for part in sets:
        combined["+".join(part)] = _inverter(*(name for one in part for name in READS[one]))
    rounded = _defended("rounded", steps)
    truncated = {name: arm for k in (5, 3, 1) for name, arm in _defended(f"top{k}", steps).items()}
    basis = {name: combined[name] for name in ("O", "X")}
    return {
        "3": starts,
        "4": derived | combined,
        "5": derived | basis | rounded,
        "6": derived | basis | truncated,
    }


def _shadowed(
    *inputs: str,
    by: tuple[str, ...] = (),
    answers: str = "target",
    evaluate: bool = True,
    **attack: object,
) -> ConfigDict:
    """Learns from the shadow, whose weights it has, and sees what the model `answers` says of the
    private images.
    """
    train_view = dict(prediction="shadow", defences=by)
    test_view = dict(prediction=answers, defences=by)
    return base.arm(
        *inputs,
        train_view=train_view,
        test_view=test_view,
        known="shadow",
        evaluate=evaluate,
        **attack,
    )


def _pixels(steps: int, start: str = "class_average", **views: object) -> ConfigDict:
    descent = dict(
        name="gradient_reconstruction",
        start=start,
        steps=steps,
        l2=4.43e-5,
        tv=9.49e-3,
    )
    return _shadowed("prediction", **views, **descent)


def _inverter(*inputs: str, by: tuple[str, ...] = ()) -> ConfigDict:
    return _shadowed(
        *inputs,
        by=by,
        encoder="none" if inputs == ("prediction",) else "flatten",
    )


def _defended(defence: str, steps: int) -> dict[str, ConfigDict]:
    """O and X where the service releases less of its predictions, and the attacker knows."""
    return {
        f"pixels_{defence}": _pixels(steps, by=(defence,), evaluate=False),
        f"O_{defence}": _inverter("prediction", by=(defence,)),
        f"X_{defence}": _inverter(f"pixels_{defence}", by=(defence,)),
    }


def _table(source: str, ssim: dict, mse: dict) -> tuple[dict, ...]:
    return base.published(source, "ssim", ssim) + base.published(source, "mse", mse)


PUBLISHED = (
    base.published("Table 2", "weighted_f1", dict(target=0.9856, shadow=0.9866))
    + _table(
        "Table 3",
        dict(
            random=(0.0417, 0.0065),
            class_instance=(0.1846, 0.0141),
            class_average=(0.2409, 0.0068),
        ),
        dict(
            random=(0.1136, 0.0047),
            class_instance=(0.0778, 0.0084),
            class_average=(0.0672, 0.0021),
        ),
    )
    + _table(
        "Table 4",
        {
            "O": (0.2298, 0.0041),
            "A": (0.1218, 0.0043),
            "X": (0.3727, 0.0030),
            "O+A": (0.1619, 0.0027),
            "O+X": (0.2467, 0.0013),
            "A+X": (0.1822, 0.0051),
            "O+A+X": (0.2194, 0.0016),
        },
        {
            "O": (0.0966, 0.0011),
            "A": (0.1077, 0.0014),
            "X": (0.0649, 0.0009),
            "O+A": (0.1055, 0.0016),
            "O+X": (0.0904, 0.0013),
            "A+X": (0.0961, 0.0012),
            "O+A+X": (0.0927, 0.0011),
        },
    )
    + _table(
        "Table 5",
        dict(
            O=(0.2287, 0.0031),
            X=(0.3720, 0.0043),
            O_rounded=(0.2295, 0.0025),
            X_rounded=(0.3716, 0.0060),
        ),
        dict(
            O=(0.0977, 0.0012),
            X=(0.0659, 0.0005),
            O_rounded=(0.0965, 0.0015),
            X_rounded=(0.0658, 0.0013),
        ),
    )
    + _table(
        "Table 6",
        dict(
            O=(0.2538, 0.0025),
            O_top5=(0.3895, 0.0024),
            O_top3=(0.4092, 0.0018),
            O_top1=(0.4135, 0.0013),
            X=(0.3747, 0.0015),
            X_top5=(0.4084, 0.0014),
            X_top3=(0.4172, 0.0027),
            X_top1=(0.4296, 0.0017),
        ),
        dict(
            O=(0.0952, 0.0003),
            O_top5=(0.0604, 0.0008),
            O_top3=(0.0580, 0.0007),
            O_top1=(0.0569, 0.0004),
            X=(0.0649, 0.0006),
            X_top5=(0.0588, 0.0003),
            X_top3=(0.0572, 0.0005),
            X_top1=(0.0548, 0.0005),
        ),
    )
)

TABLE_1 = {
    ("none", 0.0): (0.9838, 0.0027),
    ("none", 0.5): (0.9865, 0.0019),
    ("relu", 0.0): (0.9750, 0.0114),
    ("relu", 0.5): (0.7113, 0.3255),
    ("sigmoid", 0.0): (0.9851, 0.0030),
    ("sigmoid", 0.5): (0.8829, 0.1553),
    ("gelu", 0.0): (0.9826, 0.0061),
    ("gelu", 0.5): (0.8918, 0.0909),
    ("silu", 0.0): (0.9770, 0.0081),
    ("silu", 0.5): (0.8714, 0.1602),
}
"""Weighted F1 of the target, per activation and dropout between its dense layers."""


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Table 1, a unit per activation and dropout, then a unit per table of reconstructions."""
    del config
    size = _SIZES[arg or PAPER]
    units = []
    for activation, dropout in itertools.product(ACTIVATIONS, (0.0, 0.5)):
        published = base.published(
            "Table 1",
            "weighted_f1",
            dict(target=TABLE_1[activation, dropout]),
        )
        units.append(
            {
                "unit": f"table-1-{activation}-{dropout:g}",
                "target.model.activation": activation,
                "target.model.dropout": (0.0, dropout),
                "arms": {},
                "report.published": published if size.published else (),
            }
        )
    searched = _shadowed(
        "prediction",
        name="gradient_reconstruction",
        steps=size.steps,
        search=size.trials,
    )
    further = {
        "table-3-shadow": {start: _pixels(size.steps, start, answers="shadow") for start in STARTS},
        "figure-8": dict(class_average=_pixels(size.steps), searched=searched),
    }
    tabled = {f"table-{name}": arms for name, arms in tables(size.steps).items()}
    for name, arms in (tabled | further).items():
        published = _PUBLISHED_IN[name] if size.published else ()
        units.append(
            {"unit": name, "arms": ConfigDict(arms).to_dict(), "report.published": published}
        )
    return units


_PUBLISHED_IN = {
    f"table-{number}": tuple(row for row in PUBLISHED if row["source"] == f"Table {number}")
    for number in range(2, 7)
}
_PUBLISHED_IN["figure-8"] = tuple(
    row for row in _PUBLISHED_IN["table-3"] if row["arm"] == "class_average"
)
_PUBLISHED_IN["table-3-shadow"] = _PUBLISHED_IN["table-2"] + _table(
    "Table 3, shadow validation set",
    dict(
        random=(0.0536, 0.0081),
        class_instance=(0.2476, 0.0138),
        class_average=(0.3014, 0.0079),
    ),
    dict(
        random=(0.1032, 0.0042),
        class_instance=(0.0687, 0.0078),
        class_average=(0.0601, 0.0037),
    ),
)
