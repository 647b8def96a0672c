"""The networks of `bench.py membership` in PyTorch, from the same tables."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from bench_torch import Run, torch, torch_batches, torch_call, torch_run

from xinv import train
from xinv.models.detector import cnn_rows
from xinv.models.mobilenet import features as mobilenet_features
from xinv.models.table import Layer


def step(
    trunk: str,
    width: float,
    dtype: str,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    recipe: train.Recipe,
    dropout: float,
    compiles: bool,
) -> Run:
    """A training step of one network on maps."""
    trunks = {"cnn": _cnn, "mobilenet_v2": _mobilenet}
    _, height, breadth, channels = data["explanation"].shape
    head = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.LazyLinear(1))
    module = torch.nn.Sequential(trunks[trunk](width, height, channels), head)
    module(torch.zeros(2, channels, height, breadth))  # tells the lazy layers their sizes
    call = torch_call(module, dtype, compiles)
    # Name maps and membership as torch_batches expects
    renamed = {"image": data["explanation"], "label": data["member"]}
    settings = dict(weight_decay=recipe.weight_decay, fused=True)
    optimizer = torch.optim.Adam(module.parameters(), recipe.learning_rate, **settings)

    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        entropy(call(batch["image"])[:, 0], batch["label"].float()).backward()
        optimizer.step()

    return torch_run(step, torch_batches(renamed, batch_size))


def _cnn(width: float, side: int, channels: int) -> Any:
    """The CNN from the rows of xinv's."""
    from torch import nn

    def parts(row: Layer) -> list[Any]:
        # Defer with lambdas, so that only the layer in use is made
        made = {
            "conv": lambda: [nn.LazyConv2d(row.outputs, row.kernel, padding=row.padding)],
            "pool": lambda: [nn.MaxPool2d(2)],
            "fc": lambda: [nn.Flatten(), nn.LazyLinear(row.outputs)],
        }[row.type]()
        made += [nn.LazyBatchNorm2d()] if row.norm == "batch" else []
        return made + ([nn.ReLU()] if row.activation == "relu" else [])

    rows = cnn_rows(side, width)
    return nn.Sequential(*itertools.chain.from_iterable(map(parts, rows)))


def _mobilenet(width: float, side: int, channels: int) -> Any:
    """MobileNetV2 from the stages of xinv's, without its classifier."""
    from torch import nn

    def conv(
        inputs: int,
        outputs: int,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> list[Any]:
        own = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [own, nn.BatchNorm2d(outputs)]

    class Residual(nn.Module):
        def __init__(self, expansion: int, inputs: int, outputs: int, stride: int):
            super().__init__()
            wide = expansion * inputs
            # Without expansion a block begins with the depthwise convolution
            first = [*conv(inputs, wide), nn.ReLU6()] if expansion > 1 else []
            middle = [*conv(wide, wide, 3, stride, wide), nn.ReLU6()]
            self.body = nn.Sequential(*first, *middle, *conv(wide, outputs))
            self.adds = stride == 1 and inputs == outputs

        def forward(self, x):
            if self.adds:
                return x + self.body(x)
            return self.body(x)

    # Build the stem, the stages and the last convolution
    twin = mobilenet_features(width, "small")
    blocks = [*conv(channels, twin.first, 3, twin.stride), nn.ReLU6()]
    inputs = twin.first
    for expansion, outputs, count, stride in twin.stages:
        for index in range(count):
            blocks.append(Residual(expansion, inputs, outputs, 1 if index else stride))
            inputs = outputs
    last = [*conv(inputs, twin.last), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*blocks, *last)
