"""Inversion audit of MNIST: Prediction only against Flatten+U-Net (Zhao 2021, Figure 5).

    # The paper's setting; an accelerator
    python launch/run.py --config=configs/mnist.py --workdir=runs/mnist
    # Some minutes on two cores
    python launch/run.py --config=configs/mnist.py:runlocal --workdir=runs/mnist

Published: explanations raise every similarity (Zhao 2021, Section 4.3.3). By the same attack with
other widths SSIM is .5542 from predictions, .9065 with Gradient, .9613 with Grad-CAM (Jeong 2022,
Table 1). configs/zhao.md has the figures measured here.
Data: the four idx files of MNIST in $XINV_DATA/mnist, or --config.data.source.root=FOLDER.
"""

from ml_collections import ConfigDict

from configs import base, datasets


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "" for the paper's widths and all images, or "runlocal" for a tenth of them."""
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/mnist.py has no size {arg!r}: choose one of '', 'runlocal'")
    local = arg == "runlocal"
    width, attack_width, share = (0.125, 0.0625, 0.1) if local else (1.0, 1.0, 1.0)
    if local:
        rate = dict(learning_rate=2e-3, epochs=12)
    else:
        rate = dict(learning_rate=1e-4, epochs=100)
    return base.inversion(
        unit="mnist",
        data=datasets.idx("mnist", datasets.HALVES, share),
        target_label="label",
        attack_label="label",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=width,
        ),
        train=base.recipe(**rate),
        attack_width=attack_width,
        attack_train=base.recipe(**rate),
    )
