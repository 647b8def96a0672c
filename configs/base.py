"""What the experiments share: a complete training configuration and the inversion audit's skeleton."""

import os

from ml_collections import ConfigDict


def data_root(folder: str) -> str:
    """Where a data set is looked for: below $XINV_DATA, or ./data where that is unset."""
    return os.path.join(os.environ.get("XINV_DATA", "data"), folder)


def recipe(**changes: object) -> ConfigDict:
    """A training configuration, complete: the papers' Adam (Zhao 2021, Section 4.1) unless changed."""
    return ConfigDict(
        dict(
            batch_size=64,
            epochs=100,
            optimizer="adam",
            learning_rate=1e-4,
            b1=0.5,
            b2=0.999,
            weight_decay=0.0,
            schedule="constant",
            warmup_epochs=0.0,
            patience=10,
            validation=0.1,
            augment=(),
            crop_padding=4,
        )
        | changes
    )


def explanations(**changes: object) -> ConfigDict:
    """The explanations of Zhao 2021 that every target has, each scaled to [0,1] per example (GNIME's scaling)."""
    names = ("gradient", "input_x_gradient", "gradcam")
    return ConfigDict({name: dict(name=name, normalise="absolute_minmax") | changes for name in names})


def metrics(sigma: float = 1.5, window: int = 11) -> ConfigDict:
    """Zhao 2021, Section 4.2, and GNIME's DeePSiM, grouped by what the truth of a reconstruction is."""
    return ConfigDict(
        dict(
            image=dict(
                mse={},
                one_minus_mse={},
                psnr={},
                ssim=dict(sigma=sigma, window=window),
                embedding_similarity={},
                deepsim={},
            ),
            label=dict(attack_accuracy={}),
        )
    )


def inversion(
    *,
    unit: str,
    data: dict,
    target_label: str,
    attack_label: str,
    model: dict,
    train: ConfigDict,
    attack_width: float,
    attack_train: ConfigDict,
    sigma: float = 1.5,
) -> ConfigDict:
    """An inversion audit: what each explanation adds to predictions alone.

    The target is trained for `target_label`; recognition is judged for `attack_label` by an evaluation model of the
    same architecture, initialised independently and trained on originals that the reported role does not contain.
    """
    return ConfigDict(
        dict(
            unit=unit,
            seed=0,
            seeds=3,
            data=data,
            target=dict(label=target_label, roles=("target_train",), model=model, train=train),
            evaluation=dict(label=attack_label, roles=("target_train", "attack_train"), model=model, train=train),
            explanations=explanations(),
            attack=dict(
                name="decoder",
                encoders=("none", "flatten_unet"),
                loss="mse",
                width=attack_width,
                dtype="float32",
                train=attack_train,
            ),
            metrics=metrics(sigma),
            report=dict(examples=12),
        )
    )
