"""The audit: the leakage of images through a service's predictions and explanations.

>>> import numpy as np
>>> from xinv import audit
>>> random = np.random.default_rng(0)
>>> images = random.integers(0, 256, (60, 16, 16, 1), np.uint8)  # yours; the model never saw them
>>> probabilities, maps = random.dirichlet(np.ones(3), 60), random.normal(size=(60, 4, 4, 1))
>>> quick = dict(seeds=1, width=1 / 64, epochs=1, batch_size=8, test=0.3)  # not for figures
>>> rows = audit.release(images, probabilities, {"gradcam": maps}, workdir="audit", **quick)
>>> sorted({row["arm"] for row in rows if row["metric"] == "ssim"})  # and audit/report.html
['gradcam', 'prediction']

`release` audits arrays, `run(config, workdir, stages)` a whole config, as launch/run.py does. Start
reading at `run.py`: `_audit` is one seed from its classifiers to its rows. In the order of the
data:

| file | concept |
|---|---|
| `roles.py` | who may see which images |
| `target.py`, `weights.py`, `recorded.py` | targets of other hands: your function, recordings |
| `service.py` | classifiers, their predictions and explanations |
| `training.py`, `outputs.py` | the training of one classifier; its logits and explanations |
| `link.py`, `chain.py` | one defence; several in order |
| `distortion.py` | the change of explanations by defences |
| `release.py` | the answers about images, through defences |
| `goals/` | the aim of an attack: reconstruction, attributes, membership |
| `method.py`, `view.py` | an attack; the releases and guesses that it sees |
| `holdings.py` | all else that an attacker has |
| `attacker.py` | one attack of the comparison: an arm |
| `measure.py`, `evaluate.py` | metrics of guesses and of classifiers |
| `cost.py`, `leaks.py`, `privacy.py` | the cost of defences; causes of a leak; the ε of DP-SGD |
| `stage.py` | results declared by their spec |
| `form.py`, `sections.py`, `usage.py`, `validate_*.py`, `validate.py` | errors of a config |
| `describe.py`, `rows.py`, `examples.py` | the rows and pictures of a report |
| `run.py`, `results.py`, `environment.py` | the order of a run, and its files |
| `own.py` | the audit of arrays |
"""

# In this order, and last: the functions take the place of the modules of these names
from xinv.audit.run import run  # isort: skip
from xinv.audit.own import release

__all__ = ["release", "run"]
