"""Wrong attacks, defences and views of a unit raise errors before anything is computed."""

import pytest
from arm_zoo import ARMS, TRAIN, TRUNCATED, base, run, unit
from ml_collections import ConfigDict

from xinv.types import InputError


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"a": base.arm("b"), "b": base.arm("a")}, "in a circle: a reads b reads a"),
        (
            {"a": base.arm("prediction", encoder="none", test_view=dict(defences=("no",)))},
            "unknown defence 'no'",
        ),
        ({"a": base.arm("prediction", name="fredrikson")}, "known is empty"),
        (
            {"a": base.arm("prediction", encoder="none", train_view=dict(roles=("attack_test",)))},
            "which is reported",
        ),
        (
            {"a": base.arm("prediction", encoder="none", train_view=dict(prediction="shadow"))},
            "unknown classifier 'shadow'",
        ),
        (
            {"a": base.arm("prediction", encoder="none", test_view=dict(queries=0))},
            "test_view of arm 'a' has 0 queries",
        ),
        (
            {"a": base.arm("prediction", encoder="none", test_view=dict(queries=2))},
            "2 queries of what no defence changes",
        ),
        (
            {"a": base.arm("prediction", encoder="none", train_view=dict(queries="2"))},
            "train_view of arm 'a' has '2' queries",
        ),
        (
            {"a": base.arm("prediction", encoder="none", test_view=dict(releases=2))},
            "test_view of arm 'a' has 'releases', which is ignored",
        ),
        (
            {"a": base.arm("prediction", encoder="none", train_view=dict(relaeses=2))},
            "train_view of arm 'a' has 'relaeses', which is ignored",
        ),
        ({"a": base.arm("prediction", encoder="none", train_view=dict(releases=2))}, "2 releases"),
        (
            {"a": base.arm("prediction", encoder="none", train_view=TRUNCATED | dict(releases=0))},
            "train_view of arm 'a' has 0 releases",
        ),
        (
            {
                "a": base.arm("pixels", train_view=TRUNCATED | dict(releases=2)),
                "pixels": ARMS["pixels"],
            },
            "reads no other arm",
        ),
        (
            {
                "a": base.arm(
                    "prediction",
                    name="class_inference",
                    train_view=TRUNCATED | dict(releases=2),
                    test_view=TRUNCATED,
                )
            },
            "predictions do not fit",
        ),
        (
            {"a": base.arm("prediction", encoder="none", train_view=dict(roles=()))},
            "learns from no role",
        ),
        ({"a": base.defended("prediction", by=("top2",), learns_too=1)}, "'learns_too'"),
        ({"a": base.arm("prediction", name="activations", known="surrogate")}, "no images"),
        (
            {"a": ConfigDict(dict(base.arm("prediction")) | dict(sess={}))},
            "arm 'a' has 'sess', which is ignored",
        ),
        (
            {"a": base.arm("b"), "b": ConfigDict(dict(inputs=("prediction",), attack={}))},
            "arm 'b' has no 'train_view'",
        ),
    ],
)
def test_wrong_arm_refused(tmp_path, arms, sentence):
    """A wrong arm is refused before anything is computed."""
    with pytest.raises(InputError) as error:
        run(unit(arms), tmp_path)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


GNIME = dict(
    name="gnime", network="decoder", encoder="flatten", train=base.recipe(**TRAIN, validation=0.0)
)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (
            dict(
                a=dict(name="gaussian", match_distortion_of="b"),
                b=dict(name="gaussian", match_distortion_of="a"),
            ),
            "in a circle: a to b to a",
        ),
        (dict(a=dict(name="gaussian", match_distortion_of="c")), "unknown defence 'c'"),
        (
            dict(a=dict(name="gaussian", match_distortion_of="b", mse=0.1), b=GNIME),
            "has mse and also match_distortion_of",
        ),
        (
            dict(a=dict(name="gaussian", match_distortion_of="b"), b=GNIME | dict(lam=-1.0)),
            "lam is -1.0",
        ),
        (dict(a=GNIME | dict(name="gnome")), "unknown defence 'gnome': choose one of clip"),
        (dict(a=dict(name="gnime")), "defence 'a' needs a training configuration: give train"),
        (
            dict(a=dict(name="gaussian", mse=0.1, train=base.recipe())),
            "'a' has train, but is not trained",
        ),
        (
            dict(a=dict(reuse_state_of="b"), b=dict(name="clip", low=0.0, high=1.0), c=GNIME),
            "has reuse_state_of 'b': choose one of c",
        ),
        (
            dict(a=dict(reuse_state_of="b", train=base.recipe()), b=GNIME),
            "has train and also reuse_state_of",
        ),
        (
            dict(a=dict(reuse_state_of="b", lam=5.0), b=GNIME),
            "'a' has lam, which what 'b' has learned depends on",
        ),
        (
            dict(a=GNIME | dict(train=dict(epoch=2))),
            "a training has no parameter 'epoch': it takes batch_size",
        ),
        (dict(a=GNIME | dict(train=dict(epochs="3"))), "epochs is '3' but must be a whole number"),
        (dict(a=GNIME | dict(width="a")), "width is 'a' but must be positive and finite"),
        (dict(a=dict(name="gaussian", mse=None)), "mse is None but must be positive and finite"),
        (
            dict(a=dict(name="clip", low=0.0, high=1.0), unused=dict(name="gnome")),
            "unknown defence 'gnome'",
        ),
    ],
)
def test_wrong_defence_refused(tmp_path, known, sentence):
    """A wrong defence is refused before anything is computed."""
    arm = base.defended("prediction", "gradient", by=("a",), encoder="flatten")
    with pytest.raises(InputError) as error:
        run(unit({"arm": arm}, defences=known | dict(top2=dict(name="truncate", m=2))), tmp_path)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metric", "sentence"), [("insertoin", "'insertoin'"), ("deletion", "steps 0 is not allowed")]
)
def test_wrong_explanation_metric_refused(tmp_path, metric, sentence):
    """A wrong metric of explanations is refused before anything is computed."""
    metrics = base.metrics().to_dict()
    metrics["explanation"] = {metric: dict(steps=0)}
    with pytest.raises(InputError) as error:
        run(unit({"arm": ARMS["gnime"]}, metrics=metrics), tmp_path)
    assert sentence in str(error.value)
