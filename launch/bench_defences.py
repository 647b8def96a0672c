"""`bench.py defences`: see there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_networks import CLASSES, NETWORKS, SHAPE, Network, examples, forward_operations
from bench_table import Row
from bench_torch import (
    Run,
    torch,
    torch_batches,
    torch_call,
    torch_module,
    torch_run,
    torch_settings,
)
from bench_training import Bench, Training, bench, compared, timed

from xinv import defences, explain, models, train
from xinv.defences.gnime import UPDATES, Players, two_player_step
from xinv.models.decoder import decoder_table, encoder_table
from xinv.models.gnime import gnime_encoder_table, gnime_table
from xinv.types import Observation

WIDTHS = {
    "decoder": (1.0, 0.5, 0.25, 0.125),
    "gnime_decoder": (1.0, 0.5, 0.4375, 0.375, 0.3125, 0.25, 0.125),
}
AIM = 0.2
LAMBDA, ADAM = 100.0, 1e-4


def run(batch_size: int, rounds: int, steps: int | None) -> None:
    """Prints the cost of releasing beside explaining, and images/s of the two-player step."""
    how = bench(batch_size, rounds, steps)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batch {batch_size}, {rounds}"
        " rounds"
    )
    print(torch_settings())
    _applying(examples(batch_size), batch_size, rounds)
    for dtype in how.rates:
        for name in WIDTHS:
            for updates in UPDATES:
                print(two_player(name, updates, dtype, how).line(), flush=True)


def _applying(data: Mapping[str, np.ndarray], batch_size: int, rounds: int) -> None:
    """Gradient maps of the MNIST target, against the generator's pass that follows."""
    batch = {name: jnp.asarray(values[:batch_size]) for name, values in data.items()}
    observation = Observation(batch["prediction"], batch["explanation"])
    # Time all networks in the same rounds
    networks = [(name, width) for name, widths in WIDTHS.items() for width in widths]
    runs = {pair: _releasing(*pair, observation) for pair in networks}
    seconds = timed({"explain": _explaining(batch)} | runs, rounds, 1)
    # Count a backward pass as a forward pass
    gradient = 2 * forward_operations(NETWORKS["target"])
    rate = gradient * batch_size / seconds["explain"]
    print(
        f"gradient explanation: {seconds['explain'] * 1e3:.1f} ms a batch, {rate / 1e9:.0f} GFLOP/s"
    )
    for name, width in networks:
        taken = seconds[name, width]
        done = forward_operations(_network(name, width))
        print(
            f"  {name} at width {width}: {taken * 1e3:.1f} ms, adds"
            f" {taken / seconds['explain']:.0%} ({done / gradient:.0%} of the operations,"
            f" {done * batch_size / taken / 1e9:.0f} GFLOP/s)",
            flush=True,
        )
    # Name the widest network within the aim
    for name, widths in WIDTHS.items():
        below = [width for width in widths if seconds[name, width] < AIM * seconds["explain"]]
        print(
            f"  {name} adds less than {AIM:.0%}"
            f" {f'up to width {max(below)}' if below else 'at no width'}"
        )


def _explaining(batch: Mapping[str, jax.Array]) -> Run:
    model = models.cnn(CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), batch["image"][:1])
    keys = jax.random.split(jax.random.key(1), len(batch["image"]))
    maps = jax.jit(jax.vmap(functools.partial(explain.saliency(), model.apply), (None, 0, 0, 0)))
    return lambda steps: jax.block_until_ready(
        maps(variables, batch["image"], batch["label"], keys)
    )


def _releasing(name: str, width: float, observation: Observation) -> Run:
    """The compiled call of a deployment, with a generator of random weights."""
    generator = _network(name, width).build("float32")
    # Any values do: the speed depends on shapes alone
    calibration = {
        "prediction": np.zeros(CLASSES, np.float32),
        "explanation": np.zeros(SHAPE, np.float32),
        "moments": np.float32([0.5, 0.3]),
        "limits": np.float32([0, 1]),
    }
    variables = jax.jit(generator.init)(
        jax.random.key(0),
        observation.prediction[:1],
        observation.explanation[:1],
    )
    state = {"generator": variables, "calibration": jax.tree.map(jnp.asarray, calibration)}
    apply = jax.jit(defences.gnime(network=name, width=width).apply)
    return lambda steps: jax.block_until_ready(apply(state, observation, jax.random.key(1)))


