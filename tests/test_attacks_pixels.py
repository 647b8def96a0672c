"""Optimised inversions against literal float64 readings of their papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_problem import (
    CLASSES,
    DRAW,
    IMAGES,
    KEY,
    LINEAR,
    PREDICTION,
    SEEN,
    SHAPE,
    WEIGHTS,
    apply,
    guesses,
    softmax,
)
from scipy.ndimage import gaussian_filter1d, median_filter

from xinv import attacks
from xinv.attacks import pixels, reconstruction
from xinv.attacks.fredrikson import median, sharpen
from xinv.attacks.preimage import centred_logits, shift
from xinv.attacks.search import log_uniform_search
from xinv.types import InputError, Observation, WhiteBox

HEADLESS = WhiteBox(LINEAR.model._replace(head=None), WEIGHTS)


def literal_reconstruction(image, y, steps, rate, l2, tv):
    """Thielen's Eq. 1 to 4 on the linear model, pixel by pixel."""
    image, weights = image.astype(np.float64), WEIGHTS.astype(np.float64)
    for _ in range(steps):
        gradient = (weights @ (y.sum() * softmax(image.reshape(-1) @ weights) - y)).reshape(
            SHAPE
        ) + 2 * l2 * image
        for i, j in np.ndindex(*SHAPE[:2]):
            for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if 0 <= near[0] < SHAPE[0] and 0 <= near[1] < SHAPE[1]:
                    gradient[i, j] += tv * np.sign(image[i, j] - image[near])
        image = np.clip(image - rate * gradient, 0, 1)
    return image


@pytest.mark.parametrize("target", ["prediction", "label"])
def test_reconstruction_is_the_papers_descent(target):
    labels = PREDICTION.argmax(1)
    every = IMAGES.mean(0)
    starts = [IMAGES[labels == c].mean(0) if (labels == c).any() else every for c in range(CLASSES)]
    y = PREDICTION if target == "prediction" else np.eye(CLASSES)[labels]
    attack = attacks.gradient_reconstruction(
        target=target, steps=5, learning_rate=0.05, l2=0.2, tv=0.03
    )
    wanted = [
        literal_reconstruction(starts[c], y[i], 5, 0.05, 0.2, 0.03) for i, c in enumerate(labels)
    ]
    np.testing.assert_allclose(guesses(attack), wanted, atol=2e-6)


def test_released_vectors_unchanged():
    """A released vector is taken as it is.

    Truncated and rounded: it has zeros and does not sum to 1 (Thielen, Tables 5 and 6).
    """
    cut = np.where(
        PREDICTION.max(1, keepdims=True) == PREDICTION, np.round(PREDICTION, 1), 0
    ).astype(np.float32)
    attack = attacks.gradient_reconstruction(
        "class_instance", steps=3, learning_rate=0.03, l2=0.0, tv=0.0
    )
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    starts = state["starts"][cut.argmax(1)]
    wanted = [
        literal_reconstruction(a, y.astype(np.float64), 3, 0.03, 0, 0)
        for a, y in zip(starts, cut, strict=True)
    ]
    np.testing.assert_allclose(
        attack.predict(state, Observation(cut), known=LINEAR), wanted, atol=2e-6
    )


def test_instances_of_predicted_class():
    """Instances are of the predicted class."""
    starts = pixels.class_starts(KEY, "class_instance", SEEN, (255 * IMAGES).astype(np.uint8))
    stored = (255 * IMAGES).astype(np.uint8) / np.float32(255)
    for c in np.unique(PREDICTION.argmax(1)):
        assert any(
            np.allclose(starts[c], image, atol=1e-6) for image in stored[PREDICTION.argmax(1) == c]
        )


@pytest.mark.slow
def test_priors_of_known_images():
    """A step edge of height a across h rows: Σ|Δ| = h·a, P_Vβ = h·a^β; a dot of height a at a
    corner: (2a²)^(β/2).
    """
    edge = np.zeros((2, 4, 6, 1), np.float32)
    edge[0, :, 3:], edge[1, 3, 5] = 0.5, 0.5
    np.testing.assert_allclose(pixels.absolute_variation(edge), [4 * 0.5, 2 * 0.5])
    np.testing.assert_allclose(pixels.total_variation(edge, 3.0), [4 * 0.125, 2 * 0.125], rtol=1e-6)
    np.testing.assert_allclose(
        pixels.total_variation(edge[:, ::-1, ::-1], 1.0), [4 * 0.5, 0.5 * 2**0.5], rtol=1e-6
    )
    np.testing.assert_allclose(pixels.alpha_norm(edge, 6.0), [12 * 0.5**6, 0.5**6])
    np.testing.assert_allclose(pixels.squares(edge), [12 * 0.25, 0.25])
    assert np.isfinite(jax.grad(lambda x: pixels.total_variation(x, 1.0).sum())(edge)).all()


