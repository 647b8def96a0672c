"""Separation of images: nothing is fitted to reported ones, and no two parties share any."""

from collections.abc import Mapping, Sequence

from xinv import train
from xinv.audit.outputs import public_reference
from xinv.audit.release import Release
from xinv.audit.results import Config
from xinv.audit.roles import REPORTED, UNION
from xinv.audit.sections import require_keys
from xinv.audit.service import Service
from xinv.numbers import described, is_count
from xinv.types import InputError


def require_training(
    service: Service,
    what: str,
    recipe: Config | None,
    roles: Sequence[str],
    reported: bool = False,
) -> None:
    """Raises InputError unless a training has enough images, and no reported one.

    With `reported` it may have such: a target by `may_train_on_reported`, or a shadow model of a
    random half of them.
    """
    # Roles are dealt anew for each seed
    for seed in service.classifiers.seeds:
        if not reported and service.roles.shared(roles, [service.roles.reported], seed):
            _require_no_half(service, what, roles)
            raise InputError(
                f"{what} trains on images of {service.roles.reported}, which is reported: "
                f"its roles are {list(roles)}"
            )
        if recipe is not None:
            stated = train.Recipe.stated(recipe)
            train.steps_per_epoch(stated, service.roles.count(roles, seed), what)


def may_train_on_reported(service: Service, part: str) -> bool:
    """Tells if a config asks how well the images are rebuilt that its target was trained on.

    It then reports a role of the target by name; the default is nobody's training set. An inverter
    that is trained with the target would have seen them.
    """
    reported = service.roles.reported
    settings = service.classifiers.settings(part)
    named = reported != REPORTED and reported in settings["roles"]
    return part == "target" and named and "joint" not in settings


def _require_no_half(service: Service, what: str, roles: Sequence[str]) -> None:
    """Raises InputError for a random half of reported images that no attack compares."""
    dealt = service.roles.settings["roles"]["roles"]
    if isinstance(dealt, Mapping) and any(isinstance(dealt.get(role), Mapping) for role in roles):
        raise InputError(
            f"{what} trains on a random half of images that are reported, {list(roles)}, but no "
            "arm has it among several shadow models: leave it out of shadows, or name it there"
        )


def require_reference(
    service: Service,
    name: str,
    reported: str,
    attacker: Sequence[str] = (),
) -> None:
    """Raises InputError unless the reference of an explanation is a number, or public images.

    Public images are neither reported, nor of the roles that an `attacker` learns from. A number is
    of training images, whose pixels the service then releases, reported or not.
    """
    settings = service.config["explanations"][name]
    what = f"explanations.{name}.reference"
    if "reference" not in settings:
        return
    # A number is of the classifier's own training images; a section names a public role
    count = settings["reference"]
    if isinstance(count, Mapping):
        require_keys(what, count, ("role", "count"))
        count = count["count"]
    if not is_count(count, 1):
        raise InputError(
            f"{what} is {described(count)} but must be a number of the classifier's own images, "
            "or the role and the count of public ones"
        )
    for seed in service.classifiers.seeds:
        for role in public_reference(settings):
            if service.roles.shared([role], reported.split(UNION), seed):
                raise InputError(
                    f"{what} {role!r} has images of {reported}, which are reported: "
                    "name another role"
                )
            if attacker and service.roles.shared([role], attacker, seed):
                raise InputError(
                    f"{what} {role!r} has images of {', '.join(attacker)}, from which an attack "
                    "learns members: name another role"
                )


def require_separate(release: Release, attacker: Sequence[str]) -> None:
    """Checks the images that the defences of a release learn from and are measured on.

    None of them is reported, none is the `attacker`'s, and none has both uses.
    """
    service = release.service
    defender = release.service.config["defender"]
    seed = service.config["seed"]
    for link in release.chain.needed():
        own = {}
        if link.build(None).learns:
            own["role"] = defender["role"]
        # Without images held back, predictions may be defended, but no explanations
        if release.explains or defender["held_out"]:
            own["held_out"] = defender["held_out"]
        for kind, role in own.items():
            if not role:
                raise InputError(
                    f"defender.{kind} is empty, and the defence {link.name!r} needs images of its "
                    "own: name a role of data.roles"
                )
            recipe = None
            if kind == "role":
                recipe = link.settings().get("train")
            require_training(
                service,
                f"defender.{kind} of {link.name!r}",
                recipe,
                [role],
            )
            if attacker and service.roles.shared([role], attacker, seed):
                raise InputError(
                    f"defender.{kind} {role!r} has images of the attacker, "
                    f"who learns from {list(attacker)}"
                )
        both = own.keys() >= {"role", "held_out"}
        if both and service.roles.shared([own["role"]], [own["held_out"]], seed):
            raise InputError(
                f"defender.held_out {own['held_out']!r} has images of defender.role {own['role']!r}"
            )
