"""How a metric is shown: its label, its decimals, and which way the leak grows."""

from typing import NamedTuple


class Measure(NamedTuple):
    """What a reader needs to know of a metric.

    Attributes:
      label: the column's heading.
      leak: +1 where a higher value means that the attacker recovers more, −1 where it means less, 0 where unknown.
      digits: decimals shown.
      meaning: one sentence.
    """

    label: str
    leak: int = 0
    digits: int = 3
    meaning: str = ""


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
    "accuracy": Measure("Accuracy", 0, 3, "Share of test images that the model classifies correctly."),
}


def measure(metric: str) -> Measure:
    """How `metric` is shown; one without an entry gets its own name and no direction."""
    return _MEASURES.get(metric, Measure(plain(metric)))


def plain(name: str) -> str:
    """A plug-in's name as words: `input_x_gradient` is "input x gradient"."""
    return name.replace("_", " ")


def order(metrics: list[str]) -> list[str]:
    """The metrics that have an entry in its order, then the others in theirs."""
    known = [name for name in _MEASURES if name in metrics]
    return known + [name for name in metrics if name not in known]
