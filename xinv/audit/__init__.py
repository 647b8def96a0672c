"""The audit: a config becomes stages, stages become rows in a folder."""

from xinv.audit.run import run

__all__ = ["run"]
