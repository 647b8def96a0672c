"""What the launchers share: flag parsing and one clear sentence for everything that a person can get wrong."""

import ast
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that configs may import configs.base

from xinv.types import InputError

_SHARED = ("base", "datasets")  # of configs/, what its experiments share


def _interrupted(*_: object) -> None:
    """Leaves at once, whatever is running: a run may be stopped at any moment."""
    print("\ninterrupted: the same command continues where this one stopped", file=sys.stderr, flush=True)
    os._exit(130)


signal.signal(signal.SIGINT, _interrupted)


def main(run: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls `run(argv)`; bad input ends in one sentence and exit status 2."""
    app.run(lambda argv: _guarded(run, argv), flags_parser=lambda argv: _guarded(_parse, argv))


def config_file(value: str) -> tuple[ModuleType, str]:
    """The module that a `--config=FILE:ARG` names, and ARG ("" without).

    Raises:
      InputError: there is no such file, or it defines no get_config.
    """
    path, _, arg = value.partition(":")
    if not Path(path).is_file():
        known = sorted(str(file) for file in Path("configs").glob("*.py") if file.stem not in _SHARED)
        raise InputError(f"there is no config file {path!r}: known here are {', '.join(known) or 'none'}")
    spec = importlib.util.spec_from_file_location("xinv_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} is no config file: it defines no get_config(arg)")
    return module, arg


def config(flag: flags.FlagHolder) -> dict:
    """The value of a `DEFINE_config_file` flag as a plain dict."""
    if flag.value is None:
        raise InputError("--config is missing: name a file of configs/, for example --config=configs/digits.py")
    return flag.value.to_dict()


def _guarded(call: Callable[[Sequence[str]], object], argv: Sequence[str]) -> object:
    try:
        return call(argv)
    except InputError as error:
        _stop(str(error))
    except flags.Error as error:
        _stop(" ".join(str(error).split()))
    except OSError as error:
        _stop(f"{error.filename or 'input or output'}: {error.strerror or error}")


def _stop(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    named = re.search(r"^--?config[=\n](.+)$", "\n".join(argv), flags=re.MULTILINE)
    if named:
        _check_overrides(named[1], argv)
    argv, optional = _optional(named[1], argv) if named else (argv, [])
    sys.argv[:] = argv  # where ml_collections looks for overrides
    arguments = flags.FLAGS(argv)
    for path, value in optional:
        _set(flags.FLAGS["config"].value, path.split("."), value)
    logging.set_verbosity(logging.FATAL)  # Orbax tells every file it writes, and its errors twice
    if len(arguments) > 1:
        raise InputError(f"unknown argument {arguments[1]!r}: everything is given by --flag=value, see --helpshort")
    return arguments


def _optional(value: str, argv: Sequence[str]) -> tuple[list[str], list[tuple[str, object]]]:
    """The arguments without those that set what is None, or set it to None; and these as paths and values.

    A flag has one type, and None is of none.
    """
    module, arg = config_file(value)
    config, kept, found = module.get_config(arg), [], []
    for argument in argv:
        match = re.fullmatch(r"--?config\.([\w.]+)=(.*)", argument, flags=re.DOTALL)
        node: object = config
        for key in match[1].split(".") if match else ():
            node = node[key] if hasattr(node, "keys") and key in node else ""
        if match and (node is None or match[2] == "None") and not hasattr(node, "keys"):
            found.append((match[1], _literal(match[2])))
        else:
            kept.append(argument)
    return kept, found


def _literal(text: str) -> object:
    """The number, tuple, list or None that a text writes down; any other text as it is."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _set(config: object, path: Sequence[str], value: object) -> None:
    for key in path[:-1]:
        config = config[key]
    with config.ignore_type():
        config[path[-1]] = value


def _check_overrides(value: str, argv: Sequence[str]) -> None:
    """Names the first `--config.a.b=…` whose key the config does not have, with those that it has."""
    module, arg = config_file(value)
    try:
        config = module.get_config(arg)
    except ValueError as error:
        raise InputError(str(error)) from None
    for path in re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), flags=re.MULTILINE):
        node, seen = config, "config"
        for key in path.split("."):
            if key not in node:
                raise InputError(f"unknown config key {path!r}: {seen} has {', '.join(sorted(node))}")
            node, seen = node[key], f"{seen}.{key}"
            if not hasattr(node, "keys"):
                break
