"""The API server is light: it may restart under a running farm because it never loads ray or torch."""

import subprocess
import sys


def test_the_api_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, farm.api.server, farm.web.pages, farm.media.check, farm.media.stills;"
        "print([m for m in ('ray', 'torch', 'triton') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
