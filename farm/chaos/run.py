"""`farm chaos`: a throw-away farm under load, its processes killed and frozen at random, and then the audit."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from farm.chaos.audit import Audit, audit, summary
from farm.chaos.farm import Beaten, beaten, note
from farm.chaos.journal import Journal, Kind
from farm.chaos.killer import Killer
from farm.chaos.load import Load
from farm.db.engine import open_database
from farm.domain.address import shown
from farm.domain.errors import FarmError
from farm.throwaway import forget

_DRAIN = 240.0  # seconds for everything accepted to come to its end once the faults have stopped
_BACK = 60.0


class ChaosFailed(FarmError):
    """The farm's supervisor, which nobody hits, has ended."""

    code = "chaos_failed"


@dataclass(frozen=True)
class Plan:
    """What is asked for. `seed` decides about the load, and who is hit when and how."""

    minutes: float
    seed: int
    with_servers: bool = False
    workers: int = 3
    keep: bool = False


@dataclass(frozen=True)
class Report:
    """What was done and found, for people (`lines`) and for programs (`plain`)."""

    plan: Plan
    where: str
    journal: Journal
    audit: Audit
    drained: float | None  # seconds; None: it never came to rest
    seconds: float
    kept: str | None

    @property
    def violations(self) -> list[str]:
        return self.audit.violations

    def plain(self) -> dict[str, Any]:
        found = self.audit
        return {
            "object": "chaos", "seed": self.plan.seed, "minutes": self.plan.minutes, "where": self.where,
            "seconds": round(self.seconds, 1), "faults": len(self.journal.faults), "kills": self._kills(),
            "by_target": self._by_target(), "recovery": self._recovery(),
            "accepted": len(self.journal.accepted), "jobs": dict(found.states), "attempts": dict(found.outcomes),
            "failed_by_code": dict(found.failures), "unanswered_requests": self.journal.unanswered,
            "drained_after": self.drained, "videos_whole": found.videos, "violations": self.violations,
            "kept": self.kept,
        }  # fmt: skip

    def lines(self) -> list[str]:
        found, journal = self.audit, self.journal
        by_target = ", ".join(f"{target} {kind} {n}" for (target, kind), n in sorted(self._hits().items()))
        back = ", ".join(f"{target} {said}" for target, said in self._recovery().items())
        drained = "never" if self.drained is None else f"after {self.drained:.0f} s"
        return [
            f"chaos     seed {self.plan.seed}, {self.plan.minutes:g} minutes, {self.plan.workers} workers",
            f"on        {self.where}",
            f"faults    {len(journal.faults)}, of them {self._kills()} kills: {by_target}",
            f"back      {back}",
            f"requeued  after its worker's death: {summary(found.requeued)}; "
            f"running again: {summary(found.running_again)}",
            f"load      {len(journal.accepted)} jobs accepted, {journal.unanswered} requests without an answer; "
            f"at rest {drained}",
            f"jobs      {_counted(found.states)}; failed for: {_counted(found.failures)}",
            f"attempts  {_counted(found.outcomes)}",
            f"audit     {len(found.lost)} lost, {len(found.doubled)} doubled, {len(found.stuck)} stuck, "
            f"{len(found.poisoned_without_blame)} poisoned without blame, "
            f"{len(found.overwritten)} finals overwritten, "
            f"{found.videos} of {found.states['succeeded']} videos whole",
        ]  # fmt: skip

    def _kills(self) -> int:
        return sum(fault.kind is Kind.KILL for fault in self.journal.faults)

    def _hits(self) -> Counter[tuple[str, str]]:
        return Counter((fault.target, fault.kind.value) for fault in self.journal.faults)

    def _by_target(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for (target, kind), count in sorted(self._hits().items()):
            found.setdefault(target, {})[kind] = count
        return found

    def _recovery(self) -> dict[str, str]:
        """Until a killed process was seen replaced, by target."""
        seconds: dict[str, list[float]] = {}
        for fault in self.journal.faults:
            if fault.back is not None:
                seconds.setdefault(fault.target, []).append(fault.back - fault.at)
        return {target: summary(found) for target, found in sorted(seconds.items())}


def run_chaos(plan: Plan, say: Callable[[str], None]) -> Report:
    """Raises FarmError where nothing could be tried; a broken promise is in the report."""
    began = time.monotonic()
    journal = Journal()
    home = None
    try:
        with beaten(plan.workers, plan.with_servers) as farm:
            home = farm.home
            where = f"{shown(farm.settings.database_url)} and {farm.store.name}"
            say(f"A farm on {farm.settings.url}, in {home}")
            found, drained = _beat(plan, farm, journal, say)
            note(home, "journal.json", journal.plain())
            note(home, "violations.json", found.violations)
        kept = str(home) if plan.keep or found.violations else None
    except BaseException:
        if home is not None and not plan.keep:
            forget(home)
        raise
    if kept is None:
        forget(home)
    return Report(plan, where, journal, found, drained, time.monotonic() - began, kept)


def _beat(plan: Plan, farm: Beaten, journal: Journal, say: Callable[[str], None]) -> tuple[Audit, float | None]:
    db = open_database(farm.settings.database_url)
    try:
        load = Load(farm.settings.url, journal, plan.seed)
        killer = Killer(farm.settings, db, journal, plan.seed, say)
        load.start()
        try:
            killer.run(60 * plan.minutes, _dead(farm))
        finally:
            killer.thaw()
        if farm.machine.over:
            raise ChaosFailed(f"the farm's supervisor ended:\n{farm.machine.last_words()}", "try: farm doctor")
        say("The faults have stopped.")
        load.stop()
        if load.broken is not None:
            raise load.broken
        drained = _drain(load)
        killer.wait_all_back(_BACK)
        return audit(db, farm.store, journal, farm.settings.crash_cap), drained
    finally:
        db.close()


def _dead(farm: Beaten) -> threading.Event:
    """Set when the supervisor has ended, which nobody hits."""
    over = threading.Event()

    def watch() -> None:
        farm.machine.wait()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    return over


def _drain(load: Load) -> float | None:
    """How long until nothing was unfinished; None: longer than anybody would wait."""
    began = time.monotonic()
    while time.monotonic() - began < _DRAIN:
        try:
            load.release_all()
            if load.unfinished() == 0:
                return time.monotonic() - began
        except FarmError:
            pass  # it is still getting up
        time.sleep(0.5)
    return None


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"
