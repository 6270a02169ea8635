"""A model library for tests: manifests that hold together, and files that only have their names and sizes."""

import dataclasses
import hashlib
import json
from pathlib import Path

from model.library import MANIFEST, Component, File, Kind, Library
from model.wan.config import PRESETS, Preset

I2V = dataclasses.replace(
    PRESETS["wan2.2-i2v-a14b"], name="tiny-i2v", size=(96, 64), min_side=32, max_side=256, max_pixels=128 * 128,
    frames=9, max_frames=17, fps=12, text_encoder="demo", boundary=None,
)  # fmt: skip


def write_component(
    folder: Path,
    name: str,
    kind: Kind,
    *,
    preset: Preset | None = None,
    content: bytes = b"dummy",
) -> Component:
    """One component whose single file holds `content`."""
    path = folder / name / f"{kind}-00001.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    files = (File(path.name, len(content), hashlib.sha256(content).hexdigest()),)
    component = Component(name, kind, files, "test", "test", preset)
    (path.parent / MANIFEST).write_text(json.dumps(component.json()), encoding="utf-8")
    return component


def write_library(folder: Path, preset: Preset = I2V, content: bytes = b"dummy") -> Library:
    """A folder that holds `preset` and the parts it shares with others."""
    write_component(folder, preset.name, "transformer", preset=preset, content=content)
    write_component(folder, preset.vae_part, "vae")
    write_component(folder, preset.text_part, "text_encoder")
    (folder / preset.text_part / "tokenizer").mkdir(exist_ok=True)
    return Library(folder)
