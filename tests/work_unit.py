"""A synthetic work unit: a workdir as `xinv.audit` leaves it, with figures of a test."""

import json

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from xinv.audit.describe import NO_ARM
from xinv.metrics import membership

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SSIM = {
    "prediction": (0.43, 0.44, 0.425),
    "flatten_unet(gradient)": (0.71, 0.72, 0.69),
    "flatten_unet(input_x_gradient)": (0.66, 0.67, 0.655),
    "flatten_unet(gradcam)": (0.44, 0.43, 0.45),
}
DEFENDED = SSIM | {
    "flatten_unet(gradient)@rnd": (0.66, 0.68, 0.655),
    "flatten_unet(gradient)@ond": (0.63, 0.635, 0.62),
    "flatten_unet(gradient)@gnime": (0.49, 0.485, 0.48),
    "flatten_unet(input_x_gradient)@rnd": (0.635, 0.645, 0.63),
    "flatten_unet(input_x_gradient)@ond": (0.60, 0.605, 0.61),
    "flatten_unet(input_x_gradient)@gnime": (0.47, 0.48, 0.465),
}
"""The same arms, and defended releases of two explanations."""
DISTORTION = {
    "rnd": (0.0040, 0.0041, 0.0039),
    "ond": (0.0040, 0.0040, 0.0041),
    "gnime": (0.0039, 0.0042, 0.0040),
}
PUBLISHED = [
    dict(arm="prediction", metric="ssim", value=0.4412, spread=0.003, source="Table 1"),
    dict(arm="flatten_unet(gradient)", metric="ssim", value=0.9065, spread=None, source="Table 1"),
    dict(arm="flatten_unet(gradient)", metric="mse", value=0.0051, spread=0.012, source="Table 1"),
    dict(arm="flatten_unet(lrp)", metric="ssim", value=0.9767, spread=None, source="Table 1"),
    dict(arm="target", metric="accuracy", value=0.9, spread=0.01, source="Table II"),
]
METRICS = {
    "mse": lambda s: 0.09 * (1 - s),
    "one_minus_mse": lambda s: 1 - 0.09 * (1 - s),
    "psnr": lambda s: -10 * np.log10(0.09 * (1 - s)),
    "ssim": lambda s: s,
    "attack_accuracy": lambda s: min(1, 0.55 + s / 2),
    "embedding_similarity": lambda s: s**0.5,
    "deepsim": lambda s: 0.6 + s / 3,
}


def describe(arm):
    """What a row says of the arm "<encoder>(<explainer>)@<defence>"."""
    attack, _, defence = arm.partition("@")
    encoder, _, explainer = attack.strip(")").partition("(")
    return dict(
        goal="reconstruction",
        verb="rebuild inputs",
        inputs=f"prediction+{explainer}" if explainer else "prediction",
        encoder=encoder,
        explainer=explainer or None,
        defence=defence or None,
        adaptive=True,
        queries=1,
        releases=1,
        roles="attack_train",
        attack=attack,
        baseline=arm == "prediction",
        control_of=None,
        model="target",
    )


SHIFTS = {
    "saliency": (1.0, 0.0, 0.0),
    "gradcam": (0.6, 0.0, 0.0),
    "lime": (0.8, 0.8, 0.0),
    "occlusion": (0.02, 0.0, 0.0),
    "smoothgrad": (0.15, 0.0, 0.0),
    "gradient": (0.0, 0.0, 0.0),
}
"""By how much members score higher: the attack on the target, the one on an untrained model, and on
a stranger.
"""
MODELS = "target", "untrained", "stranger"


def make_scores(shifts=SHIFTS, seeds=3, members=1200, others=1000):
    """Scores of normal distributions, and who is a member, by seed and arm; controls are
    "<explainer> <model>".
    """
    random = np.random.default_rng(0)
    member = (np.arange(members + others) < members).astype(np.uint8)
    return {
        (seed, explainer if model == "target" else f"{explainer} {model}"): (
            random.normal(size=member.size) + shift * member,
            member,
        )
        for seed in range(seeds)
        for explainer, mine in shifts.items()
        for model, shift in zip(MODELS, mine, strict=False)
        if shift is not None
    }


