"""Every setting of a config is checked before anything is computed."""

import copy
import math

import pytest
from test_audit import tiny

from xinv import store
from xinv.audit.run import opened
from xinv.audit.stage import Stages
from xinv.audit.validate import validate
from xinv.types import InputError

pytestmark = pytest.mark.slow

UNREAD = ("attack.encoder",)
"""Parameters of the attack that every arm of the config states itself."""


def settings(section, path=()):
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from settings(value, (*path, name))
        else:
            yield (*path, name), value


def meaningless(value):
    """Values that mean nothing in the place of `value`."""
    if isinstance(value, bool):
        return ["nowhere", 7]
    if isinstance(value, int | float):
        return [-1, "nowhere", math.nan]
    if isinstance(value, str):
        return ["../../x", 3]
    if isinstance(value, dict):
        return [{"nowhere": 1}, -1]
    return [("nowhere",), -1]


def changed(config, path, value):
    config = copy.deepcopy(config)
    section = config
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    return config


def test_every_setting(tmp_path):
    """No setting takes a value without a meaning, whatever reads it."""
    config = tiny()
    accepted = []
    with store.opened(tmp_path / "stages") as stages:
        kept = Stages(stages, tmp_path)
        validate(opened(config, kept))
        for path, value in settings(config):
            name = ".".join(path)
            if name in UNREAD or name.startswith("report.published"):
                continue
            for bad in meaningless(value):
                try:
                    validate(opened(changed(config, path, bad), kept))
                except InputError:
                    continue
                accepted.append((name, bad))
    assert not accepted
