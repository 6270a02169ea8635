"""Structured logs: one JSON object a line in <home>/logs/<process>.log; events with fields, not sentences."""

import json
import logging
import logging.handlers
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farm.domain.address import shown

_SECRET_NAME = re.compile(r"token|password|secret|authorization|cookie|api_?key|credential", re.IGNORECASE)
_ROTATE_BYTES = 10_000_000
_KEEP = 5


class Log:
    """Writes events. `bind` gives a Log that carries more fields, such as job and epoch."""

    def __init__(self, logger: logging.Logger, fields: dict[str, Any] | None = None) -> None:
        self._logger = logger
        self._fields = fields or {}

    def bind(self, **fields: Any) -> "Log":
        return Log(self._logger, {**self._fields, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, error: BaseException | None = None, **fields: Any) -> None:
        """`error` adds the exception's type, words and traceback."""
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(error))
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        self._logger.log(level, event, extra={"fields": {**self._fields, **fields}})


def start_log(process: str, folder: Path, level: str = "INFO") -> Log:
    """The log of this process, in a file of its own (rotation is not safe between processes).

    Warnings and errors go to stderr too, where the supervisor keeps them.
    """
    logger = logging.getLogger(f"turbofarm.{process}")
    logger.setLevel(level)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    file = logging.handlers.RotatingFileHandler(
        folder / f"{process}.log", maxBytes=_ROTATE_BYTES, backupCount=_KEEP, encoding="utf-8", delay=True
    )
    file.setFormatter(_JsonLine(process))
    logger.addHandler(file)
    loud = logging.StreamHandler(sys.stderr)
    loud.setLevel(logging.WARNING)
    loud.setFormatter(_JsonLine(process))
    logger.addHandler(loud)
    return Log(logger)


class _JsonLine(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "pid": os.getpid(),
            "job": fields.pop("job", None),
            "epoch": fields.pop("epoch", None),
            "event": record.getMessage(),
        }
        line.update({name: _safe(name, value) for name, value in fields.items()})
        return json.dumps(line, ensure_ascii=False, default=str)


def _safe(name: str, value: Any) -> Any:
    """No secrets in logs: neither under a telling name nor inside a URL."""
    if _SECRET_NAME.search(name):
        return "***"
    return shown(value) if isinstance(value, str) else value
