"""What every public explainer keeps to: a new factory is tested here unasked, under every model it
accepts.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import case, images, quick

from xinv import explain

QUARTERS = tuple(tuple(y // 6 * 2 + x // 6 for x in range(12)) for y in range(12))
FEW = {"samples": 3}
NEEDED: dict[str, dict] = {
    "anchors": {
        "threshold": 0.6,
        "batch_size": 8,
        "coverage_samples": 50,
        "segments": 4,
        "max_rounds": 3,
    },
    "integrated_gradients": {"steps": 3},
    "kernel_shap": {"samples": 6, "segments": 4},
    "lime": {"samples": 6, "segments": 4},
    "occlusion": {"window": 6, "stride": 6},
    "protodash": {"reference": images(6, seed=1), "prototypes": 2},
    "removal_trajectory": {"steps": 5},
    "shapley_sampling": {"samples": 2, "segments": 4},
    "smoothgrad": FEW,
    "vargrad": FEW,
}
"""Arguments for factories that have parameters without defaults, or that are slow with their
defaults.
"""

OTHERS: dict[str, tuple[dict, ...]] = {
    "gradient": ({"of": "probability"},),
    "gradcam": ({"layer": 0, "of": "input", "upsample": "bilinear", "relu": False},),
    "class_cams": ({"layer": -1, "upsample": "cubic"},),
    "deeplift": ({"baseline": 0.5, "multiply_by_inputs": False},),
    "integrated_gradients": (
        {"steps": 2, "method": "riemann_middle", "multiply_by_inputs": False, "baseline": 0.5},
    ),
    "lrp": ({"rule": "alpha_beta", "alpha": 1.5, "epsilon": 0.01}, {"rule": "gnime"}),
    "removal_trajectory": ({"steps": 4, "baseline": 0.5, "base": explain.gradcam()},),
    "vargrad": ({"stdev": 0.5, "samples": 2, "base": explain.deeplift()},),
}
"""Arguments other than the defaults, tried too."""

VARIANTS = [
    pytest.param(factory, hyper, id=f"{factory.__name__}-{number}")
    for factory in explain.FACTORIES
    for number, hyper in enumerate(
        (NEEDED.get(factory.__name__, {}), *OTHERS.get(factory.__name__, ()))
    )
]
every = pytest.mark.parametrize(("factory", "hyper"), VARIANTS)


@functools.cache
def mapped(explainer, name="marked"):
    """The explainer over a batch, compiled; counts its traces."""
    apply, variables = case(name)
    traces = []

    def explain_all(variables, images, labels, keys):
        traces.append(None)
        return jax.vmap(functools.partial(explainer, apply, variables))(images, labels, keys)

    compiled = quick(explain_all)

    def call(images, labels, seed=0):
        return np.asarray(
            compiled(variables, images, labels, jax.random.split(jax.random.key(seed), len(images)))
        )

    call.traces = traces
    return call


LABELS = jnp.array([0, 2, 3])


def test_factories_documented():
    """Every factory is public and documented."""
    for factory in explain.FACTORIES:
        assert factory.__name__ in explain.__all__
        assert inspect.getdoc(factory)
        assert explain.build(factory.__name__, **NEEDED.get(factory.__name__, {}))


@pytest.mark.slow
@every
def test_shape_finiteness_and_effect(factory, hyper):
    maps = mapped(factory(**hyper))(images(), LABELS)
    assert maps.ndim == 4
    assert len(maps) == 3
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert np.ptp(maps) > 0


@every
def test_neighbours_change_nothing(factory, hyper):
    """Neighbours in a batch change nothing.

    The model has a non-linear head, so that any mean over the batch would show.
    """
    explain_all = mapped(factory(**hyper))
    others = images(seed=9).at[0].set(images()[0])
    first = explain_all(images(), LABELS)[0]
    np.testing.assert_array_equal(explain_all(others, LABELS.at[1:].set(1))[0], first)


@pytest.mark.slow
@pytest.mark.parametrize("factory", explain.FACTORIES)
def test_eager_equals_compiled(factory):
    """An image alone and eager equals one of a batch, mapped and compiled."""
    hyper = NEEDED.get(factory.__name__, {})
    apply, variables = case("marked")
    keys = jax.random.split(jax.random.key(0), 3)
    eager = np.asarray(factory(**hyper)(apply, variables, images()[1], LABELS[1], keys[1]))
    compiled = mapped(factory(**hyper))(images(), LABELS)[1]
    np.testing.assert_allclose(eager, compiled, rtol=1e-3, atol=1e-4 * np.abs(compiled).max())


@every
def test_one_trace_and_key(factory, hyper):
    """One trace serves many calls, and a key gives the same map twice."""
    explain_all = mapped(factory(**hyper))
    first = explain_all(images(), LABELS)
    np.testing.assert_array_equal(explain_all(images(), LABELS), first)
    explain_all(images() / 2, LABELS - 1, seed=5)
    assert len(explain_all.traces) == 1


@every
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_images_give_no_nan(factory, hyper, value):
    assert np.isfinite(mapped(factory(**hyper))(jnp.full_like(images(), value), LABELS)).all()


@pytest.mark.slow
@every
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_other_models_are_accepted(factory, hyper, name):
    """Traced only: what they compute is tested beside each method."""
    explainer = functools.partial(factory(**hyper), *case(name))
    assert jax.eval_shape(explainer, images()[0], LABELS[0], jax.random.key(0)).ndim == 3
