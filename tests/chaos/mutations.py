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
QUARANTINE = ("pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/db/test_quarantine.py")
WAITING = ("pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/db/test_waiting.py")
SIDE_BY_SIDE = ("pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/db/test_side_by_side.py")


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
    # -- the fence, and the arrows
    Mutation(
        "a claim is known by its job alone", "db/transitions.py",
        "return (jobs.c.id == job) & (jobs.c.epoch == epoch)", "return jobs.c.id == job",
    ),
    Mutation(
        "an arrow starts anywhere", "db/transitions.py",
        ".where(jobs.c.state.in_(sorted(arrow.sources)), *guards)", ".where(*guards)",
    ),
    Mutation(
        "a claim keeps the epoch of the one before", "db/leases/claiming.py",
        "epoch=jobs.c.epoch + 1,", "epoch=case((jobs.c.epoch < 1, 1), else_=jobs.c.epoch),",
    ),
    Mutation(
        "a renewal counts for whoever asks", "db/leases/renewing.py",
        "leases.c.epoch == beat.epoch, leases.c.worker == beat.worker)", "leases.c.job == job)",
    ),
    Mutation(
        "anybody's prompt is expanded by anybody", "db/leases/expanding.py",
        ".where(is_claim(job, epoch), jobs.c.state == JobState.RUNNING, ", ".where(jobs.c.id == job, ",
    ),
    Mutation(
        "an expanded prompt is written again", "db/leases/expanding.py",
        ", jobs.c.expanded_prompt.is_(None))", ")",
    ),
    Mutation(
        "a job is finished from any state", "domain/states.py",
        'FINISH = _arrow("finish", ', 'FINISH = _arrow("finish", *JobState, ',
    ),
    Mutation(
        "cancel overwrites what is over", "domain/states.py",
        'CANCEL_WAITING = _arrow("cancel", ', 'CANCEL_WAITING = _arrow("cancel", JobState.SUCCEEDED, ',
    ),
    Mutation(
        "a started job is recalled", "domain/states.py",
        'RECALL = _arrow("recall", ', 'RECALL = _arrow("recall", JobState.RUNNING, ',
    ),
    Mutation(
        "a success can be retried", "domain/states.py",
        'RETRY = _arrow("retry", ', 'RETRY = _arrow("retry", JobState.SUCCEEDED, ',
    ),
    # -- leases and attempts
    Mutation(
        "the reaper looks at no clock", "db/leases/reaping.py",
        ".where(leases.c.expires_at < farm_now())", ".where(leases.c.epoch >= 0)",
        also=((", leases.c.expires_at < farm_now())", ")"),),
    ),
    Mutation(
        "the reaper does not look again once it holds the lease", "db/leases/reaping.py",
        ", leases.c.expires_at < farm_now())", ")", SIDE_BY_SIDE,
    ),
    Mutation(
        "a claim is made without a lease", "db/leases/claiming.py",
        "insert(leases).values(**key, expires_at=farm_now(ttl),",
        "select(farm_now()) if ttl else insert(leases).values(**key,",
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
        "a worker holds any number of leases", "db/leases/claiming.py", "            holds < capacity,\n", "",
    ),
    # -- lost answers
    Mutation(
        "a lost answer is not read again", "db/leases/settling.py",
        "if happened is None:\n            raise", "if True:\n            raise",
    ),
    Mutation(
        "a lost answer is taken for success", "db/leases/settling.py",
        "        if happened is None:\n            raise\n        return happened", "        return True",
    ),
    Mutation(
        "a key makes a second job", "db/submission.py",
        "if key is not None and key in known:", "if False and key is not None and key in known:",
    ),
    Mutation("a key takes any spec", "db/submission.py", "if spec != wish.spec:", "if False:"),
    Mutation(
        "all claims of a job write to one place", "domain/job.py",
        'return f"videos/{self.job}/{self.epoch}"', 'return f"videos/{self.job}"',
    ),
    Mutation(
        "a change is not told", "db/transitions.py",
        '    outbox.append(\n        conn,\n        [("job", row["id"]',
        '    _ = (\n        conn,\n        [("job", row["id"]',
    ),
    # -- blame
    Mutation(
        "a cancelled job goes back to the queue", "scheduling/verdict.py", "if at.cancel_requested:", "if False:",
    ),
    Mutation(
        "a job that has not started is blamed for its worker's death", "scheduling/verdict.py",
        "Outcome.LOST and at.running and", "Outcome.LOST and",
    ),
    Mutation(
        "a node that vanished counts as a worker that failed", "scheduling/verdict.py",
        "at.running and at.agent_lived", "at.running",
    ),
    Mutation("one worker is blamed twice", "scheduling/verdict.py", "if not at.new_to_blame:", "if False:"),
    Mutation(
        "out of memory is blamed on the worker", "scheduling/verdict.py",
        "if outcome is Outcome.OUT_OF_MEMORY:\n        return _out", "if outcome is None:\n        return _out",
        also=(("if outcome is Outcome.DEVICE_FAULT or", "if outcome in ('device_fault', 'out_of_memory') or"),),
    ),
    Mutation(
        "a GPU that faulted on a job gets it again", "db/fitting.py",
        "or_(jobs.c.avoid.is_(None), ~has_value(jobs.c.avoid, literal(me.gpu)), ~another),", "true(),",
    ),
    Mutation(
        "nobody is set aside for faults", "db/leases/abandoning.py",
        "if outcome is Outcome.DEVICE_FAULT:\n        quarantines", "if False:\n        quarantines", QUARANTINE,
    ),
    Mutation(
        "a GPU in quarantine gets jobs", "db/fitting.py", ", ~of_node, ~in_quarantine)", ", ~of_node)",
    ),
    Mutation(
        "a probe that nobody asked for releases a GPU", "db/quarantines.py",
        "quarantines.c.gpu == gpu, _IN_FORCE, quarantines.c.until <= farm_now())",
        "quarantines.c.gpu == gpu, _IN_FORCE)",
    ),
    # -- who waits for what
    Mutation(
        "scheduled jobs start early", "db/waiting.py",
        "move(conn, DUE, its_time(), met())", "move(conn, DUE, met())",
    ),
    Mutation(
        "a job does not wait for another", "db/waiting.py",
        "move(conn, DUE, its_time(), met())", "move(conn, DUE, its_time())",
    ),
    Mutation(
        "what waits in vain waits for ever", "db/waiting.py", "while done < _AT_ONCE and", "while False and",
    ),
    Mutation(
        "a job that waits in vain drags nobody along", "db/waiting.py",
        "while done < _AT_ONCE and", "while done < 1 and",
    ),
    Mutation(
        "a released job forgets what it waits for", "db/jobs.py",
        "taken = move(conn, arrow, jobs.c.id == job_id, waiting.met(), **values)",
        "taken = move(conn, arrow, jobs.c.id == job_id, **values)",
        caught_by=WAITING,
    ),
    # -- who is next
    Mutation("a lane that was away owns the farm", "db/transitions.py", "if floor is not None:", "if False:"),
    Mutation(
        "nobody pays for what he used", "db/transitions.py",
        "virtual_time=lanes.c.virtual_time + seconds / lanes.c.weight", "virtual_time=lanes.c.virtual_time",
    ),
    Mutation(
        "the first lane is always next", "scheduling/lanes.py", "return min(ready, key=_turn)", "return ready[0]",
    ),
    Mutation(
        "a closed lane gives jobs away", "db/leases/claiming.py", "lanes.c.closed_reason.is_(None), or_(", "or_(",
    ),
    Mutation(
        "a worker that is to drain gets more", "db/fitting.py",
        "worker.c.wish == Wish.RUN, lives", "lives",
    ),
    Mutation(
        "a node that is to drain gets more", "db/fitting.py", ", ~of_node, ~in_quarantine)", ", ~in_quarantine)",
    ),
    Mutation(
        "a worker that died gets more", "db/fitting.py",
        "lives = and_(worker.c.state != GONE, worker.c.ended_at.is_(None))", "lives = true()",
    ),
    Mutation(
        "priority is not looked at", "db/leases/claiming.py",
        ".order_by(jobs.c.priority.desc(), resident, jobs.c.seq)", ".order_by(jobs.c.seq)",
    ),
)  # fmt: skip


