"""One file from a hub onto this disk: resumed where it broke off, its checksum taken as it streams.

`<name>.part` holds what has arrived; only a whole file of the right size and checksum gets its own name.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Generator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from farm.domain.errors import DiskFull
from farm.domain.folders import folder_error
from farm.models.errors import HubUnreachable, WrongFile
from farm.models.hub import TRIES, HubFile, pause
from farm.models.web import Answer, Passing, Web

CHUNK = 1 << 20
Say = Callable[[str, int, int], None]  # what, bytes done, bytes in all


def fetch(web: Web, file: HubFile, target: Path, say: Say) -> None:
    """`file` at `target`, whole. Raises WrongFile, DiskFull, HubUnreachable, HubRefused, NotOnHub.

    Whatever is raised, Ctrl-C included, what has arrived stays for the next call.
    """
    if target.is_file() and target.stat().st_size == file.bytes:
        say(file.path, file.bytes, file.bytes)
        return  # it got its name only once its checksum was right
    target.parent.mkdir(parents=True, exist_ok=True)
    download = _Download(web, file, target.with_name(target.name + ".part"), say)
    turn = 0
    while True:
        before = download.have
        try:
            download.go_on()
            break
        except Passing as fault:
            # Only tries that brought nothing count: a bad line still finishes in the end.
            turn = 0 if download.have > before else turn + 1
            if turn >= TRIES:
                raise HubUnreachable(
                    f"{file.path} stopped at {download.have} of {file.bytes} bytes: {fault}",
                    "what has arrived is kept: run the same command again to go on",
                ) from None
            time.sleep(pause(turn, fault))
    download.finish(target)


class _Download:
    """The part file, its running checksum, and how far it is."""

    def __init__(self, web: Web, file: HubFile, part: Path, say: Say) -> None:
        self._web, self._file, self._part, self._say = web, file, part, say
        self._resumed = part.is_file()
        self.have = 0
        self._hash = None if file.checksum is None else file.checksum.start(file.bytes)
        self._read_what_is_there()

    def go_on(self) -> None:
        """Until all bytes are here. Raises Passing where the connection broke."""
        if self.have >= self._file.bytes:
            if self._file.bytes == 0:
                self._part.touch()
            return
        answer = self._web.open(self._file.url, self.have)
        with answer.body:
            self._check(answer)
            try:
                with self._writing() as part:
                    self._copy(answer, part)
            except (HTTPException, TimeoutError, ConnectionError) as error:
                raise Passing(f"the connection broke ({type(error).__name__})") from None
        if self.have < self._file.bytes:
            raise Passing("the connection was cut")

    def finish(self, target: Path) -> None:
        """Names the file, if it is the right one."""
        checksum = self._file.checksum
        if self._hash is not None and checksum is not None and self._hash.hexdigest() != checksum.value:
            found = self._hash.hexdigest()
            self._part.unlink()
            raise WrongFile(
                f"{self._file.path} has the {checksum.kind} checksum {found}, announced was {checksum.value}",
                "it was thrown away: run the same command again"
                + (" (what an earlier one had left may have been damaged)" if self._resumed else "")
                + ", or use another --from",
            )
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.rename(target)

    def _check(self, answer: Answer) -> None:
        """That what comes is what was asked for, and as long as announced."""
        if answer.status != 206 and self.have:
            self._start_over()  # the server does not know ranges
        elif answer.status == 206:
            said = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            if said is None or int(said[1]) != self.have:
                self._start_over()
                raise Passing("another range came than was asked for")
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and self.have + int(length) != self._file.bytes:
            raise WrongFile(
                f"{self._file.path} has {self.have + int(length)} bytes there, announced were {self._file.bytes}",
                "it may just have been replaced: try again, or use another --from",
            )

    def _copy(self, answer: Answer, part: BinaryIO) -> None:
        while chunk := answer.body.read(CHUNK):
            if self.have + len(chunk) > self._file.bytes:
                self._start_over()
                raise WrongFile(
                    f"{self._file.path} is longer than the {self._file.bytes} bytes announced",
                    "it may just have been replaced: try again, or use another --from",
                )
            part.write(chunk)
            if self._hash is not None:
                self._hash.update(chunk)
            self.have += len(chunk)
            self._say(self._file.path, self.have, self._file.bytes)

    @contextlib.contextmanager
    def _writing(self) -> Generator[BinaryIO]:
        try:
            with self._part.open("ab") as part:
                yield part
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            meaning = folder_error(error, self._part.parent)
            if isinstance(meaning, DiskFull):
                meaning.next = "free some space; what has arrived is kept, so run the same command again"
            raise meaning from error

    def _read_what_is_there(self) -> None:
        """The checksum goes over every byte, also those that an earlier call has left."""
        if not self._part.is_file() or self._part.stat().st_size > self._file.bytes:
            self._start_over()
            return
        with self._part.open("rb") as part:
            while chunk := part.read(CHUNK):
                if self._hash is not None:
                    self._hash.update(chunk)
                self.have += len(chunk)
                self._say(self._file.path, self.have, self._file.bytes)

    def _start_over(self) -> None:
        self._part.unlink(missing_ok=True)
        self._hash = None if self._file.checksum is None else self._file.checksum.start(self._file.bytes)
        self.have = 0
