"""`bench.py inversion`: see there."""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from xinv import attacks, models
from xinv.types import Observation, Variables, WhiteBox

try:
    import torch
except ImportError:
    torch = None

SHAPE, CLASSES, CHANNELS, HIDDEN = (32, 32, 1), 10, (128, 256, 512), 50
LEARNING_RATE, L2, TV = 0.03, 4.43e-5, 9.49e-3
TORCH_BATCH = (16, 64, 256)
"""Batch sizes that PyTorch may use: the fastest of them counts."""
Run = Callable[[], np.ndarray]


def run(images: int | None, steps: int | None, rounds: int, width: float) -> None:
    """Prints images per second, and whether both find the same images."""
    cpu = jax.default_backend() == "cpu"
    images, steps = images or (64 if cpu else 1000), steps or (4 if cpu else 400)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {images} images, {steps} steps,"
        f" {rounds} rounds"
    )
    model = models.cnn(
        CLASSES,
        CHANNELS,
        HIDDEN,
        width,
        norm="batch",
        activation="none",
        dropout=(0.0, 0.5),
    )
    # Draw random data: the speed depends on shapes alone
    rng = np.random.default_rng(0)
    own = rng.random((4 * CLASSES, *SHAPE), np.float32)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), own[:1]))
    prediction = rng.dirichlet(np.ones(CLASSES), images).astype(np.float32)
    attack = attacks.gradient_reconstruction(steps=steps, learning_rate=LEARNING_RATE, l2=L2, tv=TV)
    # Fit to the attacker's own images, four of each class
    labelled = Observation(np.eye(CLASSES, dtype=np.float32)[np.arange(len(own)) % CLASSES])
    held = WhiteBox(model, variables)
    state = attack.fit(jax.random.key(1), labelled, own, known=held)
    runs: dict[str, Run] = {
        "xinv": lambda: attack.predict(state, Observation(prediction), known=held)
    }
    if torch:
        runs["torch"] = _torch(variables, state["starts"][prediction.argmax(1)], prediction, steps)
    else:
        print("torch is not installed (pip install 'xinv[bench]'): xinv alone")
    found = {name: start() for name, start in runs.items()}  # compiles, and tunes cuDNN
    seconds = {name: statistics.median(values) for name, values in _rounds(runs, rounds).items()}
    for name, value in seconds.items():
        print(
            f"  {name:6s} {images / value:9.2f} images/s  {images * steps / value:11.1f}"
            " image-steps/s"
        )
    if torch:
        # Check that both loops have done the same work
        gap = np.abs(found["xinv"] - found["torch"])
        print(
            f"  ratio {seconds['torch'] / seconds['xinv']:.2f}; images differ by {gap.mean():.1e}"
            " in the mean",
            flush=True,
        )


def _rounds(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """The seconds of each, in turns, so that what else the machine does meets both alike."""
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, start in runs.items():
            begin = time.perf_counter()
            start()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def _torch(variables: Variables, starts: np.ndarray, prediction: np.ndarray, steps: int) -> Run:
    """The same loop as a PyTorch user would write it for speed: frozen weights, no host
    synchronisation.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    network = _network(variables).to(device, memory_format=layout).eval().requires_grad_(False)
    place = lambda x: torch.from_numpy(x.copy()).to(device)
    begin = place(np.moveaxis(starts, -1, 1))
    wanted = place(prediction)
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, eager")

    def descend(images: "torch.Tensor", y: "torch.Tensor", steps: int) -> "torch.Tensor":
        for _ in range(steps):
            images.requires_grad_()
            # Total variation, downwards and to the right
            down = images.diff(dim=2).abs().sum()
            right = images.diff(dim=3).abs().sum()
            cross_entropy = -(y * torch.log_softmax(network(images), 1)).sum()
            loss = cross_entropy + L2 * images.square().sum() + TV * (down + right)
            (gradient,) = torch.autograd.grad(loss, images)
            # Step, then project back to the range of images
            images = (images.detach() - LEARNING_RATE * gradient).clamp_(0, 1)
        return images

    def start(size: int, steps: int = steps, count: int | None = None) -> np.ndarray:
        parts = zip(begin[:count].split(size), wanted[:count].split(size), strict=True)
        return np.moveaxis(
            torch.cat([descend(*part, steps) for part in parts]).cpu().numpy(),
            1,
            -1,
        )

    # Try a batch size by two steps, after one to warm up
    def trial(size: int) -> float:
        start(size, 1, size)
        began = time.perf_counter()
        start(size, 2, size)
        return (time.perf_counter() - began) / min(size, len(starts))

    # A GPU may take all images at once
    sizes = (*TORCH_BATCH, len(starts)) if device == "cuda" else TORCH_BATCH
    best = min(sizes, key=trial)
    return lambda: start(best)


def _network(variables: Variables) -> "torch.nn.Module":
    """The classifier, same weights: convolution, BatchNorm, pool, ReLU; two linear layers."""
    from torch import nn

    weights = variables["params"]["layers"]
    averages = variables["batch_stats"]["layers"]
    tensor = lambda x: torch.from_numpy(np.array(x))
    rows = []
    size = SHAPE[0]
    # Count in twos: each convolution is followed by a pool's row
    for row in range(0, 2 * len(CHANNELS), 2):
        kernel = weights[f"conv{row}"]["kernel"]
        statistics = averages[f"norm{row}"]
        convolution = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
        norm = nn.BatchNorm2d(kernel.shape[3])
        convolution.load_state_dict(
            {
                "weight": tensor(kernel.transpose(3, 2, 0, 1)),
                "bias": tensor(weights[f"conv{row}"]["bias"]),
            }
        )
        affine = {"weight": weights[f"norm{row}"]["scale"], "bias": weights[f"norm{row}"]["bias"]}
        affine |= {"running_mean": statistics["mean"], "running_var": statistics["var"]}
        # Not strict: PyTorch also counts batches
        norm.load_state_dict({name: tensor(x) for name, x in affine.items()}, strict=False)
        rows += [convolution, norm, nn.MaxPool2d(2), nn.ReLU()]
        size //= 2
    first, last = (weights[f"fc{2 * len(CHANNELS) + i}"] for i in (0, 1))
    # Reorder the first dense layer's inputs from HWC to CHW
    flat = first["kernel"].reshape(size, size, -1, first["kernel"].shape[1]).transpose(3, 2, 0, 1)
    for kernel, bias in (
        (flat.reshape(len(flat), -1), first["bias"]),
        (last["kernel"].T, last["bias"]),
    ):
        linear = nn.Linear(*kernel.shape[::-1])
        linear.load_state_dict({"weight": tensor(kernel), "bias": tensor(bias)})
        rows += [nn.Flatten(), linear]
    return nn.Sequential(*rows)
