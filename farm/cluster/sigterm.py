"""Hearing SIGTERM in a process whose main thread waits inside C++."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any


def on_sigterm(act: Callable[[], None]) -> None:
    """Calls `act` on a thread when SIGTERM comes. Does nothing outside of an actor's process.

    Ray's main thread waits inside C++, where Python's handlers never run; the byte that the
    interpreter's C handler writes to the wakeup descriptor arrives all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    coming, going = os.pipe()
    os.set_blocking(going, False)

    def nothing(*_: Any) -> None: ...

    signal.signal(signal.SIGTERM, nothing)  # in place of Ray's, which would wait for every call to end
    signal.set_wakeup_fd(going)

    def watch() -> None:
        while os.read(coming, 1)[0] != signal.SIGTERM:
            pass
        act()

    threading.Thread(target=watch, name="sigterm", daemon=True).start()
