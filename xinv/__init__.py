"""xinv measures what a model's explanations give away, and hardens them.

| module | contents |
|---|---|
| `xinv.data` | labelled images from idx files, folders, archives, npz or TFDS; disjoint roles |
| `xinv.models` | target classifiers and inversion networks as pure functions |
| `xinv.explain` | explanations of any JAX function |
| `xinv.attacks` | inversion and membership attacks on predictions and explanations |
| `xinv.defences` | changes of an observation before its release |
| `xinv.metrics` | success of attacks, fidelity of released maps; intervals over seeds |
| `xinv.train` | the one training loop |
| `xinv.store` | results of stages, computed once under a hash of all that determines them |
| `xinv.audit` | a config becomes results in a folder; `xinv.report` shows them |
| `xinv.harden` | the search for a release that leaks less; release policies |
| `xinv.sweep` | many audits, by any number of processes |
| `xinv.types` | the protocols that plug-ins follow, and `InputError` |

Each package opens with an example that runs. Those of `data`, `explain`, `attacks`, `defences` and
`metrics` end with "How to extend": a complete plug-in.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "attacks",
    "audit",
    "data",
    "defences",
    "explain",
    "harden",
    "metrics",
    "models",
    "report",
    "store",
    "sweep",
    "train",
    "types",
]


def __getattr__(name: str) -> ModuleType:
    """Imports a module of the table when it is first used, so that the others cost nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'xinv' has no attribute {name!r}")
    return importlib.import_module(f"xinv.{name}")
