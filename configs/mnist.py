"""Inversion audit of MNIST: Prediction only against Flatten+U-Net (Zhao 2021, Figure 5).

    # The paper's setting; an accelerator
    python launch/run.py --config=configs/mnist.py --workdir=runs/mnist
    # Some minutes on two cores
    python launch/run.py --config=configs/mnist.py:runlocal --workdir=runs/mnist

Expected at `runlocal`: SSIM .31 from predictions alone, .66 with Gradient, .70 with Grad-CAM, .84
with Gradient x Input (configs/zhao.md). Published: explanations raise every similarity (Zhao 2021,
Section 4.3.3); by the same attack with other widths .5542 from predictions, .9065 with Gradient,
.9613 with Grad-CAM (Jeong 2022, Table 1).
Data: the four idx files of MNIST in $XINV_DATA/mnist, or --config.data.source.root=FOLDER.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base, datasets


def sizes() -> dict[str, base.Size]:
    """Returns "" for the paper's widths and all images, "runlocal" for a tenth of the images."""
    paper = base.Size(
        unit="mnist",
        data=datasets.idx("mnist", datasets.HALVES),
        target_label="label",
        attack_label="label",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=1.0,
        ),
        train=base.recipe(),
        attack_width=1.0,
        attack_train=base.recipe(),
    )

    # Fewer epochs at a higher rate
    local = dataclasses.replace(
        paper,
        data=datasets.idx("mnist", datasets.HALVES, share=0.1),
        model=paper.model | dict(width=0.125),
        train=base.recipe(learning_rate=2e-3, epochs=12),
        attack_width=0.0625,
        attack_train=base.recipe(learning_rate=2e-3, epochs=12),
    )
    return {"": paper, "runlocal": local}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    return base.audit(base.size(sizes(), arg))
