"""`farm models remove`: a model, and those of its parts that no other installed model needs."""

import secrets
import shutil
from dataclasses import dataclass

from farm.domain.errors import InvalidRequest
from farm.domain.folders import folder_error
from farm.models.errors import StillNeeded
from farm.models.lock import library_lock
from model.library import Library, needed


@dataclass(frozen=True)
class Removal:
    """Component names. `kept`: shared ones, with the models that still need them."""

    removed: tuple[str, ...]
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    bytes: int


def plan_removal(library: Library, name: str) -> Removal:
    """What removing `name` (a model, or a shared part) would take away.

    Raises InvalidRequest, or StillNeeded for a part that others need.
    """
    present = library.components()
    known = library.known()
    if name not in present:
        packaged = name in known and known[name].weights is not None
        why = "comes with turbofarm" if packaged else "is not in the model library"
        raise InvalidRequest(f"{name} {why}", f"there: {', '.join(present) or 'nothing'}", "name")
    users: dict[str, list[str]] = {}
    for component in present.values():
        if component.preset is not None:
            for part in needed(component.preset)[1:]:
                users.setdefault(part, []).append(component.name)
    own = present[name]
    if own.preset is None:
        if users.get(name):
            raise StillNeeded(f"{name} is needed by {', '.join(users[name])}", "remove those first")
        return Removal((name,), (), own.bytes)
    removed, kept = [name], list[tuple[str, tuple[str, ...]]]()
    for part in needed(own.preset)[1:]:
        others = tuple(user for user in users.get(part, []) if user != name)
        if others:
            kept.append((part, others))
        elif part in present:
            removed.append(part)
    return Removal(tuple(removed), tuple(kept), sum(present[part].bytes for part in removed))


def remove(library: Library, name: str) -> Removal:
    """Gone from the library at once; workers that hold it in memory go on. Raises as `plan_removal`."""
    with library_lock(library.folder, f"remove {name}") as incoming:
        plan = plan_removal(library, name)
        try:
            for part in plan.removed:
                # Renamed first: nobody must meet a component that is half gone.
                going = incoming / f"{part}-{secrets.token_hex(4)}.gone"
                (library.folder / part).rename(going)
                shutil.rmtree(going)
        except OSError as error:
            raise folder_error(error, library.folder) from error
        return plan
