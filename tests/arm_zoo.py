"""One unit of every kind of arm at a small size, and what its run leaves, shared by the tests of
arms.
"""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from xinv import audit, store

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, datasets  # noqa: E402

TRAIN = dict(epochs=1, patience=0, batch_size=64, learning_rate=2e-3)
NETWORK = dict(
    name="cnn", dtype="float32", channels=(128, 256), hidden=512, width=0.03125, norm="none"
)
INVERTER = dict(network="decoder", loss="mse", rescale="none", width=0.015625, dtype="float32")


def unit(arms, **sections):
    """Digits at 16x16 with a surrogate, a jointly trained target, two defences and other digits as
    auxiliary images.
    """
    data = datasets.section(dict(name="digits"), "digit", datasets.DEFENDED, resize=(16, 16))
    few, many = (str(digit) for digit in range(5)), (str(digit) for digit in range(5, 10))
    data["transform"]["classes"] = ("digit", tuple(few))
    others = datasets.section(dict(name="digits"), "digit", dict(others=0.5), resize=(16, 16))
    others["transform"]["classes"] = ("digit", tuple(many))
    del others["auxiliary"]
    config = base.inversion(
        unit="arms",
        data=data | dict(auxiliary=others),
        target_label="digit",
        attack_label="digit",
        model=NETWORK,
        train=base.recipe(**TRAIN),
        attack_width=0.015625,
        attack_train=base.recipe(**TRAIN),
        explanations=ConfigDict({"gradient": dict(name="gradient", normalise="absolute_minmax")}),
    )
    config.seeds, config.attack.encoder = 1, "flatten"
    config.arms = ConfigDict(arms)
    soft_labels = dict(roles=("others",), teacher=dict(prediction="target", defences=("top2",)))
    config.shadows = ConfigDict(
        dict(
            surrogate=dict(config.target) | dict(roles=("attack_train",)),
            distilled=dict(config.target) | soft_labels,
        )
    )
    gnime = dict(
        name="gnime",
        lam=10.0,
        max_distortion=100.0,
        max_inverter_error=100.0,
        network="decoder",
        encoder="flatten",
        width=0.015625,
        inverter_width=0.015625,
        train=base.recipe(**TRAIN, validation=0.0),
    )
    config.defences = ConfigDict(
        dict(
            gnime=gnime,
            bounded=dict(reuse_state_of="gnime", gamma=1e-4),
            rnd=dict(name="gaussian", match_distortion_of="gnime"),
            top2=dict(name="truncate", m=2),
        )
    )
    config.report.examples = 2
    for name, section in sections.items():
        config[name] = ConfigDict(section) if isinstance(section, dict) else section
    return config.to_dict()


def run(config, workdir):
    with store.opened(workdir / "stages") as stages:
        return audit.run(config, workdir, stages)


def stages(workdir, name):
    return sorted((workdir / "stages").glob(f"{name}-*"))


def values(rows, arm, metric, stage="attack"):
    return [
        row["value"]
        for row in rows
        if (row["stage"], row["arm"], row["metric"]) == (stage, arm, metric)
    ]


TRUNCATED = dict(defences=("top2",))
ARMS = {
    "prediction": base.arm("prediction", encoder="none"),
    "baseline": base.arm("prediction", encoder="none", test_view=TRUNCATED),
    "aligned": base.arm("prediction", encoder="none", train_view=TRUNCATED, test_view=TRUNCATED),
    "gradient": base.arm("prediction", "gradient"),
    "gnime": base.defended("prediction", "gradient", by=("gnime",)),
    "rnd": base.defended("prediction", "gradient", by=("rnd",)),
    "bounded": base.defended("prediction", "gradient", by=("bounded",)),
    "both": base.defended("prediction", "gradient", by=("gnime", "top2")),
    "averaged": base.arm(
        "prediction",
        "gradient",
        train_view=dict(defences=("rnd",)),
        test_view=dict(defences=("rnd",), queries=64),
    ),
    "releases": base.arm(
        "prediction",
        "gradient",
        train_view=dict(defences=("rnd",), releases=3),
        test_view=dict(defences=("rnd",)),
    ),
    "chained": base.arm(
        "prediction",
        "gradient",
        train_view=dict(defences=("rnd", "top2"), releases=2),
        test_view=dict(defences=("rnd", "top2"), queries=8),
    ),
    "surrogate": base.arm(
        "prediction",
        "gradient",
        train_view=dict(explanation="surrogate"),
        test_view=dict(explanation="none"),
        name="attention_transfer",
        encoder="flatten",
        weight=1.0,
        **INVERTER,
    ),
    "others": base.arm("prediction", encoder="none", train_view=dict(roles=("others",))),
    "more": base.arm(
        "prediction", encoder="none", train_view=dict(roles=("attack_train", "others"))
    ),
    "classes": base.arm("prediction", name="class_inference", **INVERTER),
    "pixels": base.arm(
        "prediction",
        train_view=dict(prediction="surrogate"),
        known="surrogate",
        name="gradient_reconstruction",
        steps=3,
    ),
    "activations": base.arm(
        "prediction",
        train_view=dict(prediction="surrogate"),
        known="surrogate",
        evaluate=False,
        name="activations",
    ),
    "reads": base.arm(
        "pixels", "activations", train_view=dict(prediction="surrogate"), encoder="flatten"
    ),
    "class_image": base.arm("prediction", known="target", name="fredrikson"),
    "preimage": base.arm("prediction", known="target", name="preimage", steps=3),
    "searched": base.arm(
        "prediction",
        train_view=dict(prediction="surrogate"),
        known="surrogate",
        name="gradient_reconstruction",
        steps=2,
        search=(2, 1),
    ),
}
