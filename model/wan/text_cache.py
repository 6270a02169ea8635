"""Text embeddings kept on disk: the same prompt under the same weights is encoded once."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_BYTES = 2 << 30  # about 500 of the longest prompts at 512 x 4096 in bf16, many more short ones


class TextCache:
    """One file a prompt, named by the digest of weights and cleaned text; the least recently used go first."""

    def __init__(self, folder: Path, weights_digest: str, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.digest = weights_digest
        self.max_bytes = max_bytes

    def path(self, prompt: str) -> Path:
        key = hashlib.sha256(f"{self.digest}\0{prompt}".encode()).hexdigest()
        return self.folder / f"{key}.safetensors"

    def get(self, prompt: str) -> Tensor | None:
        """The prompt's real rows [n, dim], or None. A damaged file counts as absent."""
        path = self.path(prompt)
        try:
            rows = load_file(path)["rows"]
            os.utime(path)
        except (OSError, SafetensorError, KeyError):
            return None
        return rows

    def put(self, prompt: str, rows: Tensor) -> None:
        """Keep rows [n, dim]. A full or read-only disk costs the speed-up, never the render."""
        with contextlib.suppress(OSError, SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            os.close(descriptor)
            try:
                save_file({"rows": rows.contiguous().cpu()}, part)
                os.replace(part, self.path(prompt))
            finally:
                Path(part).unlink(missing_ok=True)
            self._shrink()

    def _shrink(self) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        excess = sum(p.stat().st_size for p in files) - self.max_bytes
        for path in files:
            if excess <= 0:
                return
            excess -= path.stat().st_size
            path.unlink(missing_ok=True)