def two_player(
    network: str,
    updates: str,
    dtype: str,
    how: Bench,
    width: float = 1.0,
) -> Row:
    """GNIME's step of two networks, as xinv's loop and as PyTorch code has it."""
    built = _network(network, width)
    data = examples(4 * how.batch_size)
    return compared(
        f"GNIME, {network}, {updates}",
        dtype,
        _step(built, updates, dtype, data),
        functools.partial(_torch_step, built, updates, dtype, data, how.batch_size),
        how,
    )


def _network(name: str, width: float = 1.0) -> Network:
    """The generator and inverter of that name; their explanations are of the images' shape."""
    tables = {
        "decoder": (decoder_table(SHAPE, width), encoder_table(SHAPE, SHAPE[0], width)),
        "gnime_decoder": (
            gnime_table(SHAPE, "flatten_unet", width),
            gnime_encoder_table(SHAPE, width),
        ),
    }
    hyper = dict(image_shape=SHAPE, encoder="flatten_unet", width=width)
    return Network(lambda dtype: models.build(name, dtype=dtype, **hyper), *tables[name])


def _step(network: Network, updates: str, dtype: str, data: Mapping[str, np.ndarray]) -> Training:
    """xinv's own step."""
    model = network.build(dtype)
    tx = optax.adam(ADAM)
    players = Players(model, model)
    read = {name: data[name] for name in ("prediction", "explanation", "image")}
    # Networks read prediction and explanation; images are the inverter's answer
    example = [jnp.asarray(values[:1]) for values in read.values()][:2]
    nets = {}
    for name in Players._fields:
        nets[name] = jax.jit(model.init)(jax.random.key(0), *example)
    scale = {"moments": np.float32([0.5, 0.3]), "limits": np.float32([0, 1])}
    state = train.State(
        np.int32(0),
        nets | scale,
        {name: tx.init(net) for name, net in nets.items()},
    )
    return Training(two_player_step(players, LAMBDA, updates, tx), state, read)


def _torch_step(
    network: Network,
    updates: str,
    dtype: str,
    data: Mapping[str, np.ndarray],
    batch_size: int,
    compiles: bool,
) -> Run:
    """The same step as PyTorch code has it: a backward pass for each player."""
    modules = [torch_module(network) for _ in range(2)]
    calls: list[Callable[[Any], Any]] = [torch_call(module, dtype, compiles) for module in modules]
    generate, invert = calls
    generator, inverter = (list(module.parameters()) for module in modules)
    first, second = (torch.optim.Adam(net, ADAM, fused=True) for net in (generator, inverter))
    error = torch.nn.functional.mse_loss
    again = updates == "alternating"
    # Both players differentiate one graph, whose buffers must outlive the first
    torch._functorch.config.donated_buffer = again

    def step(batch: Any) -> None:
        # Standardise by the same moments as xinv's step
        clean = (batch["explanation"] - 0.5) / 0.3
        truth = batch["image"]

        def inverted(maps: Any) -> Any:
            return invert({"prediction": batch["prediction"], "explanation": maps})

        noised = generate({"prediction": batch["prediction"], "explanation": clean})
        # Clip as a release does, to the range of maps
        released = ((noised * 0.3 + 0.5).clip(0, 1) - 0.5) / 0.3
        # Alternating players need no graph through the generator here
        guess = inverted(released.detach() if again else released)
        second.zero_grad(set_to_none=True)
        loss = error(inverted(clean), truth) + error(guess, truth)
        loss.backward(inputs=inverter, retain_graph=not again)
        # Let the generator play against the inverter as just updated
        if again:
            second.step()
            guess = inverted(released)
        # Keep the map and spoil the inversion
        first.zero_grad(set_to_none=True)
        (error(noised, clean) - LAMBDA * error(guess, truth)).backward(inputs=generator)
        first.step()
        # Simultaneous: both gradients are of the old weights
        if not again:
            second.step()

    return torch_run(step, torch_batches(data, batch_size))
