"""Each guard of the protocol taken away once: `python -m tests.chaos.mutations` prints which proof misses it.

A mutant is a copy of `farm/` with one passage replaced, proved by the same commands in a process of its own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HISTORIES = ("tests.chaos.histories", "--count", "1500", "--seed", "1", "--no-shrink")
SIDE_BY_SIDE = ("pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/db/test_side_by_side.py")
FAULTS = ("tests.chaos.faults", "--count", "300", "--seed", "1")


@dataclass(frozen=True)
class Mutation:
    """`old` stands once in the files of `where` (a glob below farm/); `caught_by` is the proof that must fail.

    `also`: further passages of the same file, where one guard stands behind another.
    """

    name: str
    where: str
    old: str
    new: str
    caught_by: Sequence[str] = HISTORIES
    also: tuple[tuple[str, str], ...] = ()


MUTATIONS = (
    Mutation(
        "the fence: a claim is known by its job alone", "db/transitions.py",
        "return (jobs.c.id == job) & (jobs.c.epoch == epoch)", "return jobs.c.id == job",
    ),
    Mutation(
        "an arrow starts anywhere", "db/transitions.py",
        ".where(jobs.c.state.in_(sorted(arrow.sources)), *guards)", ".where(*guards)",
    ),
    Mutation(
        "a claim keeps the epoch of the one before", "db/**/*.py",
        "epoch=jobs.c.epoch + 1,", "epoch=case((jobs.c.epoch < 1, 1), else_=jobs.c.epoch),",
    ),
    Mutation(
        "the reaper looks at no clock", "db/**/*.py",
        ".where(leases.c.expires_at < farm_now())\n            .order_by", ".where(leases.c.epoch >= 0)\n            .order_by",
        also=((", leases.c.expires_at < farm_now())\n        .with_for_update()", ")\n        .with_for_update()"),),
    ),
    Mutation(
        "the reaper does not look again once it holds the lease", "db/**/*.py",
        ", leases.c.expires_at < farm_now())\n        .with_for_update()", ")\n        .with_for_update()", SIDE_BY_SIDE,
    ),
    Mutation(
        "a renewal counts for whoever asks", "db/**/*.py",
        "leases.c.epoch == beat.epoch, leases.c.worker == beat.worker)", "leases.c.job == job)",
    ),
    Mutation(
        "cancel overwrites what is over", "domain/states.py",
        'CANCEL_WAITING = _arrow("cancel", JobState.SCHEDULED,', 'CANCEL_WAITING = _arrow("cancel", JobState.SUCCEEDED, JobState.SCHEDULED,',
    ),
    Mutation(
        "a job is finished from any state", "domain/states.py",
        'FINISH = _arrow("finish", JobState.LEASED,', 'FINISH = _arrow("finish", *JobState, JobState.LEASED,',
    ),
    Mutation(
        "a started job is recalled", "domain/states.py",
        'RECALL = _arrow("recall", JobState.LEASED,', 'RECALL = _arrow("recall", JobState.RUNNING, JobState.LEASED,',
    ),
    Mutation(
        "a success can be retried", "domain/states.py",
        'RETRY = _arrow("retry", JobState.FAILED,', 'RETRY = _arrow("retry", JobState.SUCCEEDED, JobState.FAILED,',
    ),
    Mutation(
        "a wish to cancel is forgotten at the end of a claim", "scheduling/verdict.py",
        "if cancel_requested:", "if False:",
    ),
    Mutation(
        "drained work is blamed", "domain/states.py",
        "return self in {Outcome.OUT_OF_MEMORY,", "return self in {Outcome.DRAIN, Outcome.OUT_OF_MEMORY,",
    ),
    Mutation(
        "a job that has not started is blamed for its worker's death", "scheduling/verdict.py",
        "(outcome is Outcome.LOST and not running)", "False",
    ),
    Mutation(
        "an ended claim keeps its lease", "db/transitions.py",
        "conn.execute(delete(leases).where(leases.c.job == job, leases.c.epoch == epoch))", "pass",
    ),
    Mutation(
        "an attempt is closed twice", "db/transitions.py",
        "attempts.c.epoch == epoch, attempts.c.finished_at.is_(None))", "attempts.c.epoch == epoch)",
    ),
    Mutation(
        "a lost answer is not read again", "db/**/*.py",
        "if happened is None:\n            raise", "if True:\n            raise",
    ),
    Mutation(
        "a lost answer is taken for success", "db/**/*.py",
        "        if happened is None:\n            raise\n        return happened", "        return True  # type: ignore",
    ),
    Mutation(
        "a key makes a second job", "db/submission.py",
        "if key is not None and key in known:", "if False and key is not None and key in known:",
    ),
    Mutation(
        "a key takes any spec", "db/submission.py",
        "if spec != wish.spec:", "if False:",
    ),
    Mutation(
        "a lane that was away owns the farm", "db/transitions.py",
        "if floor is not None:", "if False:",
    ),
    Mutation(
        "nobody pays for what he used", "db/transitions.py",
        "virtual_time=lanes.c.virtual_time + seconds / lanes.c.weight", "virtual_time=lanes.c.virtual_time",
    ),
    Mutation(
        "the first lane is always next", "scheduling/lanes.py",
        "return min(ready, key=_turn)", "return ready[0]",
    ),
    Mutation(
        "a closed lane gives jobs away", "db/**/*.py",
        "lanes.c.closed_reason.is_(None)).exists()", "True == True).exists()",
    ),
    Mutation(
        "a worker that is to drain gets more", "db/**/*.py",
        "workers.c.wish == Wish.RUN,\n", "",
    ),
    Mutation(
        "priority is not looked at", "db/**/*.py",
        ".order_by(jobs.c.priority.desc(), resident, jobs.c.seq)", ".order_by(jobs.c.seq)",
    ),
    Mutation(
        "all claims of a job write to one place", "domain/job.py",
        'return f"videos/{self.job}/{self.epoch}"', 'return f"videos/{self.job}"',
    ),
    Mutation(
        "a change is not told", "db/transitions.py",
        "    outbox.append(\n        conn,\n        [(\"job\", row[\"id\"]", "    _ = (\n        conn,\n        [(\"job\", row[\"id\"]",
    ),
    Mutation(
        "a claim is made without a lease", "db/**/*.py",
        "conn.execute(insert(leases).values(job=job, epoch=epoch, worker=worker_id, expires_at=farm_now(ttl)))", "pass",
    ),
    Mutation(
        "scheduled jobs start early", "db/**/*.py",
        "move(conn, DUE, jobs.c.not_before <= farm_now())", "move(conn, DUE)",
    ),
)  # fmt: skip


class DoesNotApply(Exception):
    """The passage is not where it was: the guard has moved, or gone."""


@contextmanager
def mutant(mutation: Mutation) -> Iterator[Path]:
    """A checkout with the guard taken away; only `farm` is a copy."""
    with tempfile.TemporaryDirectory(prefix="farm-mutant-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "farm", folder / "farm", ignore=shutil.ignore_patterns("__pycache__", "static"))
        for other in ("model", "kernels", "migrations", "tests"):
            (folder / other).symlink_to(ROOT / other)
        found = [
            path for path in sorted((folder / "farm").glob(mutation.where)) if mutation.old in path.read_text()
        ]
        if len(found) != 1 or found[0].read_text().count(mutation.old) != 1:
            raise DoesNotApply(f"{mutation.name}: found in {[str(path.relative_to(folder)) for path in found]}")
        text = found[0].read_text()
        for old, new in ((mutation.old, mutation.new), *mutation.also):
            text = text.replace(old, new)
        found[0].write_text(text)
        yield folder


def prove(mutation: Mutation) -> str | None:
    """The promise that the mutant breaks; None: nobody noticed."""
    with mutant(mutation) as folder:
        done = subprocess.run(
            [sys.executable, "-m", *mutation.caught_by], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "Violation:" in line or "Error" in line.split(":")[0]]
    return (lines[0] if lines else "it failed").partition(": ")[2] or lines[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="those whose name contains this")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only is None or options.only in m.name]
    missed = 0
    for mutation in chosen:
        said = prove(mutation)
        missed += said is None
        proof = mutation.caught_by[0].rpartition(".")[2]
        print(
            f"{'caught' if said else 'MISSED':7} {proof:10} {mutation.name}\n                   {(said or '')[:150]}",
            flush=True,
        )
    print(f"mutations: {len(chosen) - missed} of {len(chosen)} caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
