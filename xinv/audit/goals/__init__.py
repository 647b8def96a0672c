"""Goals: the aim of an attack.

A privacy game fixes the secret, the reported examples, and the measure of a guess: one file each.
"""

from xinv.audit.goals.attribute import ATTRIBUTE
from xinv.audit.goals.goal import Goal
from xinv.audit.goals.membership import MEMBERSHIP
from xinv.audit.goals.reconstruction import RECONSTRUCTION

GOALS: dict[str, Goal] = {goal.name: goal for goal in (RECONSTRUCTION, MEMBERSHIP)}
"""The goals that an attack may state. Attributes are judged on reconstructions."""

__all__ = ["ATTRIBUTE", "GOALS", "MEMBERSHIP", "RECONSTRUCTION", "Goal"]
