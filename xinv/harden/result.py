"""The result of a hardening, on the reported half of members and others, unseen by the search."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from xinv import explain, metrics
from xinv.audit import privacy
from xinv.audit.goals.membership import groups
from xinv.harden import trial
from xinv.harden.candidate import Candidate
from xinv.harden.inversion import AFTER, BEFORE, compared, rebuilt
from xinv.harden.maps import (
    applied,
    attacking,
    described,
    fitted,
    release,
    reported,
    searched,
    sections,
)
from xinv.harden.policy import Policy, fingerprint
from xinv.harden.subject import Subject
from xinv.store import Stage
from xinv.types import Array, Estimate

_RATES = (0.01, 0.05)
# Difference of a repeated query from the first, in steps of 1/255
_STEP = 1.0


def result(subject: Subject, hardened: Subject, after: Candidate | None) -> dict[str, Any]:
    """Returns the leak before and after hardening, its cost, and its controls.

    Figures are {"value", "low", "high", "p"}. All attackers are adaptive: each is trained on the
    shadow model's releases by the very candidate.

    Args:
      subject: the explanation.
      hardened: the same, perhaps of models trained in another way.
      after: its hardened release; None if there is none.

    Returns:
      leak: by metric, "before", "after" and, of the AUC and of the rate that is the objective, the
        paired "difference".
      controls: by name, the AUC "before" and "after"; they must score chance.
      utility: by metric, its mean "before" and "after"; of other models there is no "spearman".
      accuracy: of the target on images outside its training set, "before" and "after".
      privacy: the ε of a target trained with noise, see `audit.privacy`; {} of others.
      queries: the AUC of an attacker who averages the releases of slightly changed images; None for
        a deterministic release.
      inversion: the SSIM of images rebuilt from predictions alone, and with the map "before" and
        "after", with the mean paired "difference"; None if the config has none.

      Without a hardened release there is no "after".
    """
    settings = subject.settings
    role = settings["roles"]["report"]
    sides = {BEFORE: (subject, subject.unhardened)}
    if after is not None:
        sides[AFTER] = (hardened, after)

    # Measure the leak and the utility of each release
    member = subject.member(subject.target, role)
    group = groups(subject.service, [role], subject.seed)
    figures = {}
    accuracy = {}
    for when, (of, one) in sides.items():
        attack = settings["attack"]
        figures[when] = trial.evaluated(of, one, role, attack, when, reported, True)
        accuracy[when] = of.accuracy(role)
    leak = _leak(member, figures, group, settings["leak"])
    utility: dict[str, Any] = {}
    for name in ("spearman", "insertion", "deletion", "max_sensitivity"):
        utility[name] = {when: float(part[name].mean()) for when, part in figures.items()}
    # Maps of another model are not compared with those before
    if hardened is not subject:
        utility["spearman"].pop(AFTER)

    # Measure the controls, and inversion as a second leak
    controls: dict[str, Any] = {name: {} for name in settings["controls"]}
    ssim: dict[str, np.ndarray] = {}
    for when, (of, one) in sides.items():
        for name, (shadow, shown) in settings["controls"].items():
            score = _control(of, one, shadow, shown, f"{name}, {when}")
            controls[name][when] = _figure(metrics.membership.auc()(member, score, group)["auc"])
        if settings["inversion"]:
            ssim[when] = rebuilt(of, one, when)
    if settings["inversion"]:
        ssim["prediction"] = rebuilt(subject, None, "prediction alone")
    # Repeated queries help only against noise
    queries = None
    if after is not None and _draws(hardened, after):
        score = _averaged(hardened, after)
        queries = _figure(metrics.membership.auc()(member, score, group)["auc"])
    stated, _ = privacy.guarantee(hardened.service, hardened.target, subject.seed)
    return {
        "leak": leak,
        "controls": controls,
        "utility": utility,
        "accuracy": accuracy,
        "privacy": stated,
        "queries": queries,
        "inversion": compared(ssim, group) if ssim else None,
    }


def policy(subject: Subject, candidate: Candidate, measured: Mapping[str, Any]) -> Policy:
    """Returns a release as a policy for the target."""
    variables = subject.service.classifiers.variables(subject.target, subject.seed)
    _, state = applied(subject, candidate, subject.target)
    # A training's curves are for people
    kept = {name: part for name, part in state.items() if name != "history"}
    return Policy(
        candidate.explainer,
        sections(subject, candidate),
        subject.secret,
        fingerprint(variables),
        subject.reference(),
        kept,
        measured,
    )


def _leak(
    member: np.ndarray,
    figures: Mapping[str, Mapping[str, Array]],
    group: np.ndarray | None,
    objective: str,
) -> dict[str, Any]:
    leak: dict[str, Any] = {"auc": {}}
    rates = list(_RATES)
    if objective != "auc":
        rates = sorted({*rates, trial.rate_of(objective)})
    # Each figure with the interval of its metric, over groups if there are any
    for when, part in figures.items():
        leak["auc"][when] = _figure(metrics.membership.auc()(member, part["score"], group)["auc"])
        found = metrics.membership.tpr_at_fpr(rates)(member, part["score"], group)
        for rate in rates:
            one = leak.setdefault(f"tpr_at_{rate}", {})
            one[when] = _figure(found[f"tpr_at_{rate}"])
            one["resolved"] = bool(found[f"resolved_at_{rate}"].value)
    # The same examples under both releases: a paired test
    if AFTER in figures:
        scores = figures[BEFORE]["score"], figures[AFTER]["score"]
        change = metrics.paired.area_difference(member, *scores, group)
        leak["auc"]["difference"] = _figure(change)
    if AFTER in figures and objective != "auc":
        rate = trial.rate_of(objective)
        change = metrics.paired.rate_difference(member, *scores, rate, group)
        leak[f"tpr_at_{rate}"]["difference"] = _figure(change)
    return leak


def _control(
    subject: Subject,
    candidate: Candidate,
    shadow: str,
    shown: str,
    label: str,
) -> np.ndarray:
    """Returns an attacker's scores on releases of a model without knowledge of the images."""
    settings = subject.settings
    role = settings["roles"]["report"]
    spec = _spec(subject, candidate, [shadow, shown]) | attacking(subject, settings["attack"])

    def compute() -> dict[str, np.ndarray]:
        # Train on the control's shadow, and score the releases of a model without these images
        method = subject.attack(settings["attack"])
        state = fitted(subject, candidate, settings["attack"], shadow)
        maps = searched(subject, candidate, shown, role)
        observed = subject.seen(method, shown, role, maps)
        return {"score": np.asarray(method.predict(state, observed))}

    return _stage(subject, "control", label, spec, compute).array("score")


