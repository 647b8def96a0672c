"""Perturbation methods in batches: chunks and budgets, one program for many calls, errors that name
what is allowed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import quick
from test_explain_perturbation import KEY, as_tuples, compiled, small_problem, smooth

from xinv.explain import batch, build, gradient, normalise
from xinv.explain.anchors import anchors
from xinv.explain.engine import memory
from xinv.explain.lime import lime
from xinv.explain.occlusion import occlusion
from xinv.explain.perturbation import predict as perturb
from xinv.explain.protodash import protodash
from xinv.explain.shap import kernel_shap, shapley_sampling
from xinv.explain.trajectory import removal_trajectory
from xinv.types import InputError

REFERENCE = np.random.default_rng(8).random((6, 8, 8, 1)).astype(np.float32)
QUARTERS = as_tuples(np.arange(8)[:, None] // 4 * 2 + np.arange(8) // 4)
RIDGE = {"penalty": "ridge", "distance": "euclidean", "kernel_width": 1e-3, "baseline": "mean"}
EXPLAINERS = {
    "occlusion": occlusion(3, 2),
    "lime": lime(12, 9),
    "lime ridge": lime(12, segmentation=QUARTERS, **RIDGE),
    "kernel_shap": kernel_shap(12, segmentation=QUARTERS),
    "shapley_sampling": shapley_sampling(2, segmentation=QUARTERS),
    "anchors": anchors(
        batch_size=16, coverage_samples=64, max_rounds=3, max_size=2, segmentation=QUARTERS
    ),
    "protodash": protodash(REFERENCE, 3),
    "protodash linear": protodash(REFERENCE, 3, kernel="linear"),
    "removal_trajectory": removal_trajectory(steps=7),
}
SIZES = {"removal_trajectory": (1, 1)}
"""Rows and columns of maps that have not the image's."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_batch_is_its_examples(name, monkeypatch):
    """vmap with many chunks = one example at a time in one chunk; constant images stay finite; one
    trace serves.
    """
    explain = EXPLAINERS[name]
    rng = np.random.default_rng(9)
    variables = rng.normal(size=(64, 3)).astype(np.float32)
    images = np.concatenate([rng.random((2, 8, 8, 1)), np.zeros((1, 8, 8, 1))]).astype(np.float32)
    labels, keys = jnp.array([0, 1, 2]), jax.random.split(KEY, 3)
    one = quick(lambda variables, *example: explain(smooth, variables, *example))
    alone = [one(variables, *example) for example in zip(images, labels, keys, strict=True)]
    monkeypatch.setattr(memory, "CPU_BUDGET", 2**13)  # a few copies at a time
    together = quick(jax.vmap(lambda *example: explain(smooth, variables, *example)))(
        images, labels, keys
    )
    assert together.shape[:3] == (3, *SIZES.get(name, (8, 8)))
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, jnp.stack(alone), atol=2e-5)


def test_several_models_at_once():
    """vmap over the variables, as over seeds."""
    variables, image = small_problem()
    one = compiled(occlusion(1, 1))
    both = jax.vmap(lambda variables: one(smooth, variables, image, 0, KEY))(
        jnp.stack([-variables, variables])
    )
    np.testing.assert_allclose(both[1], one(smooth, variables, image, 0, KEY), atol=1e-6)


def test_chunks_hold_to_the_budget(monkeypatch):
    """No call of the model sees more copies than fit, under vmap too, and padding is dropped."""
    seen = []

    def watched(variables, images):
        seen.append(len(images))
        return images.reshape(len(images), -1) @ variables

    copies = (
        64 * 4 + 4
    )  # of one row: the image, which is multiplied where it is read, and where it stands
    monkeypatch.setattr(memory, "CPU_BUDGET", 10 * copies)
    variables, images = jnp.ones((64, 2)), jnp.ones((5, 8, 8, 1))
    rows = jnp.arange(7.0)
    logits = jax.vmap(
        lambda x: perturb.predict(watched, variables, lambda x, row: x * row, x, rows)
    )(images)
    np.testing.assert_allclose(logits, np.broadcast_to(64 * rows[:, None], (5, 7, 2)))
    assert max(seen) == 9  # 35 copies: four calls of nine


