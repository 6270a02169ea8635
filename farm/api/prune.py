"""`/api/prune`: finished jobs make room. The database first, then the store: what is left over the sweep frees."""

from fastapi import APIRouter

from farm.api.body import Body
from farm.api.present import Json, when
from farm.api.services import Farm, Services
from farm.db import pruning
from farm.domain.errors import NotAllowed
from farm.domain.person import Role
from farm.domain.prune import Candidate, Scope, prune_order
from farm.domain.remains import files_of

router = APIRouter(prefix="/api/prune", tags=["jobs"])


@router.post("")
def prune(farm: Farm, body: Body) -> Json:
    """A dry run unless `dry_run` is false; then `limit` jobs at most, and `more` says whether to ask again."""
    order = prune_order(body)
    scope = _own(farm, order.scope)
    if order.dry_run:
        seen = pruning.outlook(farm.db, scope)
        return {
            "object": "prune", "dry_run": True, "jobs": seen.jobs, "bytes": seen.bytes, "oldest": when(seen.oldest),
            "newest": when(seen.newest), "waited_for": seen.waited_for, "images_kept": seen.images_kept,
            "as_of": seen.as_of.isoformat(), "more": seen.jobs > 0,
        }  # fmt: skip
    if (trouble := farm.store_watch.trouble()) is not None:
        raise trouble  # while nothing is marked yet that could not be freed
    # One more: is there a next?
    found = pruning.candidates(farm.db, scope, order.limit + 1)
    gone: list[Candidate] = []
    size = 0
    for one in found[: order.limit]:
        if pruning.prune(farm.db, scope, one):
            gone.append(one)
            size += _free(farm, one.job)
    ends = [one.finished_at for one in gone]
    return {
        "object": "prune", "dry_run": False, "jobs": len(gone), "bytes": size,
        "oldest": when(min(ends, default=None)), "newest": when(max(ends, default=None)),
        "waited_for": pruning.waited_for(farm.db, scope),
        "images_kept": None, "as_of": scope.as_of and scope.as_of.isoformat(), "more": len(found) > order.limit,
    }  # fmt: skip


def _free(farm: Services, job: str) -> int:
    """Bytes of what lay there: video, poster, thumbnail, strip, previews, of each claim."""
    files = list(farm.store.find(files_of(job)))
    farm.store.delete([file.key for file in files])
    return sum(file.bytes for file in files)


def _own(farm: Services, scope: Scope) -> Scope:
    """Operators prune what they like, others what is theirs."""
    person = farm.person
    if farm.artists_change_all or person.role.covers(Role.OPERATOR):
        return scope
    if scope.owner not in {None, person.name}:
        raise NotAllowed(
            f"{person.name} may prune jobs of their own, not of {scope.owner}",
            "leave the owner out, or ask an operator",
        )
    return scope.of(person.name)
