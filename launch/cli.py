"""What the launchers share: flag parsing and one clear sentence for everything that a person can get wrong."""

import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that configs may import configs.base

from xinv.types import InputError


def main(run: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls `run(argv)`; bad input ends in one sentence and exit status 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    app.run(lambda argv: _guarded(run, argv), flags_parser=lambda argv: _guarded(_parse, argv))


def config_dict(flag: flags.FlagHolder) -> dict:
    """The value of a `DEFINE_config_file` flag as a plain dict."""
    if flag.value is None:
        raise InputError("--config is missing: name a file of configs/, for example --config=configs/digits.py")
    try:
        return flag.value.to_dict()
    except FileNotFoundError:
        raise InputError(f"there is no config file {_config_path()!r}: see configs/ for those that exist") from None


def _guarded(call: Callable[[Sequence[str]], object], argv: Sequence[str]) -> object:
    try:
        return call(argv)
    except InputError as error:
        _stop(str(error))
    except flags.Error as error:
        _stop(str(error).splitlines()[0])
    except OSError as error:
        _stop(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues where this one stopped", file=sys.stderr)
        sys.exit(130)


def _stop(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        arguments = flags.FLAGS(argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_bad_override(argv) or str(error)) from error
    if len(arguments) > 1:
        raise InputError(f"unknown argument {arguments[1]!r}: everything is given by --flag=value, see --helpshort")
    return arguments


def _config_path() -> str:
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _bad_override(argv: Sequence[str]) -> str | None:
    """Names the first `--config.a.b=value` whose key the config does not have."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    for path in re.findall(r"^--?config\.([\w.\[\]]+)", "\n".join(argv), flags=re.MULTILINE):
        node, seen = config, "config"
        for key in re.findall(r"\w+", path):
            keys = sorted(node.keys()) if hasattr(node, "keys") else []
            if key not in keys and not isinstance(node, list | tuple):
                return f"unknown config key {path!r}: {seen} has {', '.join(keys) or 'no keys of its own'}"
            node, seen = node[int(key) if isinstance(node, list | tuple) else key], f"{seen}.{key}"
    return None
