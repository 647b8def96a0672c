"""Thielen 2024: reconstructions by a shadow model's gradient, and networks that read them.

The page, configs/thielen.md, has the claim, the measured figures and the open runs.

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
reconstruction, A the shadow's last activations.

The service releases logits, in all tables and figures: the paper's output vectors are those
(Figure 25 ends in a linear layer, Eq. 16 takes its softmax), and rounding and truncation act on
them. `--config.service.prediction=probabilities --config.attack.rescale=logits` releases
probabilities instead, of which the networks read the logarithm.

Expected at `runlocal`, seed 0: SSIM .35 from O, rounded or not, .42 from its 5 largest values, and
.40 from X.
"""

import dataclasses
import itertools

from ml_collections import ConfigDict

from configs import base, datasets, thielen_published

READS = {"O": ("prediction",), "A": ("activations",), "X": ("pixels",)}
"""Inputs of an inversion network, by the paper's letters."""
STARTS = ("random", "class_instance", "class_average")
ACTIVATIONS = ("none", "relu", "sigmoid", "gelu", "silu")
DROPOUTS = (0.0, 0.5)
TRUNCATIONS = (5, 3, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(base.Size):
    """A size, and the effort of gradient reconstructions.

    Attributes:
      steps: of descent.
      trials: of the coarse and of the fine search of weights.
      published: whether the paper's figures are of these images.
    """

    steps: int
    trials: tuple[int, int]
    published: bool


def sizes() -> dict[str, Size]:
    """Returns the sizes of the table above, the paper's MNIST first."""
    paper_train = _recipe(epochs=20)
    paper = Size(
        unit="thielen-mnist",
        data=datasets.idx("mnist", _roles(70_000)),
        target_label="label",
        attack_label="label",
        model=_network(width=1.0),
        train=paper_train,
        attack_width=1.0,
        attack_train=paper_train,
        seeds=5,
        steps=400,
        trials=(20, 10),
        published=True,
    )
    # On two cores: fewer images, narrower networks, a shorter search
    local_train = _recipe(epochs=10)
    local = dataclasses.replace(
        paper,
        unit="thielen-runlocal",
        data=datasets.idx("mnist", _roles(70_000), share=0.2),
        model=_network(width=0.125),
        train=local_train,
        attack_width=0.25,
        attack_train=local_train,
        seeds=3,
        steps=100,
        trials=(6, 3),
    )
    return {
        "mnist": paper,
        "cifar10": dataclasses.replace(
            paper,
            unit="thielen-cifar10",
            data=datasets.cifar10(_roles(60_000)),
            published=False,
        ),
        "runlocal": local,
        "runlocal-cifar10": dataclasses.replace(
            local,
            unit="thielen-runlocal-cifar10",
            # As many images as a fifth of MNIST's, of 5,000
            data=datasets.cifar10_subset(_roles(25_000)),
            published=False,
        ),
    }


def _roles(images: int) -> dict[str, float]:
    """Returns the fractions of a number of images (Section 3.3.1).

    Target and shadow have 10,000 to train on and 1,333 to validate each; 1,333 are reported.
    """
    return dict(
        target_train=11_333 / images,
        attack_train=11_333 / images,
        attack_test=1_333 / images,
    )


def _network(width: float) -> dict:
    """Returns the target network, with 50 features before its last layer.

    `hidden` fits this width: whoever overrides one overrides both.
    """
    return dict(
        name="cnn",
        dtype="float32",
        channels=(128, 256, 512),
        # Multiplied by the width, and so about 50 again
        hidden=round(50 / width),
        width=width,
        norm="batch",
        activation="none",
        dropout=(0.0, 0.5),
    )


def _recipe(epochs: int) -> ConfigDict:
    return base.recipe(
        batch_size=64,
        epochs=epochs,
        learning_rate=1e-3,
        b1=0.9,
        patience=0,
        # 1,333 of 11,333 images
        validation=0.1176,
    )


def get_config(arg: str = "") -> ConfigDict:
    """Returns Tables 2 to 6 at the size `arg`."""
    size = base.size(sizes(), arg)
    # Defences of Tables 5 and 6
    defences = {"rounded": dict(name="round_to", decimals=1)}
    for m in TRUNCATIONS:
        defences[f"top{m}"] = dict(name="truncate", m=m)
    config = base.audit(
        size,
        explanations={},
        defences=defences,
    )
    config.shadows.shadow = config.target.to_dict() | dict(roles=("attack_train",))

    # The paper's inversion network
    config.attack.encoder = "flatten"
    config.attack.network = "dropout_tcnn"
    config.attack.loss = "dssim"
    # The paper's output vectors are logits
    config.service.prediction = "logits"
    # The arms of all tables; equal names are equal arms
    arms = {}
    for of_table in tables(size.steps).values():
        arms |= of_table
    config.arms = ConfigDict(arms)
    config.metrics.image = ConfigDict(dict(ssim=dict(sigma=1.5, window=11), mse={}))
    if size.published:
        config.report.published = thielen_published.PUBLISHED
    return config


def tables(steps: int) -> dict[str, dict[str, ConfigDict]]:
    """Returns the arms of each table, at so many steps of descent.

    X and A are arms too: the inversion networks read their guesses.
    """
    starts = {start: _pixels(steps, start) for start in STARTS}

    # Table 4: each combination of O, A and X
    derived = {
        "pixels": _pixels(steps),
        "activations": _shadowed("prediction", evaluate=False, name="activations"),
    }
    combined = {}
    for count in (1, 2, 3):
        for letters in itertools.combinations("OAX", count):
            inputs = itertools.chain.from_iterable(READS[letter] for letter in letters)
            combined["+".join(letters)] = _inverter(*inputs)

    # Tables 5 and 6: O and X, of full and of defended predictions
    undefended = derived | dict(O=combined["O"], X=combined["X"])
    truncated = {}
    for m in TRUNCATIONS:
        truncated |= _defended(f"top{m}", steps)
    return {
        "3": starts,
        "4": derived | combined,
        "5": undefended | _defended("rounded", steps),
        "6": undefended | truncated,
    }


def _shadowed(
    *inputs: str,
    by: tuple[str, ...] = (),
    answers: str = "target",
    known: str = "shadow",
    evaluate: bool = True,
    **attack: object,
) -> ConfigDict:
    """Returns an arm that learns from the shadow, and may use its weights (`known`).

    Of the private images it sees the predictions of the model `answers`.
    """
    train_view = dict(prediction="shadow", defences=by)
    test_view = dict(prediction=answers, defences=by)
    return base.arm(
        *inputs,
        train_view=train_view,
        test_view=test_view,
        known=known,
        evaluate=evaluate,
        **attack,
    )


def _pixels(steps: int, start: str = "class_average", **views: object) -> ConfigDict:
    """Returns a gradient reconstruction by the paper's weights of L2 and TV."""
    descent = dict(
        name="gradient_reconstruction",
        start=start,
        steps=steps,
        l2=4.43e-5,
        tv=9.49e-3,
    )
    return _shadowed("prediction", **views, **descent)


def _inverter(*inputs: str, by: tuple[str, ...] = ()) -> ConfigDict:
    # Predictions alone hold nothing to encode
    encoder = "none" if inputs == ("prediction",) else "flatten"
    return _shadowed(*inputs, by=by, known="", encoder=encoder)


def _defended(defence: str, steps: int) -> dict[str, ConfigDict]:
    """Returns O and X of defended predictions, by an attacker who knows the defence."""
    return {
        # Not reported itself: the inverter X reads it
        f"pixels_{defence}": _pixels(steps, by=(defence,), evaluate=False),
        f"O_{defence}": _inverter("prediction", by=(defence,)),
        f"X_{defence}": _inverter(f"pixels_{defence}", by=(defence,)),
    }


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns Table 1, a unit per activation and dropout, then a unit per table and Figure 8."""
    del config
    size = base.size(sizes(), arg)
    # Table 1: other targets, without attacks
    units = []
    for activation, dropout in itertools.product(ACTIVATIONS, DROPOUTS):
        published = base.published(
            "Table 1",
            "weighted_f1",
            dict(target=thielen_published.TABLE_1[activation, dropout]),
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

    # Reconstructions
    of_unit = {f"table-{name}": arms for name, arms in tables(size.steps).items()}
    of_unit["table-3-shadow"] = {
        start: _pixels(size.steps, start, answers="shadow") for start in STARTS
    }
    # Figure 8: searched weights beside the paper's own
    searched = _shadowed(
        "prediction",
        name="gradient_reconstruction",
        steps=size.steps,
        search=size.trials,
    )
    of_unit["figure-8"] = dict(class_average=_pixels(size.steps), searched=searched)
    # Published figures are of MNIST alone
    for name, arms in of_unit.items():
        published = thielen_published.UNITS[name]
        units.append(
            {
                "unit": name,
                "arms": ConfigDict(arms).to_dict(),
                "report.published": published if size.published else (),
            }
        )
    return units