def test_filters_are_scipys():
    image = IMAGES[:, :, :, 0].astype(np.float64)
    blurred = image
    for axis in (1, 2):
        blurred = gaussian_filter1d(blurred, 0.7, axis, mode="constant", truncate=20)
        blurred /= gaussian_filter1d(np.ones(image.shape), 0.7, axis, mode="constant", truncate=20)
    np.testing.assert_allclose(pixels.blur(IMAGES, 0.7)[..., 0], blurred, atol=1e-6)
    np.testing.assert_allclose(
        sharpen(IMAGES, 0.5, 0.7)[..., 0], image + 0.5 * (image - blurred), atol=1e-6
    )
    np.testing.assert_allclose(
        median(IMAGES)[..., 0], median_filter(image, (1, 3, 3), mode="nearest"), atol=1e-7
    )


@pytest.mark.parametrize("distance", ["prediction", "logits"])
def test_preimage_is_yangs_objective(distance):
    """One step without jitter or blur against central differences of Eq. 4 and 5 in float64."""
    kept = dict(alpha=6.0, alpha_weight=0.3, beta=2.0, tv_weight=0.2, floor=1e-6)
    attack = attacks.preimage("class_average", distance, 1, 0.01, jitter=0, blur=0.0, **kept)
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    start = state["starts"][PREDICTION[0].argmax()].astype(np.float64)

    def objective(image):
        z = image.reshape(-1) @ WEIGHTS.astype(np.float64)
        y = np.log(PREDICTION[0].astype(np.float64))
        error = (
            softmax(z) - PREDICTION[0] if distance == "prediction" else z - z.mean() - y + y.mean()
        )
        down, right = (
            np.pad(np.diff(image[..., 0], axis=a), [(0, a == 0), (0, a == 1)]) for a in (0, 1)
        )
        return (error**2).sum() + 0.3 * (image**6).sum() + 0.2 * (down**2 + right**2).sum()

    wanted = np.zeros(SHAPE)
    for at in np.ndindex(*SHAPE):
        nudge = np.zeros(SHAPE)
        nudge[at] = 1e-5
        slope = (objective(start + nudge) - objective(start - nudge)) / 2e-5
        wanted[at] = np.clip(start[at] - 0.01 * slope, 0, 1)
    np.testing.assert_allclose(attack.predict(state, SEEN, known=LINEAR)[0], wanted, atol=1e-5)


def test_blur_comes_every_few_steps():
    """Without a loss worth the name, three steps of which the second blurs leave the start blurred
    once.
    """
    attack = attacks.preimage(
        "class_average", steps=3, learning_rate=1e-12, jitter=2, blur=0.8, blur_every=2
    )
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    wanted = pixels.blur(state["starts"][PREDICTION.argmax(1)], 0.8)
    np.testing.assert_allclose(attack.predict(state, SEEN, known=LINEAR), wanted, atol=1e-6)


