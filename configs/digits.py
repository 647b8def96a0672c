"""Inversion audit of the embedded digits: Prediction only against Flatten+U-Net, 3 seeds.

    # Under 3 minutes on two cores
    python launch/run.py --config=configs/digits.py --workdir=runs/digits
    # The papers' widths, for an accelerator
    python launch/run.py --config=configs/digits.py:full --workdir=runs/full

Expected: SSIM .59 from predictions alone, .76 with Gradient and with Grad-CAM, .85 with
Gradient x Input; 90 % intervals do not overlap with predictions alone.
Data: scikit-learn's 1,797 handwritten digits (8x8), resized to 32x32; no download.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base, datasets

WIDTHS = (0.0625, 0.125, 0.25)
"""Factors on the target's channels in the sweep."""


def sizes() -> dict[str, base.Size]:
    """Returns "" for the quickstart's widths and epochs, "full" for the papers'."""
    small = base.Size(
        unit="digits",
        data=datasets.digits("zhao"),
        target_label="digit",
        attack_label="digit",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=0.125,
        ),
        train=base.recipe(epochs=15, learning_rate=3e-3, batch_size=32),
        attack_width=0.0625,
        attack_train=base.recipe(epochs=12, learning_rate=3e-3, batch_size=32),
    )

    # Zhao's recipe, but for smaller batches: there are 1,797 images
    full = dataclasses.replace(
        small,
        model=small.model | dict(width=1.0),
        train=base.recipe(batch_size=32),
        attack_width=1.0,
        attack_train=base.recipe(batch_size=32),
    )
    return {"": small, "full": full}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    return base.audit(base.size(sizes(), arg))


def sweep(arg: str = "", config: ConfigDict | None = None) -> list[dict]:
    """Returns one unit per width of the target: wide ones may give away more."""
    del arg, config
    units = []
    for width in WIDTHS:
        units.append({"unit": f"digits-width-{width}", "target.model.width": width})
    return units
