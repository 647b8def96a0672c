"""Inversion audit of the embedded digits: Prediction only against Flatten+U-Net, 3 seeds.

    # Under 3 minutes on two cores
    python launch/run.py --config=configs/digits.py --workdir=runs/digits
    # The papers' widths, for an accelerator
    python launch/run.py --config=configs/digits.py:full --workdir=runs/full

Expected: SSIM of each of the three explanations above that of predictions alone, with 90 %
intervals that do not overlap (figures in README.md).
Data: scikit-learn's 1,797 handwritten digits (8x8), resized to 32x32; no download.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "" for widths and epochs that fit the quickstart, or "full" for the papers'."""
    sizes = {"": (0.125, 0.0625, 15, 12), "full": (1.0, 1.0, 100, 100)}
    if arg not in sizes:
        raise ValueError(f"configs/digits.py has no size {arg!r}: choose one of '', 'full'")
    target_width, attack_width, target_epochs, attack_epochs = sizes[arg]
    rate = 1e-4 if arg == "full" else 3e-3
    return base.inversion(
        unit="digits",
        data=dict(
            auxiliary={},
            source=dict(name="digits"),
            transform=dict(crop=None, resize=(32, 32), grayscale=False),
            roles=dict(roles="zhao", stratify="digit", balance=None),
        ),
        target_label="digit",
        attack_label="digit",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=target_width,
        ),
        train=base.recipe(epochs=target_epochs, learning_rate=rate, batch_size=32),
        attack_width=attack_width,
        attack_train=base.recipe(
            epochs=attack_epochs,
            learning_rate=rate,
            batch_size=32,
        ),
    )


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """The target's width against what its explanations give away."""
    del arg, config
    found = []
    for width in (0.0625, 0.125, 0.25):
        found.append({"unit": f"digits-width-{width}", "target.model.width": width})
    return found
