"""Latent previews on their way into the store, on a thread of their own: denoising never waits for it."""

import queue
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np

from farm.cluster.claim import Claim
from farm.media.stills import jpeg
from farm.ops.logging import Log
from farm.storage.store import Store

_QUALITY = 80
_LINGER = 1.0  # seconds that the end of a render waits for the last preview


Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Previews:
    """Keeps at most one image waiting: a newer one replaces it. A preview that fails is only missing."""

    def __init__(self, store: Store, claim: Claim, log: Log) -> None:
        self._store = store
        self._claim = claim
        self._log = log
        self._waiting: queue.Queue[tuple[int, Picture] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._drop()  # nobody will look at it
        try:
            self._waiting.put(None, timeout=_LINGER)
        except queue.Full:
            self._drop()
            self._waiting.put_nowait(None)
        self._thread.join(_LINGER)

    def offer(self, step: int, image: Picture) -> None:
        """uint8 [h,w,3]. Called by the render thread only, which is why the put cannot find it full."""
        self._drop()
        self._waiting.put_nowait((step, image))

    def _drop(self) -> None:
        try:
            self._waiting.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            step, image = item
            try:
                self._store.put_bytes(self._claim.assignment.preview_key(step), jpeg(image, _QUALITY))
            except Exception as error:  # a courtesy, never a reason to lose a render
                self._log.warning("preview_failed", step=step, error=str(error))
            else:
                self._claim.report_preview(step)
