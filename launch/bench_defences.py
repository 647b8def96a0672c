"""`bench.py defences`: see there."""

import functools
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_training import (
    CLASSES,
    NETWORKS,
    SHAPE,
    Network,
    Run,
    examples,
    forward_operations,
    stepping,
    timed,
    torch,
    torch_batches,
    torch_module,
    torch_settings,
)

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
    steps = steps or (2 if jax.default_backend() == "cpu" else 128)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batch {batch_size}, {rounds}"
        " rounds"
    )
    print(torch_settings())
    data = examples(4 * batch_size)
    _applying(data, batch_size, rounds)
    for name in WIDTHS:
        _training(name, data, batch_size, rounds, steps)


def _applying(data: Mapping[str, np.ndarray], batch_size: int, rounds: int) -> None:
    """Gradient maps of the MNIST target, against the generator's pass that follows."""
    batch = {name: jnp.asarray(values[:batch_size]) for name, values in data.items()}
    observation = Observation(batch["prediction"], batch["explanation"])
    networks = [(name, width) for name, widths in WIDTHS.items() for width in widths]
    runs = {pair: _releasing(*pair, observation) for pair in networks}
    seconds = timed({"explain": _explaining(batch)} | runs, rounds, 1)
    gradient = 2 * forward_operations(NETWORKS["target"])
    rate = gradient * batch_size / seconds["explain"]
    print(
        f"gradient explanation: {seconds['explain'] * 1e3:.1f} ms a batch, {rate / 1e9:.0f} GFLOP/s"
    )
    for name, width in networks:
        taken, done = seconds[name, width], forward_operations(_network(name, width))
        print(
            f"  {name} at width {width}: {taken * 1e3:.1f} ms, adds"
            f" {taken / seconds['explain']:.0%} ({done / gradient:.0%} of the operations,"
            f" {done * batch_size / taken / 1e9:.0f} GFLOP/s)",
            flush=True,
        )
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
    calibration = {
        "prediction": np.zeros(CLASSES, np.float32),
        "explanation": np.zeros(SHAPE, np.float32),
        "moments": np.float32([0.5, 0.3]),
        "limits": np.float32([0, 1]),
    }
    variables = jax.jit(generator.init)(
        jax.random.key(0), observation.prediction[:1], observation.explanation[:1]
    )
    state = {"generator": variables, "calibration": jax.tree.map(jnp.asarray, calibration)}
    apply = jax.jit(defences.gnime(network=name, width=width).apply)
    return lambda steps: jax.block_until_ready(apply(state, observation, jax.random.key(1)))


def _training(
    name: str, data: Mapping[str, np.ndarray], batch_size: int, rounds: int, steps: int
) -> None:
    for updates in UPDATES:
        runs = {"xinv": _step(name, updates, data, batch_size)}
        if torch:
            runs["torch"] = _torch_step(name, updates, data, batch_size)
        seconds = timed(runs, rounds, steps)
        rates = {key: batch_size * steps / value for key, value in seconds.items()}
        versus = (
            f"  torch {rates['torch']:8.1f}  ratio {rates['xinv'] / rates['torch']:.2f}"
            if torch
            else ""
        )
        print(
            f"two-player step, {name:13s} {updates:12s} images/s: xinv"
            f" {rates['xinv']:8.1f}{versus}",
            flush=True,
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


def _step(network: str, updates: str, data: Mapping[str, np.ndarray], batch_size: int) -> Run:
    """xinv's own step, dispatched as its training loop does."""
    model, tx = _network(network).build("float32"), optax.adam(ADAM)
    players = Players(model, model)
    read = {name: data[name] for name in ("prediction", "explanation", "image")}
    example = [jnp.asarray(values[:1]) for values in read.values()][:2]
    nets = {name: jax.jit(model.init)(jax.random.key(0), *example) for name in Players._fields}
    scale = {"moments": np.float32([0.5, 0.3]), "limits": np.float32([0, 1])}
    state = train.State(
        np.int32(0), nets | scale, {name: tx.init(net) for name, net in nets.items()}
    )
    return stepping(two_player_step(players, LAMBDA, updates, tx), state, read, batch_size)


def _torch_step(network: str, updates: str, data: Mapping[str, np.ndarray], batch_size: int) -> Run:
    """The same step as PyTorch code has it: a backward pass for each player."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    modules = [torch_module(_network(network)) for _ in range(2)]
    generator, inverter = (module.to(device, memory_format=layout) for module in modules)
    first, second = (
        torch.optim.Adam(net.parameters(), ADAM, fused=True) for net in (generator, inverter)
    )
    batches, error = torch_batches(data, batch_size, device), torch.nn.functional.mse_loss

    def start(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            clean, truth = (batch["explanation"] - 0.5) / 0.3, batch["image"]

            def invert(maps, batch=batch):
                return inverter({"prediction": batch["prediction"], "explanation": maps})

            noised = generator({"prediction": batch["prediction"], "explanation": clean})
            released = ((noised * 0.3 + 0.5).clip(0, 1) - 0.5) / 0.3
            again = updates == "alternating"
            guess = invert(released.detach() if again else released)
            second.zero_grad(set_to_none=True)
            loss = error(invert(clean), truth) + error(guess, truth)
            loss.backward(inputs=list(inverter.parameters()), retain_graph=not again)
            if again:
                second.step()
                guess = invert(released)
            first.zero_grad(set_to_none=True)
            (error(noised, clean) - LAMBDA * error(guess, truth)).backward(
                inputs=list(generator.parameters())
            )
            first.step()
            if not again:
                second.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return start
