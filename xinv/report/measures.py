"""How a metric is shown: its label, its decimals, and which way the leak grows."""

from typing import NamedTuple


class Measure(NamedTuple):
    """What a reader needs to know of a metric.

    Attributes:
      label: the column's heading.
      leak: +1 where a higher value means that the attacker recovers more, −1 where it means less, 0 where unknown.
      digits: decimals shown.
      meaning: one sentence.
      chance: what guessing gives; None where that depends on the data.
      of: what is compared.
      verbs: what an attacker does who is judged by it: "lets an attacker …", "an attacker …".
      intact: what an explanation released as it is has by definition; None where that must be measured.
    """

    label: str
    leak: int = 0
    digits: int = 3
    meaning: str = ""
    intact: float | None = None
    chance: float | None = None
    of: str = "reconstructions against originals"
    verbs: tuple[str, str] = ("rebuild inputs", "rebuilds inputs")


_MEASURES = {
    "ssim": Measure("SSIM", 1, 3, "Structural similarity of original and reconstruction; 1 for equal images."),
    "mse": Measure("MSE", -1, 4, "Mean squared error per pixel, on a scale of 0 to 1; 0 for equal images."),
    "one_minus_mse": Measure("1 − MSE", 1, 4, "Pixelwise similarity; 1 for equal images."),
    "psnr": Measure("PSNR, dB", 1, 2, "Peak signal-to-noise ratio in decibels; 100 stands for equal images."),
    "attack_accuracy": Measure(
        "Attack accuracy",
        1,
        3,
        "Share of reconstructions in which an independent evaluation model recognises the true class.",
    ),
    "embedding_similarity": Measure(
        "Embedding similarity",
        1,
        3,
        "exp(−MSE) between the evaluation model's features of original and reconstruction; 1 for equal features.",
    ),
    "deepsim": Measure(
        "DeePSiM",
        1,
        3,
        "Cosine between the evaluation model's features of original and reconstruction; 1 for equal features.",
    ),
    "auc": Measure(
        "AUC",
        1,
        3,
        "Probability that a training image gets a higher score than another image; 0.5 for guessing.",
        chance=0.5,
        of="scores of training images and of others, where guessing gives 0.5",
        verbs=("tell training images from others", "tells training images from others"),
    ),
    "tpr_at_fpr": Measure(
        "TPR at a low FPR", 1, 3, "Share of training images that are recognised at the configured false-positive rate."
    ),
    "accuracy": Measure("Accuracy", 0, 3, "Share of test images that the model classifies correctly."),
    "distortion": Measure(
        "Distortion, MSE",
        0,
        4,
        "Mean squared difference between an explanation and its defended release; 0 for an unchanged one.",
        0.0,
    ),
    "held_out_distortion": Measure(
        "Held-out distortion",
        0,
        4,
        "Distortion on images that the defender holds back; 0 for an unchanged release.",
        0.0,
    ),
    "masked_deepsim": Measure(
        "Masked DeePSiM",
        0,
        3,
        "DeePSiM of the image times its explanation against the image times the release; 1 for an unchanged one.",
        1.0,
    ),
    "spearman": Measure(
        "Rank correlation",
        0,
        3,
        "Spearman's correlation of an explanation with its release; 1 for an unchanged one.",
        1.0,
    ),
    "top_overlap": Measure(
        "Top overlap",
        0,
        3,
        "Intersection over union of the most important pixels of explanation and release; 1 for an unchanged one.",
        1.0,
    ),
    "deletion": Measure(
        "Deletion", 0, 3, "Area under the class's probability as the released map's top pixels go; small if faithful."
    ),
    "insertion": Measure(
        "Insertion",
        0,
        3,
        "Area under the class's probability as the released map's top pixels come; large if faithful.",
    ),
    "max_sensitivity": Measure(
        "Max sensitivity", 0, 3, "Largest relative change of the release under a small change of the image; 0 for none."
    ),
    "prediction_distortion": Measure(
        "Prediction distortion", 0, 4, "Mean squared change of probabilities, on images that the defender holds back."
    ),
    "queries_to_halve_distortion": Measure(
        "Queries withstood", 0, 1, "Releases of one image whose mean has lost half the distortion; none: any number."
    ),
    "diverged": Measure(
        "Diverged", 0, 2, "Share of seeds whose training diverged; there an earlier epoch is deployed."
    ),
    "f1": Measure("F1", 0, 3, "A classifier's F1 of an attribute's presence on originals."),
    "weighted_f1": Measure(
        "Weighted F1", 0, 3, "A classifier's F1 per class on originals, weighted by the classes' sizes."
    ),
}


def measure(metric: str) -> Measure:
    """How `metric` is shown; one without an entry gets its own name and no direction."""
    if metric.startswith("f1_"):
        name = plain(metric.removeprefix("f1_"))
        return Measure(f"F1 of {name}", 1, 3, f"F1 of what a classifier of {name} says of reconstructions.")
    return _MEASURES.get(metric, Measure(plain(metric)))


def plain(name: str) -> str:
    """A plug-in's name as words: `input_x_gradient` is "input x gradient", `gradient+gradcam` "gradient + gradcam"."""
    return name.replace("_", " ").replace("+", " + ")


def order(metrics: list[str]) -> list[str]:
    """The metrics that have an entry in its order, then the others in theirs."""
    known = [name for name in _MEASURES if name in metrics]
    return known + [name for name in metrics if name not in known]
