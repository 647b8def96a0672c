"""What rows say of an arm."""

from types import SimpleNamespace

import pytest
from test_audit_arms import unit

from configs import base
from xinv.audit.attacker import Arm
from xinv.audit.describe import describe

TWICE = dict(defences=("rnd",), queries=2)


def described(**arms):
    service = SimpleNamespace(config=unit(arms), releases_logits=False)
    return {name: describe(Arm(service, name)) for name in arms}


def test_explainer():
    """An explanation that the attacker makes on a surrogate is none that the service releases."""
    surrogate = dict(explanation="surrogate")
    found = described(
        released=base.arm("prediction", "gradient"),
        made=base.arm("prediction", "gradient", train_view=surrogate, test_view=surrogate),
    )
    assert found["released"]["explainer"] == "gradient"
    assert found["made"]["explainer"] is None
    assert found["made"]["inputs"] == "prediction+gradient"
    assert found["released"]["attack"] != found["made"]["attack"]


def test_defended():
    """Defences and numbers of releases make no other attack; roles do."""
    found = described(
        bare=base.arm("prediction", "gradient"),
        static=base.arm("prediction", "gradient", test_view=TWICE),
        adaptive=base.arm(
            "prediction", "gradient", train_view=TWICE | dict(releases=3), test_view=TWICE
        ),
        others=base.arm("prediction", "gradient", train_view=dict(roles=("others",))),
    )
    assert found["bare"]["attack"] == found["static"]["attack"] == found["adaptive"]["attack"]
    assert found["others"]["attack"] != found["bare"]["attack"]
    assert [found[name]["adaptive"] for name in found] == [True, False, True, True]
    assert [found["adaptive"][name] for name in ("queries", "releases", "defence")] == [2, 3, "rnd"]


ALONE = base.arm("prediction", encoder="none")
GRADIENT = base.arm("prediction", "gradient")


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (dict(gradient=GRADIENT, alone=ALONE), "alone"),
        (dict(gradient=GRADIENT), None),
        (
            dict(
                gradient=GRADIENT,
                a=base.arm("prediction", encoder="none", train_view=dict(roles=("others",))),
            ),
            None,
        ),
        (dict(gradient=GRADIENT, a=base.arm("prediction", name="class_inference")), None),
        (
            dict(alone=ALONE, defended=base.defended("prediction", by=("rnd",), encoder="none")),
            "alone",
        ),
        (dict(alone=ALONE, another=base.arm("prediction", name="class_inference")), None),
    ],
)
def test_baseline(arms, expected):
    """Predictions alone, attacked as explanations are; without any, the only attack."""
    found = [name for name, row in described(**arms).items() if row["baseline"]]
    assert found == ([expected] if expected else [])
