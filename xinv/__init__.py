"""xinv measures the leak of a model's explanations, and hardens them.

| module | contents |
|---|---|
| `xinv.data` | labelled images from idx files, folders, archives, npz or TFDS; disjoint roles |
| `xinv.models` | target classifiers and inversion networks as pure functions |
| `xinv.explain` | explanations of any JAX function |
| `xinv.attacks` | inversion and membership attacks on predictions and explanations |
| `xinv.defences` | changes of an observation before its release |
| `xinv.metrics` | success of attacks, fidelity of released maps; intervals over seeds |
| `xinv.train` | the one training loop |
| `xinv.store` | results of stages, computed once under a hash of their inputs |
| `xinv.audit` | a config becomes results in a folder; `xinv.report` shows them |
| `xinv.harden` | the search for a release with a smaller leak; release policies |
| `xinv.sweep` | many audits, by any number of processes |
| `xinv.types` | the protocols of plug-ins, and `InputError` |

Each package opens with a tested example. Those of `data`, `explain`, `attacks`, `defences` and
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
    """Imports a module of the table at its first use, so the others cost nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'xinv' has no attribute {name!r}")
    return importlib.import_module(f"xinv.{name}")
