"""What makes defended and undefended arms comparable: one training, an attacker who adapts, one
look at the images.
"""

import collections

import pytest
from test_audit_arms import run, stages, unit

from configs import base, gnime
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.stage import Stages

SIZES = (
    "runlocal",
    "runlocal-yale",
    "mnist",
    "cifar10",
    "celeba-facescrub",
    "celeba-attributes",
    "imagenet100",
)


@pytest.mark.parametrize("size", SIZES)
def test_gnimes_arms_differ_as_stated(size):
    """Arms of GNIME's tables differ in their inputs and in the defences alone."""
    config = gnime.get_config(size)
    units = [config.arms.to_dict()]
    units += [
        part["arms"]
        for part in gnime.sweep(size, config)
        if part.get("arms") and part["unit"] != "reverse-sigmoid"
    ]
    for arms in units:
        bare = {}
        for name, arm in arms.items():
            train_view, test_view = arm["train_view"], dict(arm["test_view"])
            assert "train" not in arm["attack"]
            noised = any(name.startswith("rnd") for name in train_view["defences"])
            assert train_view.pop("releases") == 1 or noised, name
            assert (train_view.pop("defences"), train_view.pop("queries")) == (
                test_view.pop("defences"),
                test_view.pop("queries"),
            ), name
            assert bare.setdefault(arm["inputs"], arm | dict(test_view=test_view)) == arm | dict(
                test_view=test_view
            )


@pytest.mark.slow
def test_unlearned_defence_explains_no_half(
    tmp_path,
):
    """A defence that learns nothing needs no explanations of the defender's half.

    And the reported images are read once by each measurement, and by nothing that is trained.
    """
    reads, under_way = collections.Counter(), []
    stage, images, labelled = Stages._stage, Roles.images, Roles.labelled

    def watched(self, name, label, spec, build):
        def building(folder):
            under_way.append(name)
            build(folder)
            under_way.pop()

        return stage(self, name, label, spec, building)

    def counted(read):
        def reading(self, roles, seed):
            reads.update({under_way[-1]: 1} if under_way and REPORTED in roles else {})
            return read(self, roles, seed)

        return reading

    arms = {
        "gradient": base.arm("prediction", "gradient"),
        "clip": base.defended("prediction", "gradient", by=("clip",)),
    }
    clip = dict(clip=dict(name="clip", low=0.0, high=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "_stage", watched)
        patch.setattr(Roles, "images", counted(images))
        patch.setattr(Roles, "labelled", counted(labelled))
        run(unit(arms, shadows={}, defences=clip), tmp_path)
    assert reads == {
        "logits": 2,
        "explanation": 1,
        "metrics": 2,
        "utility": 2,
    }  # logits: target and evaluation
    assert len(stages(tmp_path, "guess")) == len(arms)
    assert not stages(tmp_path, "defence")
    assert len(stages(tmp_path, "explanation")) == 3  # attack_train, attack_test and defence_test
