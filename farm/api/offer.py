"""The models that people can ask this server for: what its own library holds, and what living workers have."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping

from farm.db import models
from farm.db.engine import Database
from farm.domain.errors import FarmError
from farm.domain.model import KnownModel
from farm.domain.request import Models
from model.errors import ModelError
from model.library import Library, preset_of
from model.wan.config import Preset

log = logging.getLogger("farm.api.offer")

FRESH = 2.0  # seconds for which an answer is good: every submission asks


class Offer:
    """`now()` may be asked by many threads at once."""

    def __init__(self, db: Database, library: Library, default: str, expands: bool = False) -> None:
        self._db = db
        self._library = library
        self._default = default
        self._expands = expands
        self._lock = threading.Lock()
        self._known: Models | None = None
        self._read_at = 0.0

    def now(self) -> Models:
        with self._lock:
            if self._known is None or time.monotonic() - self._read_at > FRESH:
                self._known = self._look()
                self._read_at = time.monotonic()
            return self._known

    def _look(self) -> Models:
        presets = {preset.name: preset for preset in self._library.installed()}
        try:
            known = models.find(self._db)
        except FarmError as error:  # the library alone still answers; a submission will say what is away
            log.warning("models unknown", extra={"code": error.code})
            known = []
        pinned: dict[str, str] = {}
        for name, preset, digest in held_by_workers(known):
            presets.setdefault(name, preset)
            pinned[name] = digest

        def digest_of(preset: Preset) -> str:
            return pinned.get(preset.name) or self._own(preset)

        return Models(presets, self._default, digest_of, self._expands)

    def _own(self, preset: Preset) -> str:
        return self._library.digest(preset)  # notices files that were replaced


def held_by_workers(known: Iterable[KnownModel]) -> Iterable[tuple[str, Preset, str]]:
    """Of each name the newest weights that a living worker has: new jobs are pinned to these."""
    newest: Mapping[str, KnownModel] = {model.name: model for model in reversed(list(known)) if model.workers}
    for model in newest.values():
        try:
            yield model.name, preset_of(dict(model.preset)), model.digest
        except (KeyError, TypeError, ValueError, ModelError) as error:
            # A worker of another version: its model is of no use to this server.
            log.warning("preset unreadable", extra={"model": model.name, "why": str(error)})
