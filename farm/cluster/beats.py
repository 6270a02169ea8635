"""What worker and node agent say to each other: one datagram each way, JSON. No Ray, no database."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farm.domain.job import Progress
from farm.domain.states import Order, StageName
from farm.domain.worker import Beat, load_of
from farm.settings import Settings

LARGEST = 65536  # bytes of a datagram, far above what a beat needs


def reply_socket(settings: Settings, worker: str) -> Path:
    """Where answers to this worker's beats go."""
    return settings.socket_dir / f"w{worker[:10]}.sock"


@dataclass(frozen=True)
class SentBeat:
    """A beat, the worker's clock when it was sent, the socket that its answer goes to, and the lease it counts on.

    lease_ttl: of the farm, as the dispatcher told the worker; the agent's own settings may not know it.
    """

    beat: Beat
    sent: float
    reply: Path
    lease_ttl: float

    def encode(self) -> bytes:
        message = {
            "beat": asdict(self.beat), "sent": self.sent, "reply": str(self.reply), "lease_ttl": self.lease_ttl
        }  # fmt: skip
        return json.dumps(message).encode()

    @classmethod
    def decode(cls, data: bytes) -> "SentBeat":
        """Raises ValueError (or a kin) for anything else."""
        message: dict[str, Any] = json.loads(data)
        fields: dict[str, Any] = dict(message["beat"])
        fields["models"] = tuple(fields["models"])
        if fields["progress"] is not None:
            progress: dict[str, Any] = dict(fields["progress"])
            progress["stage"] = StageName(progress["stage"])
            fields["progress"] = Progress(**progress)
        if fields["load"] is not None:
            fields["load"] = load_of(fields["load"])
        return cls(Beat(**fields), float(message["sent"]), Path(message["reply"]), float(message["lease_ttl"]))


@dataclass(frozen=True)
class Answer:
    """What the agent knows about a worker's claim.

    renewed: `sent` of the newest beat that reached the database; order: what it brought back.
    leave: the node goes down: give back what runs, and end.
    """

    job: str | None
    epoch: int
    order: Order
    renewed: float | None
    leave: bool

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Answer":
        fields: dict[str, Any] = json.loads(data)
        fields["order"] = Order(fields["order"])
        return cls(**fields)
