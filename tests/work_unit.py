"""A synthetic work unit: what `xinv.audit` leaves in a workdir, with figures that a test chooses."""

import json

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SSIM = {
    "prediction": (0.43, 0.44, 0.425),
    "flatten_unet(gradient)": (0.71, 0.72, 0.69),
    "flatten_unet(input_x_gradient)": (0.66, 0.67, 0.655),
    "flatten_unet(gradcam)": (0.44, 0.43, 0.45),
}
METRICS = {
    "mse": lambda s: 0.09 * (1 - s),
    "one_minus_mse": lambda s: 1 - 0.09 * (1 - s),
    "psnr": lambda s: -10 * np.log10(0.09 * (1 - s)),
    "ssim": lambda s: s,
    "attack_accuracy": lambda s: min(1, 0.55 + s / 2),
    "embedding_similarity": lambda s: s**0.5,
    "deepsim": lambda s: 0.6 + s / 3,
}


def make_rows(ssim, name="digits", seeds=3):
    def row(seed, stage, metric, value, arm=None):
        inputs, _, explainer = arm.strip(")").partition("(") if arm else (None, None, None)
        keys = dict(unit=name, seed=seed, stage=stage, arm=arm or stage, inputs=inputs, explainer=explainer or None)
        return keys | dict(metric=metric, value=float(value), examples=360)

    for seed in range(seeds):
        yield row(seed, "target", "accuracy", 0.95 + 0.01 * seed)
        yield row(seed, "evaluation", "accuracy", 0.97 + 0.005 * seed)
        for arm, values in ssim.items():
            for metric, value in METRICS.items():
                yield row(seed, "attack", metric, value(values[seed]), arm)


def make_curves(ssim, seeds=3):
    rng = np.random.default_rng(0)
    stages = [("target", None, 2.0), ("evaluation", None, 2.0)]
    stages += [("attack", arm, 0.3 * (1 - values[0])) for arm, values in ssim.items()]
    for seed in range(seeds):
        for stage, arm, scale in stages:
            for epoch in range(30):
                loss = scale * (0.05 + np.exp(-epoch / 6)) * rng.uniform(0.9, 1.1)
                line = dict(seed=seed, stage=stage, arm=arm or stage, epoch=epoch)
                yield line | dict(loss=loss, validation_loss=loss * 1.15 + scale * 0.02)


def make_examples(ssim, count=6):
    rng = np.random.default_rng(0)
    digits = load_digits()
    small = digits.images[:count] / 16
    images = np.kron(small, np.ones((1, 4, 4)))
    images = gaussian_filter(images, (0, 1, 1))
    arrays = {"images": np.round(255 * images[..., None]).astype(np.uint8), "labels": digits.target[:count]}
    arrays["explanation/gradient"] = abs(images + 0.3 * rng.normal(size=images.shape))[..., None]
    arrays["explanation/input_x_gradient"] = (images * rng.normal(size=images.shape))[..., None]
    arrays["explanation/gradcam"] = gaussian_filter(small, (0, 1, 1))[..., None]
    for arm, values in ssim.items():
        blur = gaussian_filter(images, (0, 5 * (1 - values[0]), 5 * (1 - values[0])))
        noisy = blur + 0.1 * (1 - values[0]) * rng.normal(size=images.shape)
        arrays[f"reconstruction/{arm}"] = noisy.clip(0, 1)[..., None].astype(np.float32)
        arrays[f"ssim/{arm}"] = (values[0] + 0.05 * rng.normal(size=count)).astype(np.float32)
    return arrays


def make_unit(path, ssim=SSIM, name="digits", seeds=3, classes=CLASSES, width=0.125, examples=6):
    """Writes a work unit as `xinv.audit` does."""
    path.mkdir(parents=True)
    write = {
        "config.json": dict(
            unit=name,
            seeds=seeds,
            evaluation=dict(label="digit"),
            target=dict(label="digit", model=dict(name="cnn", width=width)),
            attack=dict(name="decoder", encoders=["none", "flatten_unet"], train=dict(epochs=40, learning_rate=0.002)),
        ),
        "environment.json": dict(python="3.11.7", packages=dict(jax="0.10.2"), devices=["cpu"], seconds=93.1),
        "dataset.json": dict(
            name="digits",
            fingerprint="6f1a0c2b9d3e4f58",
            image_shape=[32, 32, 1],
            labels=dict(digit=list(classes)),
            roles=dict(target_train=898, attack_train=539, attack_test=360),
        ),
    }
    for file, value in write.items():
        (path / file).write_text(json.dumps(value))
    for file, lines in (("rows.jsonl", make_rows(ssim, name, seeds)), ("curves.jsonl", make_curves(ssim, seeds))):
        (path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(path / "examples.npz", **make_examples(ssim, examples))
    return path
