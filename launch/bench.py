"""Measures xinv's speed beside other libraries, on the same machine in one run.

Example:
  python launch/bench.py training
  python launch/bench.py explainers --methods=saliency,occlusion --networks=cnn
  python launch/bench.py explainers --first --networks=resnet18 --methods=saliency,lrp

`training`: images per second of a training step of Zhao's MNIST target and decoders at the paper's
width, against the same networks in PyTorch where that is installed. Rounds alternate and the
medians are reported, with the fractions of the rates that a large matrix product and a large copy
reach in this run. On an accelerator also in bfloat16, and PyTorch by torch.compile. The target's
step of DP-SGD stands beside its plain one.

All that an accelerator is measured by runs with one command: see launch/accelerator.sh.

`explainers`: maps per second of the MNIST target at the paper's width and of MobileNetV2 at 32×32,
against captum with the same weights, images, superpixels and parameters, where that is installed.
Beside them the memory that each needs, and the fraction of the roofline: the rate that the passes
of a map would reach if each were as fast as the model's forward pass on the same images, measured
in the same rounds. ViT-Tiny with patches of 4 is measured for xinv alone, and MobileNetV2 at
224×224 where --networks names it.
With --first instead the seconds of tracing (and lowering) and of compiling one map, on ResNet-18 at
32×32, ResNet-50 at 224×224 and ViT-Tiny, and their ratio to one jitted `jax.grad`: what someone
waits for before the first map.

`inversion`: images per second of gradient reconstruction (Thielen 2024) by their classifier,
against the same loop in PyTorch with the same weights, where that is installed, at the fastest of
several batch sizes. By default 1,000 images × 400 steps on an accelerator; on CPU, where these take
half an hour, 64 images × 4 steps.

`defences`: what applying a trained GNIME adds to the cost of the MNIST target's Gradient
explanation, by its network (Zhao's, and that of GNIME's code) and width; and images per second of
its two-player training step at the paper's width, against the same step in PyTorch where that is
installed.

`membership`: maps per second of a training step of the membership network (CNN and MobileNetV2 at a
quarter of its width, 32×32×3), against the same networks in PyTorch where that is installed; what
restarts in one program take beside as many in turn; maps per second of DeepLeak's 15 explainers on
a small CNN; fits per second of every attack on membership; and the seconds of one small audit of
all explainers with its models, attacks and controls.

`harden`: seconds of a trial of each explainer's search (launch/harden.py), and the shares spent in
maps, in the fit of the attack, and in the utility; by default of the digits.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence

import cli
from absl import flags

from xinv.types import InputError

BATCH = flags.DEFINE_integer(
    "batch_size",
    None,
    "Images per step. Default: 64; membership 128; explainers on CPU 16.",
    1,
)
IMAGES = flags.DEFINE_integer(
    "images",
    None,
    "Images to reconstruct. Default: 64 on CPU, 1000 on an accelerator.",
    1,
)
WIDTH = flags.DEFINE_float("width", 1.0, "Factor on the channels of the inverted classifier.", 0.0)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Alternating measurements of each network.", 1)
STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Steps per round. Default: 2 on CPU, 128 on an accelerator; inversion 4, 400.",
    1,
)
METHODS = flags.DEFINE_list("methods", None, "Explainers to measure. Default: all.")
NETWORKS = flags.DEFINE_list(
    "networks",
    None,
    "Networks to explain: cnn, mobilenet_v2, vit_tiny, which are the default, or mobilenet_v2_224;"
    " with --first resnet18, resnet50, vit_tiny, which are all the default.",
)
SIZE = flags.DEFINE_string(
    "size",
    "quick",
    "Of configs/deepleak.py, the size whose explanations are hardened.",
)
FIRST = flags.DEFINE_bool(
    "first",
    False,
    "Measure the time to the first map: tracing and compiling.",
)


def training() -> None:
    """Training steps against PyTorch."""
    import bench_training  # after the flags: this takes seconds, and a typo is reported at once

    bench_training.run(BATCH.value or 64, ROUNDS.value, STEPS.value)


def explainers() -> None:
    """Explanations against captum, or the time to the first of them."""
    import bench_explainers

    if FIRST.value:
        bench_explainers.first(METHODS.value, NETWORKS.value)
        return
    # Without captum, xinv is measured alone
    captum = None
    if importlib.util.find_spec("torch") and importlib.util.find_spec("captum"):
        import bench_captum as captum
    bench_explainers.run(BATCH.value, ROUNDS.value, METHODS.value, NETWORKS.value, captum)


def inversion() -> None:
    """Gradient reconstruction against PyTorch."""
    import bench_inversion

    bench_inversion.run(IMAGES.value, STEPS.value, ROUNDS.value, WIDTH.value)


def defences() -> None:
    """Releasing against explaining, and GNIME's training step against PyTorch."""
    import bench_defences

    bench_defences.run(BATCH.value or 64, ROUNDS.value, STEPS.value)


def membership() -> None:
    """The membership network against PyTorch, explainers, and attacks on membership."""
    import bench_membership

    bench_membership.run(BATCH.value or 128, ROUNDS.value, STEPS.value)


def harden() -> None:
    """Trials of the search for a release."""
    import bench_harden

    bench_harden.run(SIZE.value, METHODS.value, ROUNDS.value)


COMMANDS: dict[str, Callable[[], None]] = {
    "training": training,
    "explainers": explainers,
    "inversion": inversion,
    "defences": defences,
    "membership": membership,
    "harden": harden,
}


def main() -> None:
    """Takes the subcommand off the arguments, and leaves the flags to absl."""
    # absl knows no subcommands, so take the name off before it parses
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        name = sys.argv.pop(1)
    else:
        name = None

    def run(argv: Sequence[str]) -> None:
        del argv
        if name not in COMMANDS:
            raise InputError(f"unknown benchmark {name!r}: choose one of {', '.join(COMMANDS)}")
        COMMANDS[name]()

    cli.main(run)


if __name__ == "__main__":
    main()
