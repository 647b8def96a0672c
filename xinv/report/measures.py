"""Labels, decimals, directions and meanings of metrics."""

import re
from typing import NamedTuple


class Measure(NamedTuple):
    """A metric as a reader sees it.

    Attributes:
      label: the column's heading.
      leak: +1 where a higher value is a larger leak, −1 where it is a smaller one, 0 where unknown.
      digits: decimals shown.
      meaning: one sentence.
      intact: value of an explanation released as it is, by definition; None if it must be measured.
    """

    label: str
    leak: int = 0
    digits: int = 3
    meaning: str = ""
    intact: float | None = None


_MEASURES = {
    # Of reconstructions
    "ssim": Measure(
        "SSIM",
        1,
        3,
        "Structural similarity of original and reconstruction; 1 for equal images.",
    ),
    "mse": Measure(
        "MSE",
        -1,
        4,
        "Mean squared error per pixel, on a scale of 0 to 1; 0 for equal images.",
    ),
    "one_minus_mse": Measure(
        "1 − MSE",
        1,
        4,
        "Pixelwise similarity; 1 for equal images.",
    ),
    "psnr": Measure(
        "PSNR, dB",
        1,
        2,
        "Peak signal-to-noise ratio in decibels; 100 stands for equal images.",
    ),
    "attack_accuracy": Measure(
        "Attack accuracy",
        1,
        3,
        "Share of reconstructions in which an independent evaluation model recognises the true"
        " class.",
    ),
    "embedding_similarity": Measure(
        "Embedding similarity",
        1,
        3,
        "exp(−MSE) between the evaluation model's features of original and reconstruction; 1 for"
        " equal features.",
    ),
    "deepsim": Measure(
        "DeePSiM",
        1,
        3,
        "Cosine between the evaluation model's features of original and reconstruction; 1 for equal"
        " features.",
    ),
    # Of membership attacks; a name that ends in "_" is of a family, and {} its rate
    "auc": Measure(
        "AUC",
        1,
        3,
        "Probability that a training image gets a higher score than another image; 0.5 for"
        " guessing.",
    ),
    "tpr_at_shadow": Measure(
        "TPR at the shadow's threshold",
        meaning="Share of training images that score above the threshold learned on the shadow.",
    ),
    "fpr_at_shadow": Measure(
        "FPR at the shadow's threshold",
        meaning="Share of other images that score above the threshold learned on the shadow.",
    ),
    "tpr_at_": Measure(
        "TPR at {} FPR",
        1,
        3,
        "Share of training images recognised, if at most {} of other images are taken for them.",
    ),
    "auc_of_restarts": Measure(
        "AUC of restarts",
        0,
        3,
        "Mean AUC of the networks that an attack averages, with the lowest and the highest; none is"
        " picked.",
    ),
    "balanced_accuracy": Measure(
        "Balanced accuracy",
        1,
        3,
        "Mean share of both kinds that the shadow's threshold tells rightly; 0.5 for guessing.",
    ),
    # Of a training with differential privacy
    "noise": Measure(
        "Noise σ",
        0,
        3,
        "Standard deviation of the noise in a sum of gradients, in bounds of one.",
    ),
    "epsilon": Measure(
        "ε",
        0,
        2,
        "Differential privacy of the training: what one image can change at most.",
    ),
    "epsilon_of_group": Measure(
        "ε of a group",
        0,
        2,
        "ε of the largest group of images that are dealt as one.",
    ),
    "delta": Measure("δ", 0, 6, "Probability by which the training's ε may fail."),
    # Of membership attacks again, in the order of a table
    "epsilon_lower_bound": Measure(
        "ε at least",
        1,
        2,
        "Lower bound of differential privacy's ε, at 95 %; 0 if nothing is shown.",
    ),
    "fpr_at_": Measure(
        "Realised FPR at {}",
        0,
        4,
        "Share of other images that score above the threshold for a false-positive rate of {}.",
    ),
    "chance_at_": Measure(
        "TPR by chance at {} FPR",
        0,
        4,
        "Mean true-positive rate of scores that know nothing, at a false-positive rate of {}.",
    ),
    "resolved_at_": Measure(
        "Resolved at {} FPR",
        0,
        0,
        "1 if a rate of {} allows at least ten false positives, 0 if there are too few images.",
    ),
    "precision_at_prior_": Measure(
        "Precision at a prior of {}",
        1,
        3,
        "Share of training images among those told to be, if {} of all images are training images.",
    ),
    # Of classifiers
    "accuracy": Measure(
        "Accuracy",
        0,
        3,
        "Share of the reported images that the model classifies correctly.",
    ),
    "train_accuracy": Measure(
        "Training accuracy",
        0,
        3,
        "Share of its training images that the model classifies correctly.",
    ),
    "generalisation_gap": Measure(
        "Generalisation gap",
        0,
        3,
        "By how much the model's accuracy on its training images exceeds that on others.",
    ),
    # Of maps, for members and for others
    "gini_members": Measure(
        "Gini, members", meaning="Sparsity of training images' maps; 0 even, 1 a single pixel."
    ),
    "gini_others": Measure("Gini, others", meaning="Sparsity of other images' maps."),
    "kurtosis_members": Measure(
        "Kurtosis, members",
        0,
        2,
        "Weight of the tails of training images' maps; 3 normal.",
    ),
    "kurtosis_others": Measure(
        "Kurtosis, others",
        0,
        2,
        "Weight of the tails of other images' maps.",
    ),
    "l2_members": Measure(
        "L2, members", meaning="Euclidean size of training images' maps, in the map's units."
    ),
    "l2_others": Measure(
        "L2, others", meaning="Euclidean size of other images' maps, in the map's units."
    ),
    "max_sensitivity_members": Measure(
        "Max sensitivity, members",
        0,
        3,
        "Largest relative change of training images' maps under small changes of these.",
    ),
    "max_sensitivity_others": Measure(
        "Max sensitivity, others",
        0,
        3,
        "Largest relative change of other images' maps under small changes of these.",
    ),
    # Of releases: the cost of a defence
    "distortion": Measure(
        "Distortion, MSE",
        0,
        4,
        "Mean squared difference between an explanation and its defended release; 0 for an"
        " unchanged one.",
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
        "DeePSiM of the image times its explanation against the image times the release; 1 for an"
        " unchanged one.",
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
        "Intersection over union of the most important pixels of explanation and release; 1 for an"
        " unchanged one.",
        1.0,
    ),
    "deletion": Measure(
        "Deletion",
        0,
        3,
        "Area under the class's probability as the released map's top pixels go; small if"
        " faithful.",
    ),
    "insertion": Measure(
        "Insertion",
        0,
        3,
        "Area under the class's probability as the released map's top pixels come; large if"
        " faithful.",
    ),
    "max_sensitivity": Measure(
        "Max sensitivity",
        0,
        3,
        "Largest relative change of the release under a small change of the image; 0 for none.",
    ),
    "prediction_distortion": Measure(
        "Prediction distortion",
        0,
        4,
        "Mean squared change of released predictions, on images that the defender holds back.",
    ),
    "queries_to_halve_distortion": Measure(
        "Queries withstood",
        0,
        1,
        "Releases of one image whose mean has lost half the distortion; none: any number.",
    ),
    "diverged": Measure(
        "Diverged",
        0,
        2,
        "Share of seeds whose training diverged; there an earlier epoch is deployed.",
    ),
    # Of classifiers of attributes
    "f1": Measure(
        "F1",
        0,
        3,
        "A classifier's F1 of an attribute's presence on originals.",
    ),
    "weighted_f1": Measure(
        "Weighted F1",
        0,
        3,
        "A classifier's F1 per class on originals, weighted by the classes' sizes.",
    ),
}