def make_membership(scores, name="digits", group=None):
    """Rows as the audit computes them from `scores`."""
    metrics = (
        membership.auc(),
        membership.tpr_at_fpr((0.001, 0.01)),
        membership.transferred(),
        membership.epsilon(),
    )
    metrics = *metrics, membership.precision()
    for (seed, arm), (score, member) in scores.items():
        explainer, _, model = arm.partition(" ")
        said = dict(
            inputs=explainer,
            encoder="membership_network",
            explainer=explainer,
            goal="membership",
            verb="tell training images from others",
        )
        said |= dict(
            attack=explainer, control_of=explainer if model else None, model=model or "target"
        )
        about = (
            dict(unit=name, seed=seed, stage="attack", arm=arm)
            | describe(arm)
            | said
            | dict(defence=None)
        )
        for metric in metrics:
            for key, found in metric(member, score, group).items():
                yield about | dict(metric=key, examples=len(member)) | found._asdict()


def make_causes(explainers, name="digits", seeds=3):
    """Properties of maps, the sparser the further up in `explainers`, and what the target learned
    by heart.
    """

    def row(seed, stage, arm, metric, value):
        about = dict(unit=name, seed=seed, stage=stage, arm=arm) | NO_ARM
        return about | dict(metric=metric, value=value, low=None, high=None, p=None, examples=2200)

    for seed in range(seeds):
        yield row(seed, "target", "target", "train_accuracy", 0.998)
        yield row(seed, "target", "target", "generalisation_gap", 0.227)
        for place, explainer in enumerate(explainers):
            gap = 0.1 - 0.01 * place
            yield row(seed, "cause", explainer, "gini_members", 0.5 + gap)
            yield row(seed, "cause", explainer, "gini_others", 0.5)
            yield row(seed, "cause", explainer, "kurtosis_members", 4.1)
            yield row(seed, "cause", explainer, "kurtosis_others", 4.0 + gap)
            yield row(seed, "cause", explainer, "l2_members", 0.00123)
            yield row(seed, "cause", explainer, "l2_others", 0.00456)
            yield row(seed, "cause", explainer, "max_sensitivity_members", 0.3 + 0.1 * (place % 2))
            yield row(seed, "cause", explainer, "max_sensitivity_others", 0.3)


def make_rows(ssim, name="digits", seeds=3, factor=1.0):
    def row(seed, stage, metric, value, arm=None):
        keys = dict(unit=name, seed=seed, stage=stage, arm=arm or stage) | (
            describe(arm) if arm else NO_ARM
        )
        return keys | dict(
            metric=metric, value=float(value), low=None, high=None, p=None, examples=360
        )

    for seed in range(seeds):
        yield row(seed, "target", "accuracy", 0.95 + 0.01 * seed)
        yield row(seed, "evaluation", "accuracy", 0.97 + 0.005 * seed)
        for arm, values in ssim.items():
            if "@" in arm:
                distortion = factor * DISTORTION[arm.partition("@")[2]][seed]
                yield row(seed, "defence", "distortion", distortion, arm)
                yield row(seed, "defence", "masked_deepsim", 1 - 10 * distortion, arm)
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
    arrays = {
        "images": np.round(255 * images[..., None]).astype(np.uint8),
        "labels": digits.target[:count],
    }
    arrays["explanation/gradient"] = abs(images + 0.3 * rng.normal(size=images.shape))[..., None]
    arrays["explanation/input_x_gradient"] = (images * rng.normal(size=images.shape))[..., None]
    arrays["explanation/gradcam"] = gaussian_filter(small, (0, 1, 1))[..., None]
    for arm, values in ssim.items():
        blur = gaussian_filter(images, (0, 5 * (1 - values[0]), 5 * (1 - values[0])))
        noisy = blur + 0.1 * (1 - values[0]) * rng.normal(size=images.shape)
        arrays[f"reconstruction/{arm}"] = noisy.clip(0, 1)[..., None].astype(np.float32)
        arrays[f"ssim/{arm}"] = (values[0] + 0.05 * rng.normal(size=count)).astype(np.float32)
    for arm in ssim:
        if "(" in arm and "@" in arm:
            explained = arrays[f"explanation/{arm.partition('(')[2].partition(')')[0]}"]
            arrays[f"release/{arm}"] = explained + 0.2 * rng.normal(size=explained.shape)
    return arrays


