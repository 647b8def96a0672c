"""The manifests of --launcher=k8s: what Kubernetes knows of them, and what only we check."""

import importlib
import sys
from pathlib import Path

import pytest
import yaml

from xinv.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "launch"))
k8s = importlib.import_module("engines.k8s")

REQUIRED = ("image=registry/xinv:1", "claim=runs")


def render(*options, jobs=3):
    text = k8s.render(Path("/data/sweep"), jobs, ["--tries=3"], (*REQUIRED, *options), 3)
    return yaml.safe_load(text)


def round_trip(manifest, model):
    """The manifest as the official models of Kubernetes and of JobSet give it back."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    return getattr(models, model).from_dict(manifest).to_dict()


def test_job_round_trip():
    """An Indexed Job has no key that Kubernetes does not know, and a JobSet neither."""
    job = render("gpus=1", "memory=16Gi", "queue=low", "namespace=team")
    assert round_trip(job, "IoK8sApiBatchV1Job") == job
    jobs = render("tpu=tpu-v5-lite-podslice:2x2")
    assert round_trip(jobs, "JobsetV1alpha2JobSet") == jobs


def test_job_semantics():
    """Beyond any schema: one worker per index, its number, three starts, none on bad input."""
    spec = render("gpus=2", jobs=4)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimitPerIndex"], spec["podReplacementPolicy"]) == (3, "Failed")
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "FailIndex"]
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [2]
    pod = spec["template"]["spec"]
    worker = pod["containers"][0]
    assert pod["restartPolicy"] == "Never"
    assert worker["command"][2:] == [
        "--workdir=/data/sweep",
        "--number=$(JOB_COMPLETION_INDEX)",
        "--tries=3",
    ]
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert worker["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]


def test_slices_are_workers():
    """A JobSet has one worker per slice, with the chips that its topology has."""
    spec = render("tpu=tpu-v5-lite-podslice:2x2", jobs=5)["spec"]
    assert spec["replicatedJobs"][0]["replicas"] == 5
    worker = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"] == {"google.com/tpu": "4"}
    assert worker["command"][3] == "--number=$(XINV_NUMBER)"
    assert (
        worker["env"][1]["valueFrom"]["fieldRef"]["fieldPath"]
        == "metadata.labels['jobset.sigs.k8s.io/job-index']"
    )


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("name=My_Sweep", "name=My_Sweep is no name of Kubernetes"),
        ("name=" + "a" * 60, "has 68 characters, of which 63 are allowed"),
        ("imge=x", "--k8s=imge=x is unknown: give name=value of image"),
        ("gpus=none", "gpus=none is no count"),
        ("tpu=v5e", "tpu=v5e is no type and topology"),
        ("tpu=v5e:4x4", "has 16 chips on 4 hosts: a worker runs on one host"),
    ],
)
def test_wrong_options_refused(option, sentence):
    """A wrong name or number is told in one sentence."""
    with pytest.raises(InputError, match=sentence):
        render(option)


def test_missing_image_refused():
    """Nothing can be rendered without an image and a shared folder."""
    with pytest.raises(InputError, match="--k8s has no image: give --k8s=image="):
        k8s.render(Path("/data"), 1, [], [], 3)