def _averaged(subject: Subject, candidate: Candidate) -> np.ndarray:
    """Returns the scores of an attacker who averages the releases of slightly changed images.

    Each query moves every value of the image by at most one step of 255, so that its noise is
    drawn anew. The attacker treats the shadow's images alike.
    """
    settings = subject.settings
    shadow = subject.shadow
    roles = settings["roles"]
    count = settings["queries"]
    spec = _spec(subject, candidate, [shadow, subject.target]) | {
        **attacking(subject, settings["attack"]),
        "queries": count,
    }

    def mean(subject: Subject, candidate: Candidate, part: str, role: str) -> np.ndarray:
        classifiers = subject.service.classifiers
        images = np.asarray(subject.images(role)[:])
        explainer = release(subject, candidate, part)
        total = 0.0
        apply = classifiers.model(part).apply
        variables = classifiers.variables(part, subject.seed)
        labels = subject.labels(part, role)
        # A stream per query: the same changes for the shadow and the target
        for number in range(count):
            random = np.random.default_rng([subject.seed, number])
            moved = images / 255 + random.uniform(-_STEP, _STEP, images.shape) / 255
            moved = moved.clip(0, 1).astype(np.float32)
            maps = explain.batch(
                explainer,
                apply,
                variables,
                moved,
                labels,
                jax.random.key(0),
            )
            total = total + maps / count
        return total.astype(np.float32)

    def compute() -> dict[str, np.ndarray]:
        method = subject.attack(settings["attack"])
        state = fitted(subject, candidate, settings["attack"], shadow, mean, count)
        # Score the target's averaged maps as the shadow's
        role = roles["report"]
        maps = mean(subject, candidate, subject.target, role)
        observed = subject.seen(method, subject.target, role, maps)
        return {"score": np.asarray(method.predict(state, observed))}

    return _stage(subject, "control", f"{count} queries", spec, compute).array("score")


def _draws(subject: Subject, candidate: Candidate) -> bool:
    """Tests if a release has noise: if another secret gives other maps of a few images."""
    role = subject.settings["roles"]["shadow"]
    images = np.asarray(subject.images(role)[:4])
    model = subject.service.classifiers.model(subject.target)
    variables = subject.service.classifiers.variables(subject.target, subject.seed)
    labels = subject.labels(subject.target, role)[:4]
    # A deterministic release gives the same maps under every secret
    maps = []
    for secret in (subject.secret, subject.secret + np.uint32(1)):
        explainer = release(subject, candidate, subject.target, secret)
        key_unread = jax.random.key(0)
        maps.append(
            explain.batch(
                explainer,
                model.apply,
                variables,
                images,
                labels,
                key_unread,
            )
        )
    return not np.array_equal(*maps)


def _spec(
    subject: Subject,
    candidate: Candidate | None,
    parts: list[str],
) -> dict[str, Any]:
    roles = subject.settings["roles"]
    spec = subject.spec(parts, [roles["report"], roles["shadow"]])
    return spec | (described(subject, candidate, parts) if candidate else {})


def _stage(
    subject: Subject,
    name: str,
    label: str,
    spec: Mapping,
    compute: Any,
) -> Stage:
    label = f"{subject.name}, {label}, seed {subject.seed}"
    return subject.service.stages.computed(name, label, spec, compute)


def _figure(one: Estimate) -> dict[str, float | None]:
    return one._asdict()
