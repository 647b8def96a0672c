"""Inversion audit of faces: what explanations of an emotion classifier give away about identity.

    # Yale: emotion -> identity
    python launch/run.py --config=configs/faces.py:runlocal --workdir=runs/faces
    # ORL: identity -> identity
    python launch/run.py --config=configs/faces.py:runlocal-orl --workdir=runs/orl
    # Yale at the paper's widths, 128x128
    python launch/run.py --config=configs/faces.py --workdir=runs/faces

The first is the case of Zhao 2021 (Figures 1, 4, 5), whose iCV-MEFED is not freely available, on
Yale: 15 people with six emotions, 90 images less exact duplicates: read its intervals. Each person
shows an emotion once, so that the target cannot learn emotions that carry over; its predictions
still give away who is shown. Published for iCV-MEFED: identity is recognised from Flatten+U-Net
reconstructions far more often than from those of predictions alone. configs/zhao.md has the figures
measured here.
Data: yalefaces.tar.xz in $XINV_DATA/yale_faces and att_orl_faces.tar.xz in $XINV_DATA/orl_faces, or
--config.data.source.root=ARCHIVE OR FOLDER.
"""

from ml_collections import ConfigDict

from configs import base, datasets

_SIZES = {
    "": ("yale", "emotion", 300, 1.0, 128),
    "runlocal": ("yale", "emotion", 300, 0.0625, 64),
    "runlocal-orl": ("orl", "identity", 60, 0.0625, 64),
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is "" for the paper's widths, "runlocal" for a sixteenth of them at 64x64,
    "runlocal-orl" for ORL.
    """
    if arg not in _SIZES:
        raise ValueError(
            f"configs/faces.py has no size {arg!r}: choose one of {', '.join(map(repr, _SIZES))}"
        )
    name, target, epochs, width, side = _SIZES[arg]
    rate = 2e-3 if width < 1 else 1e-4
    train = base.recipe(
        batch_size=16,
        epochs=epochs,
        patience=0,
        validation=0.0,
        learning_rate=rate,
    )
    return base.inversion(
        unit=f"faces-{name}",
        data={"yale": datasets.yale, "orl": datasets.orl}[name](side),
        target_label=target,
        attack_label="identity",
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256, 512),
            hidden=512,
            width=max(width, 0.125),
        ),
        train=train,
        attack_width=width,
        attack_train=train,
    )
