"""What every history and every small farm stands on: a database, its clock, faults to order, names."""

from dataclasses import dataclass

from farm.db.engine import Database, open_database
from farm.db.tables import metadata
from farm.domain.job import Artifact, Assignment, JobSpec
from tests.chaos.injector import Injector, inject
from tests.db.conftest import Clock

TTL = 30.0
OWNERS = ("ann", "bob")


@dataclass
class World:
    """One database for a whole run, emptied for each history. `eyes`: a second door to it, which never breaks."""

    db: Database
    eyes: Database
    clock: Clock
    injector: Injector

    @classmethod
    def on(cls, url: str) -> "World":
        clock = Clock()
        world = cls(open_database(url, clock), open_database(url, clock), clock, Injector(clock.forward))
        inject(world.db, world.injector)
        return world

    def close(self) -> None:
        self.db.close()
        self.eyes.close()

    def empty(self) -> None:
        self.injector.disarm()
        with self.eyes.write() as conn:
            for table in reversed(metadata.sorted_tables):
                conn.execute(table.delete())


def spec_of(prompt: str) -> JobSpec:
    return JobSpec("t2v", "demo-t2v", "d1", prompt, 96, 96, 17, 12, 16, 7, 3.0)


def video_of(assignment: Assignment) -> Artifact:
    sha256 = f"{assignment.job}/{assignment.epoch}"  # bytes that no other claim would have made
    prefix = assignment.prefix
    return Artifact(f"{prefix}/video.mp4", sha256, 1, 17, 17 / 12, f"{prefix}/poster.jpg")
