"""The launchers: a wrong argument gives a message of one sentence, exit status 2 and nothing
written.
"""

import ast
import json

import pytest
from launched import launch

DIGITS = "--config=configs/digits.py"
DEEPLEAK = "--config=configs/deepleak.py:quick"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--config is missing"),
        (
            ["--config=configs/nope.py"],
            # Experiments alone: neither data sets nor published figures
            "no config file 'configs/nope.py': known here are configs/deepleak.py,"
            " configs/digits.py, configs/explainers.py, configs/faces.py, configs/gnime.py,"
            " configs/mnist.py, configs/own.py, configs/shokri.py, configs/thielen.py,"
            " configs/yang.py, configs/zhao.py",
        ),
        (["--config=configs/digits.py:huge"], "configs/digits.py:huge: there is no size 'huge'"),
        (["--config=tests/test_launch.py"], "defines no get_config"),
        ([DIGITS, "--config.attack.trian.epochs=3"], "unknown config key 'attack.trian.epochs'"),
        ([DEEPLEAK, "--config.attack.width=2"], "no attack of this config reads attack.width"),
        ([DEEPLEAK, "--config.evaluation.label=x"], "no attack of this config reads evaluation"),
        (
            [DIGITS, "--config.data.transform.crop=28", "--workdir={tmp}/w"],
            "crop 28 is not None, 'centre' or",
        ),
        (
            [DIGITS, "--config.data.roles.balance=nobody", "--workdir={tmp}/w"],
            "unknown label 'nobody': choose one",
        ),
        (
            [DIGITS, "--config.data.roles.balance={'a': 1}", "--workdir={tmp}/w"],
            "unknown label {'a': 1}: choose",
        ),
        (
            [DIGITS, "--config.data.roles.roles=None", "--workdir={tmp}/w"],
            "roles None is neither a protocol's name",
        ),
        (
            [DIGITS, "--config.data.source=None", "--workdir={tmp}/w"],
            "config.data.source is a section, which may not",
        ),
        ([DIGITS, "--config.attack.train.epochs=None"], "invalid literal for int"),
        (
            ["--config=configs/mnist.py", "--workdir={tmp}/w", "--config.data.source.root=None"],
            "data source 'idx' has None for root, which it does not allow",
        ),
        ([DIGITS, "--config.seeds=many"], "invalid literal for int"),
        ([DIGITS, "--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
        ([DIGITS, "runs/x"], "unknown argument 'runs/x'"),
        ([DIGITS, "--workdir=/proc/nowhere"], "/proc/nowhere"),
        (
            [DIGITS, "--workdir={tmp}/w", "--config.explanations.gradient.name=saliencee"],
            "unknown explainer",
        ),
        (
            ["--config=configs/mnist.py", "--workdir={tmp}/w", "--config.data.source.root={tmp}"],
            "{tmp}",
        ),
    ],
)
def test_mistakes_in_one_sentence(tmp_path, arguments, sentence):
    """A mistake is named in one sentence."""
    result = launch("run.py", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence.replace("{tmp}", str(tmp_path)) in last
    assert not list(tmp_path.rglob("rows.jsonl"))


FIELDS = """
import sys
sys.path.insert(0, "launch")
import cli
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "")
cli.main(lambda argv: print(cli.config(CONFIG)["data"]))
"""


@pytest.fixture
def fields(tmp_path):
    """Returns the data section of the config that arguments give."""
    (tmp_path / "fields.py").write_text(FIELDS)

    def read(*arguments):
        result = launch(tmp_path / "fields.py", DIGITS, *arguments)
        assert result.returncode == 0, result.stderr
        return ast.literal_eval(result.stdout)

    return read


def test_none_fields_set(fields):
    """A field that is None takes a word, a tuple or a truth value, and any of the data section goes
    back to None.
    """
    changes = [
        "transform.crop=centre",
        "transform.resize=None",
        "roles.balance=digit",
        "roles.stratify=digit",
    ]
    arguments = [f"--config.data.{change}" for change in changes]
    arguments += ["--config.data.roles.stratify", "None", "--config.data.transform.grayscale"]
    found = fields(*arguments)
    assert found["transform"] == {"crop": "centre", "resize": None, "grayscale": True}
    assert found["roles"] == {"roles": "zhao", "stratify": None, "balance": "digit"}


def test_last_value_counts(fields):
    """Of several values of one field, None among them, the last counts."""
    for values, last in ((["None", "(8, 8)"], (8, 8)), (["(8, 8)", "None"], None)):
        arguments = [f"--config.data.transform.resize={value}" for value in values]
        assert fields(*arguments)["transform"]["resize"] == last


def test_help():
    """The help names every flag and an example."""
    text = launch("run.py", "--helpshort").stdout
    for word in (
        "--config",
        "--workdir",
        "--store",
        "--checkpoint_seconds",
        "Example:",
        "configs/digits.py",
    ):
        assert word in text


def test_config_without_sweep(tmp_path):
    """A sweep needs a config that defines one."""
    result = launch("sweep.py", "--config=configs/mnist.py", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "defines no sweep" in result.stderr


SWEEP = """
from ml_collections import ConfigDict

def get_config(arg=""):
    players = dict(one=dict(width=1.0, lam=1.0))
    return ConfigDict(dict(unit="", width=1.0, seeds=3, data=dict(path=None), players=players))

def sweep(arg, config):
    print("sees", config.to_json(sort_keys=True))
    copied = config.players.to_dict() | dict(two=config.players.one.to_dict())
    varies = {"unit": "varies", "players.one.lam": 9.0, "data.path": "its own"}
    return [{"unit": "copies", "players": copied}, varies]
"""


def test_overrides_and_units(
    tmp_path,
):
    """A sweep's units follow the command line, and name the values that they set themselves."""
    (tmp_path / "experiment.py").write_text(SWEEP)
    changes = (
        "--config.seeds=1",
        "--config.players.one.lam=5.0",
        "--config.width=0.5",
        "--config.data.path=None",
    )
    result = launch(
        "sweep.py", f"--config={tmp_path}/experiment.py", f"--workdir={tmp_path}/w", *changes
    )
    seen = json.loads(result.stdout.split("sees ")[1].splitlines()[0])
    assert seen == dict(
        unit="",
        width=0.5,
        seeds=1,
        data=dict(path=None),
        players=dict(one=dict(width=1.0, lam=5.0)),
    )
    assert result.stdout.count("does not hold there") == 2
    for path in ("players.one.lam", "data.path"):
        assert (
            f"unit varies sets {path} itself: --config.{path} does not hold there" in result.stdout
        )
    assert (
        "error: the config has no 'seed'" in result.stderr
    )  # it is no audit's, so that nothing is computed
    # One unit by itself refuses what it would ignore
    for name, message in {
        "varies": "unit varies sets players.one.lam itself: leave out --config.players.one.lam",
        "other": "the sweep has no unit 'other': choose one of copies, varies",
        "copies": "the config has no 'seed'",
    }.items():
        folder = tmp_path / name
        result = launch(
            "run.py",
            f"--config={tmp_path}/experiment.py",
            f"--unit={name}",
            f"--workdir={folder}",
            *changes,
        )
        assert result.returncode == 2
        assert f"error: {message}" in result.stderr