def make_factors(ssim, count=300):
    """Relevance raises SSIM by up to 0.2; typicalness changes nothing; defended arms keep their
    distortions.
    """
    rng = np.random.default_rng(1)
    arrays = {"relevance": rng.uniform(0.1, 0.8, count), "typicalness": rng.uniform(-0.2, 1, count)}
    arrays["target_accuracy"] = (rng.uniform(size=count) < 0.9).astype(np.float32)
    for arm, values in ssim.items():
        arrays[f"ssim/{arm}"] = (
            values[0] + 0.25 * (arrays["relevance"] - 0.45) + 0.05 * rng.normal(size=count)
        )
        arrays[f"attack_accuracy/{arm}"] = (rng.uniform(size=count) < arrays[f"ssim/{arm}"]).astype(
            np.float32
        )
        if "@" in arm:
            arrays[f"distortion/{arm}"] = DISTORTION[arm.partition("@")[2]][0] * rng.gamma(
                6, 1 / 6, count
            )
    return arrays


def make_confusion(classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(0.6, (classes, classes)) + np.diag(rng.integers(24, 38, classes))


def make_unit(
    path,
    ssim=SSIM,
    name="digits",
    seeds=3,
    classes=CLASSES,
    width=0.125,
    examples=6,
    published=(),
    factors=False,
    confusion=0,
    defences=None,
    factor=1.0,
    scores=None,
    positive_control=False,
    group=None,
):
    """Writes a work unit as `xinv.audit` does.

    `scores` of `make_scores` adds membership attacks, with members.npz and causes of leaks; `group`
    their tracks. `factors` adds factors.npz, `confusion` a matrix of so many classes, `factor`
    scales the defences' distortions.
    """
    path.mkdir(parents=True)
    write = {
        "config.json": dict(
            unit=name,
            seeds=seeds,
            evaluation=dict(label="digit"),
            target=dict(label="digit", model=dict(name="cnn", width=width)),
            attack=dict(
                name="decoder",
                encoders=["none", "flatten_unet"],
                train=dict(epochs=40, learning_rate=0.002),
            ),
            defences=defences
            or dict(
                rnd=dict(name="gaussian"), ond=dict(name="pgd"), gnime=dict(name="gnime", lam=100.0)
            ),
            report=dict(
                examples=examples, published=list(published), positive_control=positive_control
            ),
            data=dict(roles=dict(group=["track"] if group is not None else None)),
        ),
        "environment.json": dict(
            python="3.11.7", packages=dict(jax="0.10.2"), devices=["cpu"], seconds=93.1
        ),
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
    rows = list(make_rows(ssim, name, seeds, factor))
    if scores:
        explainers = dict.fromkeys(arm.partition(" ")[0] for _, arm in scores)
        rows += [*make_membership(scores, name, group), *make_causes(explainers, name, seeds)]
        kinds = {f"{seed}/{arm}": of for (seed, arm), of in scores.items()}
        found = {f"{key}/score": score for key, (score, _) in kinds.items()}
        found |= {f"{key}/member": member for key, (_, member) in kinds.items()}
        if group is not None:
            found |= {f"{key}/group": group for key in kinds}
        np.savez(path / "members.npz", **found)
    for file, lines in (("rows.jsonl", rows), ("curves.jsonl", make_curves(ssim, seeds))):
        (path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    arrays = make_examples(ssim, examples)
    for explainer in dict.fromkeys(row["explainer"] for row in rows if row["goal"] == "membership"):
        arrays.setdefault(f"explanation/{explainer}", arrays["explanation/gradient"])
    np.savez(
        path / "examples.npz",
        **arrays | ({"confusion/target": make_confusion(confusion)} if confusion else {}),
    )
    if factors:
        np.savez(path / "factors.npz", **make_factors(ssim))
    return path
