"""The sections of a config: each is there, complete, and without settings of no effect."""

from collections.abc import Collection, Mapping
from typing import Any

from xinv.audit import cost
from xinv.audit.form import REGIONS, require_form
from xinv.audit.goals import MEMBERSHIP, RECONSTRUCTION
from xinv.audit.results import Config
from xinv.numbers import described, is_one_of
from xinv.types import InputError

SECTIONS = (
    "unit",
    "seed",
    "seeds",
    "data",
    "target",
    "evaluation",
    "shadows",
    "attributes",
    "service",
    "explanations",
    "defences",
    "defender",
    "attack",
    "arms",
    "metrics",
    "analysis",
    "report",
)
"""The sections that a config must have."""
DATA = ("source", "transform", "roles")
"""The settings of a data set."""
HARDEN = "harden"
"""A section that a config may have besides: the search of launch/harden.py."""
TARGETS = {"model": ("model", "train"), "function": ("function",), "recorded": ("recorded",)}
"""The settings of a target section beside label and roles, by the kind of target."""


def sections(config: Config) -> None:
    """Checks that a config has every section, and names a factory wherever one is needed.

    Raises:
      InputError: it does not.
    """
    # Names of sections and of their settings
    groups = (*RECONSTRUCTION.metrics, cost.UTILITY, *MEMBERSHIP.metrics)
    known = (*SECTIONS, HARDEN) if HARDEN in config else SECTIONS
    require_keys("the config", config, known)
    require_form(config)
    require_keys("service", config["service"], ("prediction",))
    require_keys("metrics", config["metrics"], groups)
    require_keys("data", config["data"], (*DATA, "auxiliary"))
    if config["data"]["auxiliary"]:
        require_keys("data.auxiliary", config["data"]["auxiliary"], DATA)
    require_keys("defender", config["defender"], ("role", "held_out"))
    require_keys(
        "report",
        config["report"],
        ("role", "examples", "published", "positive_control"),
    )
    _target(config["target"])
    if config["analysis"]:
        _analysis(config["analysis"], config["explanations"])
    for name, settings in {"attack": config["attack"], **config["defences"]}.items():
        _require_no_noise(name, settings)

    # Names of factories
    _require_name("data.source", config["data"]["source"])
    if "model" in config["target"]:
        _require_name("target.model", config["target"]["model"])
    for kind in ("explanations", "defences"):
        for name, settings in config[kind].items():
            _require_name(f"{kind}.{name}", settings)


def require_keys(
    what: str,
    settings: Mapping[str, Any],
    known: Collection[str],
) -> None:
    """Checks that a section of a config, `what`, has the `known` settings and no others.

    Raises:
      InputError: one is missing, or another would be ignored.
    """
    # A misspelt name is missing and unknown: the missing one says more
    allowed = ", ".join(known)
    for name in known:
        if name not in settings:
            raise InputError(f"{what} has no {name!r}: it needs {allowed}")
    for name in settings:
        if name not in known:
            raise InputError(f"{what} has {name!r}, which is ignored: it needs {allowed}")


def _require_name(path: str, settings: Mapping[str, Any]) -> None:
    # A defence with the state of another has its factory too
    if "name" not in settings and "reuse_state_of" not in settings:
        raise InputError(f"{path} has no name: give that of a factory, beside its parameters")


def _require_no_noise(name: str, settings: Config) -> None:
    # Noise is to protect the training set of a classifier that is released
    noise = settings.get("train", {}).get("noise", 0)
    if noise:
        raise InputError(
            f"the training of {name!r} has noise {noise}, but only classifiers are trained with "
            "differential privacy: set its clip and noise to 0"
        )


def _analysis(settings: Config, explanations: Config) -> None:
    require_keys("analysis", settings, ("explanation", "region"))
    for name, allowed in {"explanation": explanations, "region": REGIONS}.items():
        value = settings[name]
        if not is_one_of(value, allowed):
            raise InputError(
                f"analysis.{name} is {described(value)}: choose one of {', '.join(allowed)}"
            )


def _target(settings: Config) -> None:
    # One target, of one kind
    found = [kind for kind in TARGETS if kind in settings]
    if len(found) != 1:
        stated = ", ".join(found) or "no model"
        raise InputError(f"the target has {stated}: give one of {', '.join(TARGETS)}")
    known = ["label", "roles", *TARGETS[found[0]]]
    # Only a training here may be joint, or use soft labels
    if found == ["model"]:
        known += [name for name in ("joint", "teacher") if name in settings]
    require_keys(f"a target with {found[0]}", settings, known)
