"""What an attack saw of the service, by the unit's config: a row names what it reads, wherever that comes from."""

import json
from collections.abc import Mapping
from typing import Any


def explanations(config: Mapping[str, Any], reads: str | None) -> list[str]:
    """Those of the "+"-joined `reads` that are explanations, and not the guesses of other arms."""
    arms = set(config.get("arms", ())) - set(config.get("explanations", ()))  # where both have a name, it is read first
    return [name for name in reads.split("+") if name not in arms] if reads else []


def seen(config: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's explainer as far as the service released it, and the kind of its attack.

    An explanation that the attacker makes itself, of a surrogate or by inversion, is not released. Arms of one kind
    differ in nothing but the defences and how many releases of an image they have.
    """
    service = config.get("arms", {}).get(row["arm"], {}).get("sees", {"prediction": None, "explanation": None})
    released = service["explanation"] == service["prediction"]
    explainer = "+".join(explanations(config, row["explainer"])) if released else ""
    kind = [explainer, row["inputs"], _method(config, row["arm"])]
    looks = _looks(config, row["arm"])
    return {"explainer": explainer or None, "kind": json.dumps(kind, sort_keys=True), "looks": looks}


def _looks(config: Mapping[str, Any], arm: str) -> str:
    """How many releases of an image an attack has, for people; nothing where it is one."""
    asked, learned = queries(config, arm), releases(config, arm)
    told = [f"learns from {learned} releases"] if learned > 1 else []
    return ", ".join(told + ([f"averages {asked}"] if asked > 1 else []))


def _method(config: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """An arm's section without its defences, numbers of releases and whether it is scored; so are those it reads."""
    settings, explained = config.get("arms", {}).get(arm, {}), config.get("explanations", ())
    alike = dict.fromkeys(("defences", "queries", "releases"))
    views = {view: {**settings.get(view, {}), **alike} for view in ("learns", "sees")}
    others = set(config.get("arms", ())) - {*explained, "prediction"}
    reads = [_method(config, name) if name in others else name for name in settings.get("reads", ())]
    return {**settings, **views, "reads": reads, "scored": None}


def queries(config: Mapping[str, Any], arm: str) -> int:
    """How many releases of each image an attack averages; 1 where the config does not say."""
    return config.get("arms", {}).get(arm, {}).get("sees", {}).get("queries", 1)


def releases(config: Mapping[str, Any], arm: str) -> int:
    """How many releases of each of its images an attack learns from; 1 where the config does not say."""
    return config.get("arms", {}).get(arm, {}).get("learns", {}).get("releases", 1)


def adaptive(config: Mapping[str, Any], arm: str) -> bool:
    """Whether an attack was trained on releases that are defended as what it sees; False where nothing says so."""
    settings = config.get("arms", {}).get(arm, {})
    views = [settings.get(view, {}).get("defences") for view in ("learns", "sees")]
    return views[0] == views[1] is not None
