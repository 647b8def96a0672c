"""Images, what a linear model answers about them, and the model as an attacker holds it."""

import jax
import numpy as np

from xinv.types import Model, Observation, WhiteBox

KEY = jax.random.key(3)
SHAPE, CLASSES = (6, 5, 1), 4
DRAW = np.random.default_rng(0)
IMAGES = DRAW.random((12, *SHAPE)).astype(np.float32)
PREDICTION = DRAW.dirichlet(np.ones(CLASSES), 12).astype(np.float32)
WEIGHTS = DRAW.normal(size=(30, CLASSES)).astype(np.float32)
SEEN = Observation(PREDICTION)


def apply(variables, images):
    return images.reshape(len(images), -1) @ variables


def embed(variables, images):
    return images.reshape(len(images), -1)


LINEAR = WhiteBox(
    Model(None, apply, None, embed, lambda variables, features: features @ variables), WEIGHTS
)


def guesses(attack, seen=SEEN, known=LINEAR, truth=IMAGES, fitted=SEEN):
    state = attack.fit(KEY, fitted, truth, known=known)
    return attack.predict(state, seen, known=known)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
