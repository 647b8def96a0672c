"""Hardening: the search for a release of explanations that leaks less, and its policies.

>>> import numpy as np
>>> from xinv import harden
>>> def apply(variables, images):
...     return images.reshape(len(images), -1) @ variables
>>> variables, images = np.eye(16, 3, dtype=np.float32), np.zeros((2, 4, 4, 1), np.float32)
>>> policy = harden.Policy(
...     explainer=dict(name="saliency", normalise="none"),
...     defences=(dict(name="noise", stdev=0.1),),
...     secret=np.uint32([1, 2]),  # draw yours at random, and keep it
...     model=None,
...     reference=None,
...     state={},
...     measured={},
... )
>>> policy.save("saliency.json")
>>> maps = harden.load_policy("saliency.json").release(apply, variables, images)
>>> bool((maps[0] == maps[1]).all())  # the noise of an image is the same every time
True

launch/harden.py writes policies: `run(config, workdir, stages)` searches (DeepLeak, Algorithms 1
and 2), and any number of processes `assist` it:

| file | concept |
|---|---|
| `released.py` | explanations whose noise is of the image |
| `candidate.py` | one way to release an explanation; the space of all |
| `propose.py` | the next candidates |
| `subject.py` | one explanation of one target, with its shadow model and controls |
| `trial.py` | how much a candidate leaks, and what is left of the explanation |
| `search.py` | generations of trials on one half of the images, and the choice |
| `ways.py` | what one run compares: searches, defences, other trainings |
| `result.py` | the leak before and after on the other half, with controls |
| `inversion.py` | how well images are rebuilt from the release |
| `policy.py`, `policy_file.py` | a release to apply; its file |
| `check.py`, `check_ways.py`, `run.py` | errors of a config; the order of a run |
"""

from xinv.harden.policy import Policy, load_policy

# Last: the function takes the place of the module of its name
from xinv.harden.run import assist, run  # isort: skip

__all__ = ["Policy", "assist", "load_policy", "run"]