def test_jitter_per_image():
    """Jitter rolls each image its own way."""
    keys = jax.random.split(KEY, len(IMAGES))
    rolled = np.stack([shift(IMAGES, keys, jnp.int32(step), 1) for step in range(4)])
    every = {(a, b): np.roll(IMAGES, (a, b), (1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    found = [
        [k for k, v in every.items() if np.array_equal(v[n], image)]
        for step in rolled
        for n, image in enumerate(step)
    ]
    assert all(len(each) == 1 for each in found)
    assert len({each[0] for each in found}) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        attacks.gradient_reconstruction(steps=3),
        attacks.gradient_reconstruction("random", steps=3),
        attacks.preimage(steps=3, blur_every=2, jitter=1),
        attacks.fredrikson(steps=3),
        attacks.activations(start="normal"),
    ],
)
def test_neighbours_change_nothing(attack, monkeypatch):
    """No guess depends on its neighbours or the batch size."""
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    whole = attack.predict(state, SEEN, known=LINEAR)
    assert whole.shape[1:] == attack.check(SEEN, IMAGES, known=LINEAR)
    others = Observation(np.concatenate([PREDICTION[:3], np.roll(PREDICTION[3:], 1, axis=1)]))
    np.testing.assert_allclose(
        attack.predict(state, others, known=LINEAR)[:3], whole[:3], atol=1e-6
    )
    monkeypatch.setattr(pixels, "batch_size", lambda: 4)
    np.testing.assert_allclose(attack.predict(state, SEEN, known=LINEAR), whole, atol=1e-6)


def test_one_program_per_shape():
    """One program serves new arrays of the same shape."""
    traces = []

    def counted(variables, images):
        traces.extend(images.shape[:1] * (len(images) > 1))  # a single image is the shape check's
        return apply(variables, images)

    known = WhiteBox(LINEAR.model._replace(apply=counted), WEIGHTS)
    attack = attacks.gradient_reconstruction(steps=2)
    guesses(attack, known=known)
    once = len(traces)
    guesses(
        attack,
        Observation(PREDICTION[::-1].copy()),
        known._replace(variables=WEIGHTS + 1),
        truth=IMAGES / 2,
    )
    assert len(traces) == once > 0


def test_coarse_to_fine_search():
    """The search is coarse, then fine, and finds the top."""

    def score(a, b):
        return -(np.log(a / 3e-3) ** 2) - np.log(b / 2e-4) ** 2

    trials = log_uniform_search(KEY, score, ((1e-5, 3e-2), (1e-6, 3e-2)), 200, 100)
    coarse, fine = np.log(trials.values[:200]), trials.values[200:]
    low, high = np.log([1e-5, 1e-6]), np.log([3e-2, 3e-2])
    np.testing.assert_allclose(coarse.mean(0), (low + high) / 2, atol=0.15 * (high - low).max())
    assert ((coarse >= low - 1e-6) & (coarse <= high + 1e-6)).all()
    best = trials.values[:200][trials.scores[:200].argmax()]
    assert ((fine >= 0.4999 * best) & (fine <= 1.5001 * best)).all()
    assert trials.scores.max() == score(*trials.best) > -0.1


@pytest.mark.slow
def test_fit_keeps_best_weights(monkeypatch):
    """`fit` keeps the weights of the best trial, in one program."""
    monkeypatch.setattr(reconstruction, "TRIAL_IMAGES", 4)
    traces, weights = [], DRAW.normal(size=(144, CLASSES)).astype(np.float32)

    def counted(variables, images):
        traces.extend(images.shape[:1] * (len(images) > 1))  # a single image is the shape check's
        return apply(variables, images)

    truth = DRAW.random((12, 12, 12, 1)).astype(np.float32)
    known = WhiteBox(LINEAR.model._replace(apply=counted), weights)
    attack = attacks.gradient_reconstruction(steps=2, search=(3, 2))
    state = attack.fit(KEY, SEEN, truth, known=known)
    trials = state["trials"]
    assert len(traces) == 1
    assert [len(trials[name]) for name in ("l2", "tv", "ssim")] == [5, 5, 5]
    best = trials["ssim"].argmax()
    assert (state["l2"], state["tv"]) == (trials["l2"][best], trials["tv"][best])
    np.testing.assert_allclose(state["history"]["loss"], 1 - trials["ssim"], rtol=1e-6)


def test_activations_stop_below_the_threshold():
    """Against the literal loop for one example, and MSE(head(A), Y) < τ for all, also of truncated
    predictions.
    """
    cut = np.where(PREDICTION.max(1, keepdims=True) == PREDICTION, PREDICTION, 0)
    attack = attacks.activations(threshold=0.5, learning_rate=0.02)
    for seen in (PREDICTION, cut):
        A = guesses(attack, Observation(seen))
        assert A.shape == (12, 1, 1, 30)
        Y = np.log(np.maximum(seen, 1e-6).astype(np.float64))
        Y -= Y.mean(1, keepdims=True)
        assert (np.square(A[:, 0, 0] @ WEIGHTS - Y).mean(1) <= 0.5 + 1e-5).all()
    literal = np.zeros(30)
    while np.square(literal @ WEIGHTS - Y[0]).mean() > 0.5:
        literal = literal - 0.02 * 2 / CLASSES * WEIGHTS @ (literal @ WEIGHTS - Y[0])
    np.testing.assert_allclose(A[0, 0, 0], literal, atol=1e-5)
    np.testing.assert_allclose(centred_logits(cut, 1e-6), Y, atol=1e-5)


def test_released_logits():
    """Logits are inverted as the probabilities are that they are of, whatever their constant."""
    logits = Observation(np.log(PREDICTION) + DRAW.normal(size=(12, 1)).astype(np.float32))
    for name, hyper in (
        ("gradient_reconstruction", {}),
        ("gradient_reconstruction", {"target": "label"}),
        ("preimage", {"distance": "logits"}),
        ("preimage", {"distance": "prediction"}),
    ):
        of_logits = attacks.build(name, **hyper, steps=4, given={"logits": True})
        assert of_logits.logits
        state = of_logits.fit(KEY, logits, IMAGES, known=LINEAR)
        found = of_logits.predict(state, logits, known=LINEAR)
        wanted = guesses(attacks.build(name, **hyper, steps=4))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_activations_of_logits():
    """Y is the released logits themselves: their constant is known."""
    Y = np.log(PREDICTION[:1].astype(np.float64)) + 4
    attack = attacks.activations(threshold=0.5, learning_rate=0.02, logits=True)
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    found = attack.predict(state, Observation(np.float32(Y)), known=LINEAR)
    literal = np.zeros(30)
    while np.square(literal @ WEIGHTS - Y[0]).mean() > 0.5:
        literal = literal - 0.02 * 2 / CLASSES * WEIGHTS @ (literal @ WEIGHTS - Y[0])
    np.testing.assert_allclose(found[0, 0, 0], literal, atol=1e-5)


DESCENTS = [
    attacks.gradient_reconstruction(steps=2),
    attacks.preimage(steps=2),
    attacks.fredrikson(steps=2),
    attacks.activations(steps=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("attack", DESCENTS)
def test_uninvertible_refused(attack):
    """Observations that cannot be inverted are named."""
    broken = Observation(np.where(np.arange(12)[:, None] == 5, np.nan, PREDICTION))
    with pytest.raises(InputError, match="prediction 5 of class 0 is nan: pred"):
        attack.fit(KEY, broken, IMAGES, known=LINEAR)
    with pytest.raises(InputError, match="must be finite"):
        attack.predict(attack.fit(KEY, SEEN, IMAGES, known=LINEAR), broken, known=LINEAR)
    for seen, images in (
        (Observation(PREDICTION[:3]), IMAGES),
        (Observation(PREDICTION[0]), IMAGES),
        (SEEN, IMAGES[0]),
    ):
        with pytest.raises(InputError, match="do not fit the others: give"):
            attack.fit(KEY, seen, images, known=LINEAR)
    with pytest.raises(InputError, match="the known model has 4 classes, and the predictions 2"):
        attack.fit(KEY, Observation(PREDICTION[:, :2]), IMAGES, known=LINEAR)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: attacks.gradient_reconstruction(start="mean"),
            "unknown start 'mean': choose one of class_average",
        ),
        (
            lambda: attacks.gradient_reconstruction(target="logits"),
            "unknown target 'logits': choose one of prediction",
        ),
        (
            lambda: attacks.gradient_reconstruction(tv=-1.0),
            "tv is -1.0 but must be finite and at least 0",
        ),
        (lambda: attacks.gradient_reconstruction(steps=0), "steps is 0 but must be a whole number"),
        (
            lambda: attacks.preimage(distance="l1"),
            "unknown distance 'l1': choose one of prediction, logits",
        ),
        (lambda: attacks.preimage(beta=0.0), "beta is 0.0 but must be positive"),
        (lambda: attacks.fredrikson(patience=0), "patience is 0 but must be a whole number"),
        (
            lambda: attacks.activations(start="ones"),
            "unknown start 'ones': choose one of zeros, normal",
        ),
        (
            lambda: log_uniform_search(KEY, max, ((0.0, 1.0),)),
            r"search range \(0.0, 1.0\) is not allowed",
        ),
        (
            lambda: attacks.gradient_reconstruction(search=(0, 1)),
            r"search \(0, 1\) is not allowed: give numbers",
        ),
        (
            lambda: attacks.gradient_reconstruction(search=5),
            "search 5 is not allowed: give numbers of coarse and fine",
        ),
        (lambda: attacks.gradient_reconstruction(l2=np.nan), "l2 is nan"),
        (lambda: attacks.gradient_reconstruction(learning_rate=np.inf), "learning_rate is inf"),
        (
            lambda: attacks.gradient_reconstruction(steps=2.5),
            "steps is 2.5 but must be a whole number of at",
        ),
        (lambda: attacks.gradient_reconstruction(steps="400"), "steps is '400'"),
        (
            lambda: attacks.preimage(tv_weight="1e-3"),
            "tv_weight is '1e-3' but must be finite and at least 0",
        ),
        (
            lambda: attacks.preimage(jitter=0.5),
            "jitter is 0.5 but must be a whole number of at least 0",
        ),
        (
            lambda: attacks.preimage(start=("zeros",)),
            r"unknown start \('zeros',\): choose one of class_average",
        ),
        (lambda: attacks.fredrikson(process_every=-1), "process_every is -1"),
        (lambda: attacks.activations(threshold=np.nan), "threshold is nan"),
        (
            lambda: attacks.gradient_reconstruction(search=(2, 1)).check(
                SEEN, IMAGES, known=LINEAR
            ),
            "images of at least 11 pixels a side: these have",
        ),
        (
            lambda: attacks.fredrikson().check(
                Observation(PREDICTION[:, :3]), IMAGES, known=LINEAR
            ),
            "the known model has 4 classes, and the predictions 3",
        ),
        (
            lambda: attacks.activations().check(SEEN, IMAGES, known=HEADLESS),
            "the known model has no embed and head",
        ),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