def test_idle_examples_cost_nothing(monkeypatch):
    """Mapped examples whose logits nobody reads run the model on no chunk of their own.

    So anchors mapped together cost the rounds that each needs, not those of the hardest.
    """
    monkeypatch.setattr(perturb, "_LEAST", 4)
    calls = []

    def counted(variables, images):
        jax.debug.callback(lambda _: calls.append(None), images[0, 0, 0, 0])
        return images.reshape(len(images), -1) @ variables

    def logits(image, active):
        copy = lambda image, row: image * row
        return perturb.predict(counted, variables, copy, image, jnp.arange(8.0), active)

    variables, images = jnp.ones((64, 2)), jnp.ones((6, 8, 8, 1))
    active = np.array([False, True, False, False, True, False])
    found = jax.jit(jax.vmap(logits))(images, active)
    jax.effects_barrier()
    np.testing.assert_allclose(
        found[active], np.broadcast_to(64 * np.arange(8)[:, None], (2, 8, 2))
    )
    assert len(calls) == 4  # 16 of 48 copies, four at a time


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: occlusion(0), "window is n"),
        (lambda: occlusion(2, (1, 1, 1)), "has a channel step"),
        (lambda: occlusion(2, 3)(smooth, *small_problem(), 0, KEY), "leaves gaps"),
        (lambda: occlusion(3, 1)(smooth, *small_problem(), 0, KEY), "does not fit"),
        (lambda: lime(1), "at least 2 samples, not 1"),
        (lambda: lime(penalty="l0"), "lasso or ridge, not 'l0'"),
        (lambda: lime(distance="l1"), "cosine or euclidean, not 'l1'"),
        (lambda: lime(kernel_width=0.0), "kernel_width is positive"),
        (lambda: lime(baseline="blur"), "baseline='blur'"),
        (lambda: kernel_shap(2), "at least 3 samples, not 2"),
        (
            lambda: kernel_shap(None, segmentation=(tuple(range(17)),))(
                smooth, *small_problem(0, (1, 17, 1)), 0, KEY
            ),
            "enumerates at most 16",
        ),
        (lambda: shapley_sampling(0), "at least 1 samples"),
        (lambda: anchors(1.0), "threshold lies between 0 and 1, not 1.0"),
        (lambda: anchors(beam_size=0), "beam_size is at least 1, not 0"),
        (lambda: anchors(max_samples=99), "max_samples is at least batch_size x beam_size, not 99"),
        (lambda: removal_trajectory(steps=0), "steps is 0 but must be"),
        (lambda: removal_trajectory(baseline="black"), "an image, or 'blur'"),
        (lambda: removal_trajectory("gradient"), "is a function, not the name 'gradient'"),
        (lambda: build("removal_trajectory", base={"steps": 2}), "has no name"),
        (lambda: build("removal_trajectory", base={"name": "grad"}), "unknown explainer 'grad'"),
        (lambda: protodash(REFERENCE, 7), "picks 1 to R prototypes"),
        (lambda: protodash(REFERENCE, kernel="cubic"), "gaussian or linear, not 'cubic'"),
        (lambda: protodash(REFERENCE, sigma=0.0), "sigma is positive"),
        (
            lambda: protodash(REFERENCE)(smooth, *small_problem(), 0, KEY),
            r"reference holds images \(8, 8, 1\)",
        ),
    ],
)
def test_bad_options(call, message):
    """Bad options name what is allowed."""
    with pytest.raises(InputError, match=message):
        call()


def test_equal_options_same_explainer():
    """Equal options give the same explainer, so that its programs are found again."""
    assert lime(10, 5) is lime(10, 5)
    assert normalise(lime(10, 5)) is normalise(lime(10, 5))


@pytest.mark.slow
def test_references_share_a_program():
    """A pipeline offers each seed's images; explainers that have no use for them ignore them."""
    variables, traces = np.random.default_rng(9).normal(size=(64, 3)).astype(np.float32), []

    def counted(variables, images):
        traces.append(None)
        return smooth(variables, images)

    def maps_of(reference):
        offered = {"reference": (reference * 255).astype(np.uint8)}
        explainer = normalise(build("protodash", offered, prototypes=2), "minmax")
        return batch(explainer, counted, variables, REFERENCE, None, KEY, batch_size=3)

    first = maps_of(REFERENCE)
    count = len(traces)
    other = maps_of(1 - REFERENCE)
    assert len(traces) == count
    assert np.abs(first - other).max() > 0.1
    label = jnp.argmax(smooth(variables, REFERENCE[:1]))
    single = protodash((REFERENCE * 255).astype(np.uint8), 2)(
        smooth, variables, REFERENCE[0], label, KEY
    )
    np.testing.assert_allclose(first[0], (single - single.min()) / np.ptp(single), atol=1e-4)
    assert build("gradient", {"reference": REFERENCE}) is gradient()
