"""Training: one loop for every network of xinv, attacked or attacking.

>>> import jax, numpy as np
>>> from xinv import train
>>> data = {"x": np.linspace(-1, 1, 64, dtype=np.float32)}
>>> def loss(variables, batch, key):
...     return (variables * batch["x"] - 2 * batch["x"]) ** 2, {}
>>> recipe = train.Recipe(batch_size=16, epochs=20, learning_rate=0.1)
>>> fitted = train.fit(loss, np.float32(0), data, jax.random.key(0), recipe)
>>> round(float(fitted.variables), 1)
2.0

`fit(loss, variables, data, key, recipe)` minimises a loss; `loop` runs any step of your own, such
as a game of two networks. If its `Session` has a directory, a killed training continues from there
to the same result.

| file | concept |
|---|---|
| `loop.py` | the loop |
| `step.py` | the ordinary step, the loss of a classifier |
| `private.py` | the step with differential privacy |
| `recipe.py` | batch size, epochs, optimizer, schedule, augmentation |
| `batches.py` | the examples of each step |
| `progress.py` | curves, lines on the terminal, divergence |
| `checkpoint.py` | the states to continue from after a kill |
| `scalars.py` | TensorBoard |
"""

from xinv.train.batches import Evaluate, steps_per_epoch
from xinv.train.loop import Fitted, Session, Stopped, fit, left_out, loop, never
from xinv.train.private import private_step, require_independent
from xinv.train.progress import Diverged
from xinv.train.recipe import Recipe, optimizer
from xinv.train.step import Loss, State, classifier_loss, sgd_step

__all__ = [
    "Diverged",
    "Evaluate",
    "Fitted",
    "Loss",
    "Recipe",
    "Session",
    "State",
    "Stopped",
    "classifier_loss",
    "fit",
    "left_out",
    "loop",
    "never",
    "optimizer",
    "private_step",
    "require_independent",
    "sgd_step",
    "steps_per_epoch",
]
