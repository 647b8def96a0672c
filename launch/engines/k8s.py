"""Renders manifests of workers on Kubernetes; none is applied.

An Indexed Job of one-host workers, or a JobSet with one worker per TPU slice.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from xinv.types import InputError

_OPTIONS = {
    "image": "an image with xinv in /xinv",
    "claim": "a ReadWriteMany claim with the sweep's folder",
    "mount": "where the claim is mounted",
    "name": "the name of the job",
    "namespace": "the namespace",
    "queue": "a queue of Kueue",
    "gpus": "GPUs of each worker",
    "tpu": "type and topology, as tpu-v5-lite-podslice:2x4",
    "cpu": "cores of each worker",
    "memory": "memory of each worker",
}
_REQUIRED = ("image", "claim")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST = 63  # characters of a DNS label
_CHIPS_PER_HOST = 4
_GRACE_SECONDS = 120  # in which a worker saves its training
_BAD_INPUT = 2


def render(
    workdir: Path,
    jobs: int,
    arguments: Sequence[str],
    options: Sequence[str],
    tries: int,
) -> str:
    """Returns the YAML of `jobs` workers on the sweep in `workdir`.

    Args:
      workdir: path in the pods, below the mount.
      jobs: the number of workers.
      arguments: flags of launch/worker.py.
      options: "name=value"; see `_OPTIONS`.
      tries: starts of a killed worker; preemptions do not count.

    Raises:
      InputError: an option is unknown, missing or not a name, or a slice has more than one host.
    """
    found = _parse(options)
    name = found.get("name", "xinv")
    _require_label("name", name)
    command = [
        "python",
        "/xinv/launch/worker.py",
        f"--workdir={workdir}",
        "--number=$(JOB_COMPLETION_INDEX)",
    ]
    pod = _pod(found, [*command, *arguments])

    # Kueue admits a job by the label of its queue.
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "xinv"}}
    if "namespace" in found:
        _require_label("namespace", found["namespace"])
        metadata["namespace"] = found["namespace"]
    if "queue" in found:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = found["queue"]
    # Pods get a suffix to the name, and must still have a valid label.
    if "tpu" in found:
        manifest = _job_set(metadata, pod, jobs, found["tpu"], tries)
    else:
        _require_length(f"{name}-{jobs - 1}-xxxxx")
        manifest = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": _job(pod, jobs, tries),
        }
    return yaml.safe_dump(manifest, sort_keys=False)


def _parse(options: Sequence[str]) -> dict[str, str]:
    found = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or name not in _OPTIONS:
            known = "; ".join(f"{each} ({what})" for each, what in _OPTIONS.items())
            raise InputError(f"--k8s={option} is unknown: give name=value of {known}")
        found[name] = value
    # Without an image and a claim there is nothing to run and nowhere to write.
    for name in _REQUIRED:
        if name not in found:
            raise InputError(f"--k8s has no {name}: give --k8s={name}=…, {_OPTIONS[name]}")
    return found


def _pod(found: dict[str, str], command: list[str]) -> dict[str, Any]:
    """The template of a pod; the sweep's folder is on the shared claim."""
    # Give limits alone: requests are then equal to them
    limits = {}
    for name in ("cpu", "memory"):
        if name in found:
            limits[name] = found[name]
    if "gpus" in found:
        limits["nvidia.com/gpu"] = str(_count("gpus", found["gpus"]))
    # The cache of compiled programs is on the claim too: every pod would compile again.
    mount = found.get("mount", "/data")
    container = {
        "name": "worker",
        "image": found["image"],
        "command": command,
        "env": [{"name": "XDG_CACHE_HOME", "value": f"{mount}/.cache"}],
        "volumeMounts": [{"name": "data", "mountPath": mount}],
    }
    if limits:
        container["resources"] = {"limits": limits}
    # Leave restarts to the Job: its rules read the exit status
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": found["claim"]}}],
    }
    return {"spec": spec}


def _job(pod: dict[str, Any], jobs: int, tries: int) -> dict[str, Any]:
    """An Indexed Job: each index is one worker, started again on its own."""
    rules = [
        # A node that is taken back is no fault of the worker, and bad input is none of the node
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailIndex",
            "onExitCodes": {"containerName": "worker", "operator": "In", "values": [_BAD_INPUT]},
        },
    ]
    # One worker may fail for good without ending the others.
    return {
        "completionMode": "Indexed",
        "completions": jobs,
        "parallelism": jobs,
        "backoffLimitPerIndex": tries,
        "maxFailedIndexes": jobs,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "template": pod,
    }


def _job_set(
    metadata: dict[str, Any],
    pod: dict[str, Any],
    jobs: int,
    tpu: str,
    tries: int,
) -> dict[str, Any]:
    """A JobSet with one host of a TPU slice per worker."""
    kind, separator, topology = tpu.partition(":")
    if not separator or not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise InputError(
            f"--k8s=tpu={tpu} is no type and topology: give them as tpu-v5-lite-podslice:2x2"
        )
    chips = math.prod(int(side) for side in topology.split("x"))
    if chips > _CHIPS_PER_HOST:
        raise InputError(
            f"--k8s=tpu={tpu} has {chips} chips on {math.ceil(chips / _CHIPS_PER_HOST)} hosts: a"
            f" worker runs on one host, so choose a topology of at most {_CHIPS_PER_HOST} chips and"
            " more --jobs"
        )

    # GKE places a slice by its type and topology.
    spec = pod["spec"]
    spec["nodeSelector"] = {
        "cloud.google.com/gke-tpu-accelerator": kind,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    limits = spec["containers"][0].setdefault("resources", {}).setdefault("limits", {})
    limits["google.com/tpu"] = str(chips)

    # Each slice is a job of one pod, so the worker's number is the number of the job.
    command = spec["containers"][0]["command"]
    spec["containers"][0]["command"] = [
        part.replace("JOB_COMPLETION_INDEX", "XINV_NUMBER") for part in command
    ]
    # JobSet writes the number of a job into a label, which the pod reads as a variable.
    index = {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/job-index']"}}
    spec["containers"][0]["env"].append({"name": "XINV_NUMBER", "valueFrom": index})
    _require_length(f"{metadata['name']}-worker-{jobs - 1}-0-xxxxx")
    job = {"parallelism": 1, "completions": 1, "backoffLimit": tries, "template": pod}
    # Place each worker in a node pool of its own, as a slice is one
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": (
            metadata
            | {
                "annotations": {
                    "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
                }
            }
        ),
        "spec": {
            "failurePolicy": {"maxRestarts": tries},
            "replicatedJobs": [{"name": "worker", "replicas": jobs, "template": {"spec": job}}],
        },
    }


def _count(name: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise InputError(f"--k8s={name}={value} is no count: give a whole number of at least 1")
    return int(value)


def _require_label(what: str, value: str) -> None:
    if not _LABEL.fullmatch(value):
        raise InputError(
            f"--k8s={what}={value} is no name of Kubernetes: it may have lower-case letters, digits"
            " and '-' between them"
        )
    _require_length(value)


def _require_length(name: str) -> None:
    if len(name) > _LONGEST:
        raise InputError(
            f"the pods' name {name} has {len(name)} characters, of which {_LONGEST} are allowed:"
            " give a shorter --k8s=name=…"
        )
