"""Training: one loop for every network of xinv, attacked or attacking.

`fit(loss, variables, data, key, recipe)` minimises a loss; `loop` runs any step of your own, such as a game of two
networks. A training is killed and continued to the same result where its `Session` has a directory.

| file | what |
|---|---|
| `loop.py` | the loop, the ordinary step, the loss of a classifier |
| `recipe.py` | batch size, epochs, optimizer, schedule, augmentation |
| `batches.py` | which examples each step sees |
| `progress.py` | curves, lines on the terminal, divergence |
| `checkpoint.py` | the states that a killed training continues from |
| `scalars.py` | TensorBoard |

>>> import jax, numpy as np
>>> data = {"x": np.linspace(-1, 1, 64, dtype=np.float32)}
>>> loss = lambda variables, batch, key: ((variables * batch["x"] - 2 * batch["x"]) ** 2, {})
>>> recipe = Recipe(batch_size=16, epochs=20, learning_rate=0.1)
>>> fitted = fit(loss, np.float32(0), data, jax.random.key(0), recipe)
>>> round(float(fitted.variables), 1)
2.0
"""

from xinv.train.batches import Evaluate, steps_per_epoch
from xinv.train.loop import Fitted, Loss, Session, State, classifier_loss, fit, loop, sgd_step
from xinv.train.progress import Diverged
from xinv.train.recipe import Recipe, optimizer

__all__ = [
    "Diverged",
    "Evaluate",
    "Fitted",
    "Loss",
    "Recipe",
    "Session",
    "State",
    "classifier_loss",
    "fit",
    "loop",
    "optimizer",
    "sgd_step",
    "steps_per_epoch",
]
