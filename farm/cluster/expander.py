"""The operator's prompt expander: a command, or a chat endpoint that speaks as OpenAI's does.

What it answers is asked for once per job, checked as any prompt is, and kept beside what was typed.
"""

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from typing import Any

from farm.domain.errors import FarmError
from farm.domain.job import JobSpec
from farm.domain.prompt import prompt_of
from farm.settings import Settings
from model.wan.config import Preset

PATIENCE = 60.0  # seconds
_MOST = 1 << 20  # bytes of an answer
_ASK = (
    "You write prompts for a text-to-video model. Rewrite the user's idea as one description of 60 to 100 words in"
    " the user's language: subject, what it does, surroundings, light, camera. Keep every fact the user gives, add"
    " no text in the picture, answer with the description alone."
)
# What a command may know of this process: it is somebody's script, and our environment holds passwords.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class ExpanderFailed(FarmError):
    """It is away, broke, or answered what no model would take: the prompt is rendered as it was typed."""

    code = "expander_failed"


def expand(settings: Settings, spec: JobSpec, preset: Preset) -> str:
    """The longer prompt for `spec`. Raises ExpanderFailed."""
    if settings.expander_command:
        text = _of_command(settings.expander_command, spec)
    elif settings.expander_url:
        text = _of_endpoint(settings, spec)
    else:
        raise ExpanderFailed("this node has no prompt expander", "set expander_command or expander_url here, too")
    try:
        return prompt_of(text, preset)
    except FarmError as error:
        raise ExpanderFailed(f"the expanded prompt cannot be used: {error.message}", error.next) from error


def _of_command(command: str, spec: JobSpec) -> str:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"FARM_MODEL": spec.model, "FARM_SEED": str(spec.seed), "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            shlex.split(command), input=spec.prompt.encode(), capture_output=True, timeout=PATIENCE, env=environment
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ExpanderFailed(f"the expander's command did not run: {error}", "try it in a shell") from error
    if done.returncode:
        said = done.stderr[-300:].decode("utf-8", "replace").strip()
        raise ExpanderFailed(f"the expander's command ended with {done.returncode}: {said}", "try it in a shell")
    return done.stdout[:_MOST].decode("utf-8", "replace")


def _of_endpoint(settings: Settings, spec: JobSpec) -> str:
    body: dict[str, Any] = {
        "model": settings.expander_model,
        "messages": [{"role": "system", "content": _ASK}, {"role": "user", "content": spec.prompt}],
        "seed": spec.seed,
        "max_tokens": 400,
    }
    headers = {"Content-Type": "application/json"}
    if settings.expander_key:
        headers["Authorization"] = f"Bearer {settings.expander_key}"
    url = f"{settings.expander_url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            said: Any = json.loads(answer.read(_MOST))
        return str(said["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, urllib.error.URLError) as error:
        # Its words, not the request: that carries the key.
        said = str(getattr(error, "reason", None) or error)
        raise ExpanderFailed(f"the expander's endpoint gave no prompt: {said}", "see its log") from error
