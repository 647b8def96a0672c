"""Goals: what an attack is after.

A privacy game fixes what is hidden, whose examples are reported, and how a guess is judged: one file each.
"""

from xinv.audit.goals.attribute import ATTRIBUTE
from xinv.audit.goals.goal import Goal
from xinv.audit.goals.membership import MEMBERSHIP
from xinv.audit.goals.reconstruction import RECONSTRUCTION

GOALS: dict[str, Goal] = {goal.name: goal for goal in (RECONSTRUCTION, MEMBERSHIP)}
"""What an attack states as its goal. Attributes are judged on reconstructions."""

__all__ = ["ATTRIBUTE", "GOALS", "MEMBERSHIP", "RECONSTRUCTION", "Goal"]
