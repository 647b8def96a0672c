"""Flags, configs and errors of the launchers: each mistake of a person gets one clear sentence."""

import ast
import contextlib
import ctypes
import functools
import importlib.util
import math
import operator
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # so that configs may import configs.base

from xinv.types import InputError

_HARDEN = "harden"  # the section of launch/harden.py
_TEMPLATE = "base"  # of configs/, the file that shows every key and is no experiment
AGAIN = 75
"""Exit status of a process to start again (EX_TEMPFAIL)."""
_PR_SET_PDEATHSIG = 1
_NULLABLE = re.compile(r"--?config\.(data\.[\w.]+)")  # the section whose fields may be set to None


class _Literal(flags.ArgumentParser):
    """Reads the value of a field that is None in the config: a Python literal, or else a string."""

    def parse(self, argument: str) -> object:
        try:
            return ast.literal_eval({"true": "True", "false": "False"}.get(argument, argument))
        except (SyntaxError, TypeError, ValueError):
            return argument


config_flags.register_flag_parser_for_type(type(None), _Literal())


_leaving: list[Callable[[], None]] = []


def at_interrupt(call: Callable[[], None]) -> None:
    """Registers `call()` to be made before Ctrl-C ends the process."""
    _leaving.append(call)


def _interrupted(*_: object) -> None:
    """Leaves at once: a run may be stopped at any moment."""
    print(
        "\ninterrupted: the same command continues where this one stopped",
        file=sys.stderr,
        flush=True,
    )
    # Not by sys.exit, which would wait for threads.
    for call in _leaving:
        with contextlib.suppress(OSError):
            call()
    os._exit(130)


signal.signal(signal.SIGINT, _interrupted)


class Stop:
    """True once one of `signals` has come; a training then saves its state and leaves."""

    def __init__(self, *signals: signal.Signals):
        self._stopped = False
        for number in signals:
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self._stopped

    def _receive(self, *_: object) -> None:
        self._stopped = True


def die_with(parent: int) -> None:
    """Ends this process when its `parent` dies in whatever way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before
    if os.getppid() != parent:
        os._exit(AGAIN)


def main(run: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls `run(argv)`; bad input ends in one sentence and exit status 2."""
    app.run(lambda argv: _guarded(run, argv), flags_parser=lambda argv: _guarded(_parse, argv))


def config_file(value: str) -> tuple[ModuleType, str]:
    """Returns the module of a `--config=FILE:ARG`, and ARG ("" without).

    Raises:
      InputError: there is no such file, or it defines no get_config.
    """
    path, _, arg = value.partition(":")
    if not Path(path).is_file():
        known = ", ".join(_experiments()) or "none"
        raise InputError(f"there is no config file {path!r}: known here are {known}")
    # Load by path: the file may lie outside configs/
    spec = importlib.util.spec_from_file_location("xinv_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} is no config file: it defines no get_config(arg)")
    return module, arg


def _experiments() -> list[str]:
    """Returns the files of configs/ that define an experiment."""
    found = []
    for file in sorted(Path("configs").glob("*.py")):
        # Data sets and published figures are in files of their own there
        if file.stem != _TEMPLATE and "\ndef get_config(" in file.read_text():
            found.append(str(file))
    return found


def config(flag: flags.FlagHolder) -> dict:
    """Returns the value of a `DEFINE_config_file` flag as a plain dict."""
    if flag.value is None:
        raise InputError(
            "--config is missing: name a file of configs/, for example --config=configs/digits.py"
        )
    return flag.value.to_dict()


def audited(config: dict) -> dict:
    """Returns a config without the section of launch/harden.py.

    Raises:
      InputError: the command line sets a field of that section: an audit does not read it.
    """
    for path in overridden(sys.argv):
        if path.partition(".")[0] == _HARDEN:
            raise InputError(f"--config.{path} is read by launch/harden.py alone: leave it out")
    return {name: section for name, section in config.items() if name != _HARDEN}


def units(flag: flags.FlagHolder) -> list[dict]:
    """Returns the units of a config's sweep, with the overrides of the command line.

    Raises:
      InputError: the config has no sweep, or a unit does not fit it.
    """
    base = config(flag)
    # Load the file itself: the flag keeps its config, not its sweep
    module, arg = config_file(config_flags.get_config_filename(flags.FLAGS["config"]))
    if not hasattr(module, "sweep"):
        raise InputError(
            f"{module.__file__} defines no sweep(arg, config): run it with launch/run.py"
        )
    return [changed(base, change) for change in module.sweep(arg, ConfigDict(base))]


def unit(flag: flags.FlagHolder, name: str) -> dict:
    """Returns one unit of `units` by its name; the config itself if the name is empty.

    Raises:
      InputError: there is no such unit, or it has a value of its own for an override.
    """
    base = config(flag)
    if not name:
        return base
    found = {config["unit"]: config for config in units(flag)}
    if name not in found:
        raise InputError(f"the sweep has no unit {name!r}: choose one of {', '.join(found)}")
    for path in overruled(found[name], base):
        raise InputError(f"unit {name} sets {path} itself: leave out --config.{path}")
    return found[name]


def overruled(config: dict, base: dict) -> list[str]:
    """Returns the paths of the command line's overrides that a unit's own values replace."""
    # A unit that differs from the base in this key has set it itself
    return [path for path in overridden(sys.argv) if _at(config, path) != _at(base, path)]


