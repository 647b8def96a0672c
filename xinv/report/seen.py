"""What an attack saw of the service, by the unit's config: a row names what it reads, wherever that comes from."""

import json
from collections.abc import Mapping
from typing import Any


def explanations(config: Mapping[str, Any], reads: str | None) -> list[str]:
    """Those of the "+"-joined `reads` that are explanations, and not the guesses of other arms."""
    arms = set(config.get("arms", ())) - set(config.get("explanations", ()))
    return [name for name in reads.split("+") if name not in arms] if reads else []


def seen(config: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's explainer as far as the service released it, and the kind of its attack.

    An explanation that the attacker makes itself, of a surrogate or by inversion, is not released. Arms of one kind
    differ in nothing but the defences and how often they query.
    """
    arm = config.get("arms", {}).get(row["arm"], {})
    service = arm.get("sees", {"prediction": None, "explanation": None})
    released = service["explanation"] == service["prediction"]
    explainer = "+".join(explanations(config, row["explainer"])) if released else ""
    learns, sees = ({**arm.get(view, {}), "defences": None, "queries": None} for view in ("learns", "sees"))
    kind = [explainer, row["inputs"], {**arm, "learns": learns, "sees": sees}]
    return {"explainer": explainer or None, "kind": json.dumps(kind, sort_keys=True)}


def queries(config: Mapping[str, Any], arm: str) -> int:
    """How many releases of each image an attack averages; 1 where the config does not say."""
    return config.get("arms", {}).get(arm, {}).get("sees", {}).get("queries", 1)
