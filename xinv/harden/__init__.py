"""Hardening: the search for a release of explanations that leaks less, and its policies.

    from xinv import harden

    policy = harden.load_policy("runs/harden/policies/saliency-0.json")
    maps = policy.release(apply, variables, images)

`run(config, workdir, stages)` searches, as launch/harden.py does (DeepLeak, Algorithms 1 and 2):

| file | concept |
|---|---|
| `released.py` | explanations whose noise is of the image |
| `candidate.py` | one way to release an explanation; the space of all |
| `propose.py` | the next candidates |
| `subject.py` | one explanation of one target, with its shadow model and controls |
| `trial.py` | how much a candidate leaks, and what is left of the explanation |
| `search.py` | generations of trials on one half of the images, and the choice |
| `result.py` | the leak before and after on the other half, with controls |
| `policy.py` | a release in a file |
| `check.py`, `run.py` | errors of a config; the order of a run |
"""

from xinv.harden.policy import Policy, load_policy

# Last: the function takes the place of the module of its name
from xinv.harden.run import run  # isort: skip

__all__ = ["Policy", "load_policy", "run"]
