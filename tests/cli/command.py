"""Runs the real `farm` command as its own process against a served farm."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.served.farm import Served

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Command:
    """`farm(...)` waits for its end; `start(...)` returns the running process."""

    url: str
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, served: Served, cwd: Path) -> "Command":
        return cls(served.url, cwd)

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FARM_")},
            "PYTHONPATH": str(ROOT), "FARM_URL": self.url,
            "FARM_CONFIG": str(self.cwd / "client.json"), **self.environment,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "farm.cli.main", *arguments], cwd=self.cwd, env=environment,
            **{"stdin": subprocess.PIPE, **options}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str, stdin: bytes = b"") -> "Done":
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return Done(process.returncode, out.decode(), err.decode())


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]