def measure(metric: str) -> Measure:
    """The entry of `metric`; a metric without one has its name as label and no direction."""
    # Attributes of the config have an F1 each, so these have no entry of their own.
    if metric.startswith("f1_"):
        name = plain(metric.removeprefix("f1_"))
        return Measure(
            f"F1 of {name}",
            1,
            3,
            f"F1 of what a classifier of {name} says of reconstructions.",
        )
    shown = _MEASURES.get(_entry(metric), Measure(plain(metric)))
    if _entry(metric) == metric:
        return shown
    # One of a family, such as "tpr_at_0.01": its name ends in a rate.
    rate = float(metric.removeprefix(_entry(metric)))
    text = f"{100 * rate:g}%"
    digits = shown.digits
    if metric.startswith("tpr_at_") and rate < 0.01:
        digits = max(digits, 4)
    return shown._replace(
        label=shown.label.format(text),
        meaning=shown.meaning.format(text),
        digits=digits,
    )


def plain(name: str) -> str:
    """A plug-in's name as words: "input x gradient" for `input_x_gradient`."""
    return name.replace("_", " ").replace("+", " + ")


def order(metrics: list[str]) -> list[str]:
    """`metrics` with an entry in the order of the entries, then the others as they come."""
    places = list(_MEASURES)

    def place(metric: str) -> int:
        name = _entry(metric)
        if name in _MEASURES:
            return places.index(name)
        return len(places)

    return sorted(metrics, key=place)


def _entry(metric: str) -> str:
    """Returns the key of `metric` in `_MEASURES`; of "tpr_at_0.01" it is "tpr_at_"."""
    found = re.fullmatch(r"(\w+_)\d[\d.e-]*", metric)
    if found and found[1] in _MEASURES:
        return found[1]
    return metric
