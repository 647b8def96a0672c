"""Inversion audit of faces: identity in the explanations of an emotion classifier.

    # Yale, emotion -> identity; minutes on two cores (estimate)
    python launch/run.py --config=configs/faces.py:runlocal --workdir=runs/faces
    # ORL, identity -> identity; minutes on two cores (estimate)
    python launch/run.py --config=configs/faces.py:runlocal-orl --workdir=runs/orl
    # Yale at the paper's widths, 128x128; an accelerator
    python launch/run.py --config=configs/faces.py --workdir=runs/faces

The first is the case of Zhao 2021 (Figures 1, 4, 5) on Yale, since iCV-MEFED is not freely
available: 15 people with six emotions, 90 images less exact duplicates: read its intervals. Each
person shows an emotion once, so the target learns no emotions of other people; its predictions
still reveal the person. Published for iCV-MEFED: identity is recognised from Flatten+U-Net
reconstructions far more often than from those of predictions alone.
Expected: at `runlocal` identity is recognised in .20 of the reconstructions from predictions alone,
and in .77 with Gradient x Input; at `runlocal-orl` in .63 and .58 (configs/zhao.md).
Data: yalefaces.tar.xz in $XINV_DATA/yale_faces and att_orl_faces.tar.xz in $XINV_DATA/orl_faces, or
--config.data.source.root=ARCHIVE OR FOLDER.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base, datasets


def sizes() -> dict[str, base.Size]:
    """Returns the three sizes above; "runlocal" ones have a sixteenth of the attack's width."""
    paper_train = _recipe(epochs=300, learning_rate=1e-4)
    paper = base.Size(
        unit="faces-yale",
        data=datasets.yale(128),
        target_label="emotion",
        attack_label="identity",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256, 512),
            hidden=512,
            width=1.0,
        ),
        train=paper_train,
        attack_width=1.0,
        attack_train=paper_train,
    )

    # A higher rate for narrow networks
    yale_train = _recipe(epochs=300, learning_rate=2e-3)
    yale = dataclasses.replace(
        paper,
        data=datasets.yale(64),
        model=paper.model | dict(width=0.125),
        train=yale_train,
        attack_width=0.0625,
        attack_train=yale_train,
    )
    # ORL has no labels of emotions: the target recognises people
    orl_train = _recipe(epochs=60, learning_rate=2e-3)
    orl = dataclasses.replace(
        yale,
        unit="faces-orl",
        data=datasets.orl(64),
        target_label="identity",
        train=orl_train,
        attack_train=orl_train,
    )
    return {"": paper, "runlocal": yale, "runlocal-orl": orl}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the audit at the size `arg`."""
    return base.audit(base.size(sizes(), arg))


def _recipe(**changes: object) -> ConfigDict:
    """Returns a recipe without held-out images: there are too few."""
    return base.recipe(batch_size=16, patience=0, validation=0.0, **changes)
