"""A steady stream of wishes over HTTP, as people and scripts send them: keys, batches, cancels, retries, repeats.

Each request with a key is sent again until it is answered; one without is counted on only where it was answered.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from farm.chaos.journal import Journal
from farm.chaos.model import HUNGRY, REFUSED
from farm.cli.client import Client, Json, Refused
from farm.domain.errors import FarmError, FarmUnreachable

MOST_UNFINISHED = 14  # jobs at once: enough that nobody idles, few enough that all end soon after the last fault
_PAUSE = 0.4  # seconds between two requests
_TIMEOUT = 15.0
_IMPATIENT = 0.1  # how often somebody cancels where nothing more fits in
_FINAL = frozenset({"succeeded", "failed", "cancelled"})


class LoadRefused(FarmError):
    code = "load_refused"


class Load:
    """Runs on a thread of its own from `start` to `stop`."""

    def __init__(self, url: str, journal: Journal, seed: int) -> None:
        self._client = Client(url, timeout=_TIMEOUT)
        self._journal = journal
        self._dice = random.Random(seed)
        self._number = 0
        self._keys: list[tuple[str, Json]] = []
        self._pending: list[Callable[[], None]] = []  # requests with a key that nobody has answered yet
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.broken: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Every wish with a key has been answered when this returns, or can not be for the farm is down."""
        self._stopping.set()
        self._thread.join()
        for _ in range(30):
            if not self._pending:
                return
            with contextlib.suppress(FarmUnreachable, Refused):
                self._send_pending()
            time.sleep(1.0)

    def release_all(self) -> None:
        """Nothing may wait for a person when the farm is to come to rest."""
        for job in self._jobs("held"):
            with contextlib.suppress(Refused):
                self._client.act(job["id"], "release")

    def unfinished(self) -> int:
        counts: dict[str, int] = self._client.get("/api/jobs", limit=1)["counts"]
        return sum(n for state, n in counts.items() if state not in _FINAL)

    def _run(self) -> None:
        while not self._stopping.wait(_PAUSE):
            try:
                self._send_pending()
                self._one()
            except FarmUnreachable:
                self._journal.unanswered += 1
            except Refused as refusal:
                if refusal.status < 500:  # a wish that came too late, or a farm that is not ready
                    continue
                self._journal.unanswered += 1
            except Exception as error:
                self.broken = error
                return

    def _one(self) -> None:
        if self.unfinished() >= MOST_UNFINISHED:
            if self._dice.random() < _IMPATIENT:
                self._cancel()
            return
        (act,) = self._dice.choices(
            (
                self._with_key,
                self._without_key,
                self._batch,
                self._again,
                self._after,
                self._cancel,
                self._retry,
                self._held,
            ),
            (8, 4, 2, 2, 2, 3, 3, 1),
        )
        act()

    # -- wishes ------------------------------------------------------------------------------------

    def _wish(self) -> Json:
        self._number += 1
        words = f"a red kite over the dunes, number {self._number}"
        odd = self._dice.random()
        if odd < 0.04:
            words += f" {REFUSED}"
        elif odd < 0.06:
            words += f" {HUNGRY}"
        return {"prompt": words, "steps": self._dice.randint(1, 4), "priority": self._dice.choice((0, 0, 0, 5))}

    def _with_key(self) -> None:
        wish, key = self._wish(), f"key-{self._dice.getrandbits(64):016x}"
        self._keys.append((key, wish))
        self._pending.append(lambda: self._submit(wish, key))
        self._send_pending()

    def _without_key(self) -> None:
        self._submit(self._wish(), None)

    def _again(self) -> None:
        """A script that is not sure whether its wish has arrived."""
        if self._keys:
            key, wish = self._dice.choice(self._keys)
            self._submit(wish, key)

    def _after(self) -> None:
        """One that waits for another; where that one is over without success, the farm says no."""
        first = self._pick("queued", "leased", "running")
        if first is not None:
            mode = self._dice.choice(("success", "any"))
            self._submit({**self._wish(), "depends_on": [{"job": first["id"], "after": mode}]}, None)

    def _held(self) -> None:
        self._submit({**self._wish(), "hold": True}, None)

    def _batch(self) -> None:
        name = f"batch-{self._dice.getrandbits(32):08x}"
        rows = [self._wish() for _ in range(3)]
        self._pending.append(lambda: self._submit_batch(name, rows))
        self._send_pending()

    def _submit(self, wish: Json, key: str | None) -> None:
        headers = None if key is None else {"Idempotency-Key": key}
        self._journal.accept(self._client.post("/api/jobs", wish, headers), key)

    def _submit_batch(self, name: str, rows: list[Json]) -> None:
        done = self._client.post("/api/batches", {"name": name, "rows": rows})
        for number, job in enumerate(done["jobs"]):
            self._journal.accept(self._client.job(job), f"{name}#{number}")

    def _send_pending(self) -> None:
        """In their order, each until it is answered. A refusal would be a mistake of this file."""
        while self._pending:
            try:
                self._pending[0]()
            except Refused as refusal:
                if refusal.status < 500:
                    raise LoadRefused(
                        f"a wish of the load was refused: {refusal.message}", refusal.next
                    ) from refusal
                raise
            self._pending.pop(0)

    # -- second thoughts ---------------------------------------------------------------------------

    def _cancel(self) -> None:
        job = self._pick("queued", "leased", "running")
        if job is not None:
            self._journal.cancelled.add(job["id"])  # also where the answer is lost: it may have been heard
            self._client.act(job["id"], "cancel")

    def _retry(self) -> None:
        job = self._pick("failed", "cancelled")
        if job is not None and REFUSED not in job["prompt"] and HUNGRY not in job["prompt"]:
            self._journal.retried.add(job["id"])
            self._client.act(job["id"], "retry")

    def _pick(self, *states: str) -> Json | None:
        found = self._jobs(*states)
        return self._dice.choice(found) if found else None

    def _jobs(self, *states: str) -> list[Json]:
        page: Any = self._client.get("/api/jobs", state=",".join(states), limit=50)
        return page["data"]