class DoesNotApply(Exception):
    """The passage is not where it was: the guard has moved, or gone."""


def passage(mutation: Mutation) -> Path:
    """The one file, below the root, in which every passage of this mutation stands once. Raises DoesNotApply."""
    olds = [mutation.old, *(old for old, _ in mutation.also)]
    texts = {path: path.read_text() for path in sorted((ROOT / "farm").glob(mutation.where))}
    found = [path for path, text in texts.items() if mutation.old in text]
    if len(found) != 1 or any(texts[found[0]].count(old) != 1 for old in olds):
        raise DoesNotApply(f"{mutation.name}: found in {[str(path.relative_to(ROOT)) for path in found]}")
    return found[0].relative_to(ROOT)


@contextmanager
def mutant(mutation: Mutation) -> Iterator[Path]:
    """A checkout with the guard taken away; only `farm` is a copy."""
    where = passage(mutation)
    with tempfile.TemporaryDirectory(prefix="farm-mutant-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "farm", folder / "farm", ignore=shutil.ignore_patterns("__pycache__", "static"))
        for other in ("model", "kernels", "migrations", "tests"):
            (folder / other).symlink_to(ROOT / other)
        text = (folder / where).read_text()
        for old, new in ((mutation.old, mutation.new), *mutation.also):
            text = text.replace(old, new)
        (folder / where).write_text(text)
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
    said = [line for line in (done.stderr + done.stdout).splitlines() if "Violation: " in line or "Error: " in line]
    return said[0].partition(": ")[2] if said else "its test fails"


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
            f"{'caught' if said else 'MISSED':7} {proof:10} {mutation.name}\n{' ' * 19}{(said or '')[:150]}",
            flush=True,
        )
    print(f"mutations: {len(chosen) - missed} of {len(chosen)} caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