def require_read(configs: Sequence[dict]) -> None:
    """Raises InputError for a wrong section, or an override that none of these configs reads."""
    from xinv.audit.attacker import unread  # after the flags: this takes seconds
    from xinv.audit.sections import sections

    ignored = []
    for config in configs:
        sections(config)
        ignored.append(unread(config))
    for path in overridden(sys.argv):
        above = [path.rsplit(".", count)[0] for count in range(path.count(".") + 1)]
        if all(set(above) & set(paths) for paths in ignored):
            raise InputError(f"no attack of this config reads {path}: leave out --config.{path}")


def _at(config: dict, path: str) -> object:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def changed(base: dict, change: dict) -> dict:
    """Returns a config with the changes of a sweep's unit.

    A dict replaces its whole section, any other value a field.
    """
    config = ConfigDict(base).lock()
    sections = {name: value for name, value in change.items() if isinstance(value, dict)}
    # A locked config refuses unknown keys
    try:
        config.update_from_flattened_dict(
            {name: value for name, value in change.items() if name not in sections}
        )
        for name, value in sections.items():
            *path, last = name.split(".")
            functools.reduce(operator.getitem, path, config)[last] = ConfigDict(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the sweep's unit {change} does not fit the config: {error}") from None
    return config.to_dict()


def overridden(argv: Sequence[str]) -> list[str]:
    """Returns the paths of the config's fields in arguments, in order and each once."""
    # A dict drops repeats and keeps the order
    return list(
        dict.fromkeys(
            re.findall(
                r"^--?config\.([^=\n[]+)",
                "\n".join(argv),
                flags=re.MULTILINE,
            )
        )
    )


def _guarded(call: Callable[[Sequence[str]], object], argv: Sequence[str]) -> object:
    try:
        return call(argv)
    except Exception as error:
        # Keep the traceback of a program's own fault
        said = sentence(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def sentence(error: Exception) -> str | None:
    """Returns a sentence on an error of a person; None if the error is a fault of the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, flags.Error):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    return None


def _parse(argv: Sequence[str]) -> list[str]:
    # Overrides are checked first: the flags' own error would not name the keys of the config.
    named = re.search(r"^--?config[=\n](.+)$", "\n".join(argv), flags=re.MULTILINE)
    cleared = []
    if named:
        _check_overrides(named[1], argv)
        argv, cleared = _without_nones(argv)
    arguments = flags.FLAGS(argv)
    for flag in flags.FLAGS.flags_by_module_dict().get(sys.argv[0], ()):
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise InputError(f"--{flag.name} is {flag.value} but must be finite")
    # Clear fields only now: the config exists once the flags are parsed
    for path in cleared:
        _clear(path)
    logging.set_verbosity(logging.FATAL)  # Orbax tells every file it writes, and its errors twice
    if len(arguments) > 1:
        raise InputError(
            f"unknown argument {arguments[1]!r}: everything is given by --flag=value, see"
            " --helpshort"
        )
    return arguments


def _without_nones(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns arguments without those that set a data field to None, and the paths of these fields.

    The flag of a field has the type of its value, so None needs this. The last argument of a field
    counts, as elsewhere.
    """
    kept = []
    cleared = []
    places = iter(range(len(argv)))
    for place in places:
        flag, _, value = argv[place].partition("=")
        # --flag None in two arguments, or --flag=None in one
        apart = argv[place + 1 : place + 2] == ["None"] and "=" not in argv[place]
        named = _NULLABLE.fullmatch(flag)
        # A later value of the same field undoes an earlier None.
        if named:
            cleared = [path for path in cleared if path != named[1]]
        if not named or not (apart or value == "None"):
            kept.append(argv[place])
            continue
        cleared.append(named[1])
        if apart:
            next(places)
    return kept, cleared


def _clear(path: str) -> None:
    """Sets a field of the config to None."""
    # A section may not be cleared: the audit reads its fields.
    *parents, field = path.split(".")
    node = flags.FLAGS["config"].value
    for parent in parents:
        node = node[parent]
    if hasattr(node[field], "keys"):
        raise InputError(
            f"config.{path} is a section, which may not be None: it has {', '.join(node[field])}"
        )
    node[field] = None


def _check_overrides(value: str, argv: Sequence[str]) -> None:
    """Names the first `--config.a.b=…` whose key the config lacks, and the keys that it has."""
    # The flags are not parsed yet, so the config is made here once more.
    module, arg = config_file(value)
    try:
        config = module.get_config(arg)
    except ValueError as error:
        raise InputError(f"--config={value}: {error}") from None
    # Key by key, so that the error names the section and its keys.
    for path in overridden(argv):
        node, seen = config, "config"
        for key in path.split("."):
            if key not in node:
                raise InputError(
                    f"unknown config key {path!r}: {seen} has {', '.join(sorted(node))}"
                )
            # The flags' own parser reads such a key as a call
            if not re.fullmatch(r"\w+", key):
                raise InputError(
                    f"config key {path!r} cannot be set on the command line, as {key!r} is no "
                    "plain name: change it in the config file"
                )
            node, seen = node[key], f"{seen}.{key}"
            if not hasattr(node, "keys"):
                break
