"""PyTorch's side of the benches of training steps: the same networks from the same tables."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from bench_networks import Network, rows_of

try:
    import torch
except ImportError:
    torch = None

Run = Callable[[int], None]
"""Runs that many training steps and waits for them."""


def torch_settings() -> str:
    """Sets PyTorch up as its users would for speed, and says so."""
    if torch is None:
        return "torch is not installed (pip install 'xinv[bench]'): xinv alone"
    # Allow TF32, as JAX does by default on NVIDIA
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    if torch.cuda.is_available():
        place = "cuda: cudnn.benchmark, TF32 (as jax), channels_last"
    else:
        place = "cpu"
    return f"torch {torch.__version__} on {place}, {torch.get_num_threads()} threads, fused Adam"


def torch_device() -> str:
    """Where PyTorch computes."""
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"


def torch_call(module: Any, dtype: str, compiles: bool) -> Callable[[Any], Any]:
    """Returns a module as a function on its device, computed in `dtype`, with float32 results."""
    device = torch_device()
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    module.to(device, memory_format=layout)
    forward = module
    if compiles:
        # The networks share the code of their class: beyond the limit PyTorch would run it eagerly,
        # and with a full graph it raises an error instead
        torch._dynamo.config.recompile_limit = 64
        forward = torch.compile(module, fullgraph=True)

    def call(batch: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            outputs = forward(batch)
        return outputs.float()

    return call


def torch_run(step: Callable[[Any], None], batches: Iterator[Any]) -> Run:
    """Runs that many steps, each on the next batch, and waits for them."""

    def start(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            step(batch)
        # Wait for the steps: kernels run asynchronously
        if torch_device() == "cuda":
            torch.cuda.synchronize()

    return start


def step_of(
    network: Network,
    dtype: str,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    compiles: bool,
) -> Run:
    """A training step of the network, as PyTorch code has it."""
    module = torch_module(network)
    call = torch_call(module, dtype, compiles)
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, fused=True)
    # A target learns labels, a decoder images
    functional = torch.nn.functional
    error = functional.cross_entropy if network.classifier else functional.mse_loss
    answer = "label" if network.classifier else "image"

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        error(call(batch), batch[answer]).backward()
        optimizer.step()

    return torch_run(step, torch_batches(data, batch_size))


def torch_batches(data: Mapping[str, np.ndarray], batch_size: int) -> Iterator[dict[str, Any]]:
    """The data, over and over, as PyTorch reads it; images and maps are NCHW."""
    device = torch_device()
    placed = {}
    for name, x in data.items():
        placed[name] = torch.from_numpy(x).to(device)
        if x.ndim == 4:
            # On CUDA the strides stay those of NHWC, which are PyTorch's channels_last
            images = placed[name].permute(0, 3, 1, 2)
            placed[name] = images if device == "cuda" else images.contiguous()
    placed["label"] = placed["label"].long()
    for begin in itertools.cycle(range(0, len(data["image"]), batch_size)):
        yield {name: x[begin : begin + batch_size] for name, x in placed.items()}


def torch_module(network: Network) -> Any:
    """The network as a PyTorch module of the same tables."""
    from torch import nn

    # Make layers by type, with the inputs counted in bench_networks
    makers = {
        "conv": lambda row: nn.Conv2d(
            row.inputs, row.layer.outputs, row.layer.kernel, padding=row.layer.padding
        ),
        "pool": lambda row: nn.MaxPool2d(2),
        "fc": lambda row: nn.Linear(row.inputs, row.layer.outputs),
        "upsample": lambda row: nn.ConvTranspose2d(
            row.inputs, row.layer.outputs, row.layer.kernel, row.layer.stride, row.layer.padding
        ),
    }

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = rows_of(network)
            self.parts = nn.ModuleList(
                nn.ModuleList(makers[row.layer.type](row) for row in t) for t in self.tables
            )

        def sequence(self, index, x, bypass):
            maps = {}
            for row, part in zip(self.tables[index], self.parts[index], strict=True):
                # Flatten, repeat or join the input as the row says
                x = x.flatten(1) if row.layer.type == "fc" else x
                if row.layer.repeat > 1:
                    x = nn.functional.interpolate(x, scale_factor=row.layer.repeat)
                if row.layer.bypass and x.shape[2] in bypass:
                    x = torch.cat([x, bypass[x.shape[2]]], 1)
                x = part(x)
                x = nn.functional.relu(x) if row.layer.activation == "relu" else x
                # Keep the last map of each size, for the bypass
                if row.layer.type == "conv":
                    maps[x.shape[2]] = x
            return x, maps

        def forward(self, batch):
            if network.classifier:
                return self.sequence(1, batch["image"], {})[0]
            # A decoder starts from one vector of all evidence
            vector = [batch["prediction"]]
            maps = {}
            if network.encoder:
                embedding, maps = self.sequence(0, batch["explanation"], {})
                vector += [embedding, batch["explanation"].flatten(1)]
            return self.sequence(1, torch.cat(vector, 1)[:, :, None, None], maps)[0]

    return Twin()
