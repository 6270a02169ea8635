"""Where `verify --render` renders, and with what."""

import importlib
from typing import Any

from farm import gpus
from farm.models.errors import ImportFailed


def best_device() -> str:
    return "cuda" if gpus.visible() else "cpu"


def pipeline_class(where: str) -> Any:
    """The class that FARM_PIPELINE names: "module:class". Raises ImportFailed."""
    module, _, name = where.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ImportFailed(f"{module} has no {name}", "see FARM_PIPELINE")
    return found
