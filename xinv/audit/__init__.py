"""The audit: what a service's predictions and explanations give away.

`release(images, prediction, explanations, workdir=...)` audits arrays; `run(config, workdir, stages)` a whole config,
as launch/run.py does. In the order of the data:

| file | what |
|---|---|
| `roles.py` | who may see which images |
| `target.py` | targets that xinv did not train: a function of your own, recorded releases |
| `service.py` | classifiers, their predictions and explanations |
| `chain.py`, `release.py` | defences in order; what someone sees through them |
| `goals/` | what an attack is after: reconstruction, membership |
| `attacker.py` | one attack of the comparison: an arm |
| `evaluate.py`, `measure.py` | metrics of guesses, of defended explanations, of classifiers |
| `stage.py` | results declared by what determines them |
| `validate.py` | errors of a config, found before anything is computed |
| `run.py`, `results.py`, `environment.py` | the order of a run, and its files |
| `own.py` | the audit of arrays |
"""

from xinv.audit.run import run  # isort: skip: the functions take the place of the modules of these names
from xinv.audit.own import release

__all__ = ["release", "run"]
