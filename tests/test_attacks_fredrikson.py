"""MI-Face: Fredrikson et al. 2015, Algorithm 1."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from linear_problem import CLASSES, IMAGES, KEY, LINEAR, SEEN, SHAPE, WEIGHTS, softmax
from sklearn.datasets import load_digits

from xinv import attacks, models, train
from xinv.attacks.fredrikson import median, sharpen
from xinv.types import Observation, WhiteBox


def digits_model():
    """A convolutional classifier of the 8×8 digits, trained in seconds."""

    class Small(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool):
            x = nn.relu(nn.Conv(16, (3, 3), strides=2)(images))
            return nn.Dense(10)(x.reshape(len(x), -1))

    data = load_digits()
    images = (data.images[..., None] / 16).astype(np.float32)
    model = models.linen(Small())
    variables = jax.jit(model.init)(KEY, images[:1])
    batch = {"image": images, "label": data.target.astype(np.int32)}
    recipe = train.Recipe(epochs=4, batch_size=64, learning_rate=3e-3)
    return WhiteBox(
        model, train.fit(train.classifier_loss(model), variables, batch, KEY, recipe).variables
    ), images


@pytest.mark.slow
def test_finds_a_sure_image():
    """MI-Face finds an image that the model is sure of."""
    known, images = digits_model()
    attack = attacks.fredrikson(steps=2000, learning_rate=1.0, threshold=0.05)
    seen = Observation(np.eye(10, dtype=np.float32)[[3, 8, 3]])
    state = attack.fit(KEY, seen, images[:3], known=known)
    confidence = np.asarray(jax.nn.softmax(known.model.apply(known.variables, state["images"])))
    np.testing.assert_allclose(confidence.diagonal(), state["confidence"], atol=1e-5)
    assert (confidence.diagonal() >= 0.95 - 1e-5).all()
    assert (state["steps"] < 2000).all()
    np.testing.assert_array_equal(
        attack.predict(state, seen, known=known), state["images"][[3, 8, 3]]
    )


def literal_mi_face(label, steps, rate, patience, threshold, every):
    """Fredrikson's Algorithm 1 on the linear model."""
    weights = WEIGHTS.astype(np.float64)
    image, best = np.zeros(SHAPE), np.zeros(SHAPE)

    def cost(image):
        return 1 - softmax(image.reshape(-1) @ weights)[label]

    costs = [cost(image)]
    for step in range(1, steps + 1):
        p = softmax(image.reshape(-1) @ weights)
        gradient = -p[label] * (weights[:, label] - weights @ p)
        image = np.clip(image - rate * gradient.reshape(SHAPE), 0, 1)
        if step % every == 0:
            image = np.clip(sharpen(median(image[None]), 0.5, 1.0)[0], 0, 1)
        best = image if cost(image) < min(costs) else best
        costs.append(cost(image))
        if step >= patience and costs[step] >= max(costs[step - patience : step]):
            break
        if costs[step] <= threshold:
            break
    return best, step


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "threshold"), [(3, 0.0), (50, 0.2)])
def test_papers_algorithm(patience, threshold):
    """MI-Face is the paper's algorithm."""
    attack = attacks.fredrikson(40, 0.3, patience, threshold, process_every=7)
    state = attack.fit(KEY, SEEN, IMAGES, known=LINEAR)
    for label in range(CLASSES):
        image, steps = literal_mi_face(label, 40, 0.3, patience, threshold, 7)
        assert state["steps"][label] == steps
        np.testing.assert_allclose(state["images"][label], image, atol=1e-4)
