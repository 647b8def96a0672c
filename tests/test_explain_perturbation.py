"""Occlusion, LIME, Shapley values, anchors and prototypes against captum, alibi, aix360,
scikit-learn and formulas.
"""

from itertools import permutations
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import quick
from scipy.optimize import nnls
from sklearn.linear_model import Lasso, Ridge
from witnesses import SOURCES, maps

from xinv.explain.anchors import _Rules, _search, anchors, lower_bound, upper_bound
from xinv.explain.lime import lime
from xinv.explain.occlusion import occlusion
from xinv.explain.perturbation import linear
from xinv.explain.protodash import KERNELS, protodash, select
from xinv.explain.shap import kernel_shap, shapley_sampling

KEY = jax.random.key(5)
FOUR = ((0, 0, 1), (2, 2, 3))  # a label map of four superpixels


def as_tuples(labels):
    return tuple(tuple(row) for row in labels.tolist())


def convolutional(variables, images):
    """The network of make_perturbation.py."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(
        images, variables["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
    )
    return jax.nn.relu(hidden).reshape(len(images), -1) @ variables["dense"]


def smooth(variables, images):
    """A non-linear model with interactions between pixels."""
    flat = images.reshape(len(images), -1)
    return jnp.tanh(flat @ variables) + jnp.prod(flat, 1, keepdims=True)


def compiled(explain):
    return quick(explain, static_argnums=0)


def small_problem(seed=0, shape=(2, 3, 1), classes=3):
    rng = np.random.default_rng(seed)
    image = rng.random(shape).astype(np.float32)
    return rng.normal(size=(image.size, classes)).astype(np.float32), image


# --- against other libraries: float32 on both sides, so 1e-4 of logits of order 1; captum's Lasso
# stops at 1e-4 -------


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("name", "explainer", "tolerance"),
    [
        ("occlusion_plain", lambda _: occlusion(3, 2), 1e-4),
        ("occlusion_channels", lambda _: occlusion((2, 4, 1), (2, 3, 1), 0.25), 1e-4),
        ("lime_cosine", lambda s: lime(30, kernel_width=0.3, alpha=0.02, segmentation=s), 5e-3),
        (
            "lime_euclidean",
            lambda s: lime(30, kernel_width=2.0, alpha=0.02, distance="euclidean", segmentation=s),
            5e-3,
        ),
        ("kernel_shap_30", lambda s: kernel_shap(30, segmentation=s), 1e-3),
        ("kernel_shap_5", lambda s: kernel_shap(5, segmentation=s), 1e-3),
        ("shapley_sampling", lambda s: shapley_sampling(7, segmentation=s), 1e-4),
    ],
)
def test_maps_are_captums(name, explainer, tolerance, source):
    recorded = maps("perturbation", source)
    explain = explainer(as_tuples(recorded["labels"]))
    variables = {name: recorded[name] for name in ("kernel", "dense")}
    explanation = compiled(explain)(convolutional, variables, recorded["image"], jnp.array(1), KEY)
    expected = recorded[name]
    if explanation.shape[-1] == 1:  # captum repeats the map over the channels
        expected = expected[..., :1]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(explanation, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 2])
def test_anchors_are_alibis(beam_size):
    """Games whose anchor is clear: alibi finds the same with five seeds, and so does xinv, in one
    batch of games.
    """
    recorded = maps("anchors")
    explain = anchors(
        coverage_samples=200,
        beam_size=beam_size,
        baseline=0.0,
        segmentation=as_tuples(recorded["labels"]),
    )

    def blocks(variables, images):
        means = images[..., 0].reshape(-1, 2, 4, 3, 4).mean((2, 4)).reshape(-1, 6)
        score = means @ variables[0] - variables[1]
        return jnp.stack([-score, score], -1)

    def one(weights, threshold, key):
        return explain(blocks, (weights, threshold), jnp.ones((8, 12, 1)), jnp.array(1), key)

    games = len(recorded["weights"])
    explanations = jax.jit(jax.vmap(one))(
        recorded["weights"], recorded["thresholds"], jax.random.split(KEY, games)
    )
    for explanation, found in zip(explanations, recorded["found"], strict=True):
        np.testing.assert_array_equal(explanation[..., 0], found[0][recorded["labels"]])
        assert (found == found[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("budget", [7, 30])
def test_anchors_of_unsure_model(budget):
    """An unsure model is asked no more often than allowed.

    Chance decides here: no anchor holds, and without a bound every size would be tried.
    """
    rounds = []

    def draw(key, parents, active):
        del active
        jax.debug.callback(lambda: rounds.append(None))
        present = jax.random.bernoulli(key, 0.5, (len(parents), 50, 16)) | parents[:, None]
        return present, jax.random.bernoulli(jax.random.fold_in(key, 1), 0.9, present.shape[:2])

    covered = jax.random.bernoulli(KEY, 0.5, (100, 16))
    rules = _Rules(0.95, 0.1, 0.15, 1, 5, budget)
    found = jax.jit(lambda key: _search(draw, covered, jnp.ones(16, bool), 16, rules, key))(KEY)
    jax.effects_barrier()
    assert budget - 1 <= len(rounds) <= budget
    assert found.any()


def test_kl_bounds_are_alibis():
    recorded = maps("anchors")
    means, levels = recorded["means"].astype(np.float32), recorded["levels"].astype(np.float32)
    np.testing.assert_allclose(upper_bound(means, levels), recorded["upper"], atol=2e-4)
    np.testing.assert_allclose(lower_bound(means, levels), recorded["lower"], atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "sigma"), [("Gaussian", 0.5), ("Gaussian", 1.5), ("other", 1.0)]
)
def test_prototypes_are_aix360s(kernel, sigma):
    recorded = maps("protodash")
    points, target = recorded["points"].astype(np.float32), recorded["target"].astype(np.float32)
    ours = KERNELS["gaussian" if kernel == "Gaussian" else "linear"]
    allowed = jnp.arange(len(points)) > 0  # aix360 never considers the first point
    chosen, weights = select(ours, points, target, allowed, 4, sigma)
    np.testing.assert_array_equal(chosen, recorded[f"{kernel}_{sigma}_chosen"])
    expected = recorded[f"{kernel}_{sigma}_weights"]
    np.testing.assert_allclose(
        weights / weights.sum(), expected / expected.sum(), atol=2e-3
    )  # osqp's own tolerance


# --- against formulas
# ------------------------------------------------------------------------------------------------


def shapley_values(value, players):
    """By definition: the mean over all orders of what a player adds to those before it."""
    total = np.zeros(players)
    for order in permutations(range(players)):
        for place, player in enumerate(order):
            total[player] += value({*order[: place + 1]}) - value({*order[:place]})
    return total / factorial(players)


@pytest.mark.parametrize("samples", [None, 16, 1000])
def test_kernel_shap_is_exact(samples):
    """KernelSHAP with all coalitions is exact."""
    variables, image = small_problem()
    labels = np.array(FOUR)

    def value(present):
        kept = np.isin(labels, [*present])[..., None] * image.astype(np.float64)
        return np.tanh(kept.reshape(-1) @ variables)[1] + kept.prod()

    explanation = compiled(kernel_shap(samples, segmentation=FOUR))(
        smooth, variables, image, 1, KEY
    )
    np.testing.assert_allclose(explanation[..., 0], shapley_values(value, 4)[labels], atol=1e-5)


SEVEN = ((0, 1, 2, 3, 4, 5, 6),)


@pytest.mark.parametrize(
    "explainer", [kernel_shap(40, segmentation=SEVEN), shapley_sampling(2, segmentation=SEVEN)]
)
def test_shapley_axioms(explainer):
    """Additivity makes every estimator exact: values are the terms; a dummy gets 0; equals get
    equal values.
    """
    terms = jnp.array([[0.5, -1, 2, 2, 0, 3, -0.25]]).T
    additive = lambda variables, images: images[:, 0, :, 0] @ variables + 1
    values = compiled(explainer)(additive, terms, jnp.ones((1, 7, 1)), 0, KEY)
    np.testing.assert_allclose(values[0], terms, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [3, 5, 40])
@pytest.mark.parametrize("factory", [kernel_shap, shapley_sampling])
def test_shapley_values_are_efficient(factory, samples):
    """They add up to f(image) - f(all absent), however few the samples."""
    variables, image = small_problem(shape=(1, 7, 1))
    gap = smooth(variables, image[None]) - smooth(variables, 0 * image[None])
    explanation = compiled(factory(samples, segmentation=SEVEN))(smooth, variables, image, 2, KEY)
    np.testing.assert_allclose(explanation.sum(), gap[0, 2], atol=1e-5)


def test_one_superpixel():
    """One superpixel has the whole difference."""
    variables, image = small_problem()
    gap = smooth(variables, image[None]) - smooth(variables, 0 * image[None])
    for explain in (
        kernel_shap(3, segmentation=((0,) * 3,) * 2),
        shapley_sampling(1, segmentation=((0,) * 3,) * 2),
    ):
        np.testing.assert_allclose(
            compiled(explain)(smooth, variables, image, 2, KEY)[..., 0], gap[0, 2], atol=1e-6
        )


def test_occlusion_equals_a_loop():
    """Occlusion is a loop over windows."""
    variables, image = small_problem(3, (6, 8, 2))
    scores = lambda x: (
        np.tanh(x.reshape(-1).astype(np.float64) @ variables)[2] + x.astype(np.float64).prod()
    )
    total, times = np.zeros((6, 8)), np.zeros((6, 8))
    for y in (0, 2, 4):
        for x in (0, 3, 6):
            covered = image.copy()
            covered[y : y + 3, x : x + 4] = [0.5, 0.2]
            total[y : y + 3, x : x + 4] += scores(image) - scores(covered)
            times[y : y + 3, x : x + 4] += 1
    explanation = compiled(occlusion((3, 4), (2, 3), (0.5, 0.2)))(smooth, variables, image, 2, KEY)
    np.testing.assert_allclose(explanation[..., 0], total / times, atol=1e-5)


@pytest.mark.parametrize("penalty", ["lasso", "ridge"])
def test_regressions_are_scikit_learns(penalty):
    rng = np.random.default_rng(2)
    x, w = rng.integers(0, 2, (60, 12)), rng.random(60)
    x[:, 5] = 1  # a column without variation
    y = x @ rng.normal(size=12) + 0.3 * rng.normal(size=60) + 4
    alpha = {"lasso": 0.05, "ridge": 2.0}[penalty]
    model = {"lasso": Lasso(alpha, tol=1e-10), "ridge": Ridge(alpha)}[penalty].fit(
        x, y, sample_weight=w / w.mean()
    )
    ours = {"lasso": linear.lasso, "ridge": linear.ridge}[penalty](
        *map(jnp.float32, (x, y, w)), alpha
    )
    np.testing.assert_allclose(ours, model.coef_, atol=1e-4)
    assert (np.asarray(ours) == 0).sum() > 1 if penalty == "lasso" else True


def test_nonnegative_quadratic_program_is_scipys():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(20, 8)), rng.normal(size=20)
    expected, _ = nnls(a, b)
    assert 2 < (expected == 0).sum() < 8
    np.testing.assert_allclose(
        linear.nonnegative(jnp.float32(a.T @ a), jnp.float32(a.T @ b)), expected, atol=1e-4
    )


def test_sum_constrained_regression():
    """The residual's gradient is one for every coordinate (Lagrange), and the sum is as asked."""
    rng = np.random.default_rng(6)
    x, y, w = rng.integers(0, 2, (30, 6)), rng.normal(size=30), rng.random(30)
    b = np.asarray(linear.sum_constrained(*map(jnp.float32, (x, y, w)), 1.5), np.float64)
    gradient = x.T @ (w * (x @ b - y))
    np.testing.assert_allclose(gradient, gradient.mean(), atol=1e-5)
    np.testing.assert_allclose(b.sum(), 1.5, atol=1e-6)


def test_prototypes_by_label_and_sigma():
    """A narrow kernel gives the nearest image of the class; without an image of the class all are
    candidates.
    """
    rng = np.random.default_rng(7)
    reference = (rng.random((20, 4, 4, 1)) * 255).astype(np.uint8)
    image = jnp.float32(rng.random((4, 4, 1)))
    predicted = np.arange(20) % 2

    def classify(_, images):
        same = (jnp.abs(images[:, None] - reference / 255.0) < 1e-3).all((2, 3, 4))
        return same @ jax.nn.one_hot(predicted, 3)

    distance = ((reference / 255 - image) ** 2).sum((1, 2, 3))
    explain = compiled(protodash(reference, 3, sigma=1e-2))
    for label, candidates in [(1, predicted == 1), (2, predicted >= 0)]:
        nearest = reference[np.argmin(np.where(candidates, distance, np.inf))] / 255
        np.testing.assert_allclose(explain(classify, (), image, label, KEY), nearest, atol=1e-5)
    wide = compiled(protodash(reference, 3, sigma=1.0))(classify, (), image, 1, KEY)
    assert np.abs(wide - explain(classify, (), image, 1, KEY)).max() > 0.05
