"""The models on this machine: a folder of components, each with a manifest. Pure Python: servers read it.

A model is a transformer component of its own name and two that models share, a VAE and a text encoder:

    <folder>/wan2.1-t2v-1.3b/manifest.json   transformer-00001.safetensors ...   (two experts: low-00001 ... too)
    <folder>/wan2.1-vae/manifest.json        vae-00001.safetensors
    <folder>/umt5-xxl/manifest.json          text_encoder-00001.safetensors ...  tokenizer/...

A component is written elsewhere and renamed into place whole (model.checkpoints.importing).
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from model.errors import CorruptWeights, ModelError
from model.wan.config import PRESETS, Preset, TransformerConfig, UMT5Shapes, VAEConfig

MANIFEST = "manifest.json"
Kind = Literal["transformer", "vae", "text_encoder"]
_CONFIGS = {"transformer": TransformerConfig, "vae": VAEConfig, "umt5": UMT5Shapes}


@dataclass(frozen=True)
class File:
    """One file of a component: its name below the component's folder, and what it must hold."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Component:
    """What a manifest says. `source`: where it was had from; `layout`: how it was stored there.

    preset: of a transformer, everything about the model but where it lies.
    """

    name: str
    kind: Kind
    files: tuple[File, ...]
    source: str
    layout: str
    preset: Preset | None = None

    @property
    def digest(self) -> str:
        """sha256 over the files' names and digests, and the configuration that gives them meaning."""
        total = hashlib.sha256()
        for file in sorted(self.files, key=lambda f: f.name):
            total.update(f"{file.name}\0{file.sha256}\n".encode())
        if self.preset is not None:
            total.update(json.dumps(preset_json(self.preset), sort_keys=True).encode())
        return total.hexdigest()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "source": self.source, "layout": self.layout,
            "files": [dataclasses.asdict(file) for file in self.files],
            "preset": None if self.preset is None else preset_json(self.preset),
        }  # fmt: skip

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Component":
        """The inverse of `json`. Raises KeyError, TypeError or ValueError where it does not say enough."""
        return cls(
            name=said["name"], kind=said["kind"], source=said["source"], layout=said["layout"],
            files=tuple(File(**file) for file in said["files"]),
            preset=None if said["preset"] is None else preset_of(said["preset"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Where a model's files lie, by role. `low` holds the low-noise expert where there are two."""

    digest: str
    transformer: tuple[Path, ...]
    vae: tuple[Path, ...]
    text_encoder: tuple[Path, ...]
    low: tuple[Path, ...] = ()
    tokenizer: Path | None = None
    preview: Path | None = None


class Library:
    """The packaged demo model, and what lies in `folder`, which need not exist; None: the packaged one only."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path("/nonexistent/no model library")

    def components(self) -> dict[str, Component]:
        """Every component whose manifest can be read and whose files are there in their sizes."""
        found = (self.component(path.parent.name) for path in sorted(self.folder.glob(f"*/{MANIFEST}")))
        return {component.name: component for component in found if component is not None}

    def component(self, name: str) -> Component | None:
        """One of them. None where it is absent or incomplete; `read` says what is wrong with it."""
        try:
            return self.read(name)
        except CorruptWeights:
            return None

    def read(self, name: str) -> Component:
        """The component called `name`. Raises CorruptWeights naming the file that is missing or mis-sized."""
        path = self.folder / name / MANIFEST
        try:
            component = Component.of(json.loads(path.read_text("utf-8")))
        except OSError as error:
            why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
            raise CorruptWeights(
                f"{name} is not in the model library {self.folder}{why}", f"run: farm models pull {name}"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptWeights(f"{path}: not a manifest ({error})", "import the model again") from None
        if component.name != name:
            raise CorruptWeights(f"{path}: belongs to {component.name}", "give the folder its own name back")
        for file in component.files:
            try:
                size = (path.parent / file.name).stat().st_size
            except OSError:
                raise CorruptWeights(f"{path.parent / file.name}: no such file", "import it again") from None
            if size != file.bytes:
                raise CorruptWeights(
                    f"{path.parent / file.name}: expected {file.bytes} bytes, found {size}", "import it again"
                )
        return component

    def known(self) -> dict[str, Preset]:
        """The presets of this version, and imported models of other names."""
        imported = (c.preset for c in self.components().values() if c.preset is not None)
        return {**PRESETS, **{preset.name: preset for preset in imported}}

    def installed(self) -> list[Preset]:
        """Models that can be rendered here."""
        present = self.components()
        return [preset for preset in self.known().values() if not self._missing(preset, present)]

    def missing(self, preset: Preset) -> list[str]:
        """Names of the components that `preset` needs and that are not here."""
        return self._missing(preset, self.components())

    def find(self, name: str) -> Preset:
        """The installed model called `name`. Raises ModelError saying what is missing and how to get it."""
        known = self.known()
        if name not in known:
            raise ModelError(f"unknown model {name!r}", f"choose one of: {', '.join(known)}")
        if missing := self.missing(known[name]):
            raise CorruptWeights(
                f"{name} is not on this machine: {', '.join(missing)} missing", f"run: farm models pull {name}"
            )
        return known[name]

    def weights(self, preset: Preset) -> Weights:
        """Its files by role. Raises CorruptWeights where one is missing or of another size."""
        if preset.weights is not None:
            return _packaged(preset, preset.weights)
        parts = [self.read(name) for name in needed(preset)]
        own, vae, text = parts
        total = hashlib.sha256("\n".join(part.digest for part in parts).encode()).hexdigest()
        return Weights(
            total, self._files(own, "transformer"), self._files(vae, "vae"), self._files(text, "text_encoder"),
            low=self._files(own, "low"), tokenizer=self.folder / text.name / "tokenizer",
        )  # fmt: skip

    def digest(self, preset: Preset) -> str:
        """What pins a job to these weights. Raises CorruptWeights."""
        return self.weights(preset).digest

    def _missing(self, preset: Preset, present: dict[str, Component]) -> list[str]:
        if preset.weights is not None:
            return [] if any(preset.weights.glob("*.safetensors")) else [preset.name]
        return [name for name in needed(preset) if name not in present]

    def _files(self, component: Component, role: str) -> tuple[Path, ...]:
        folder = self.folder / component.name
        return tuple(folder / file.name for file in component.files if file.name.startswith(f"{role}-"))


def needed(preset: Preset) -> tuple[str, str, str]:
    """The components of a model that is not packaged: its own, its VAE's, its text encoder's."""
    return preset.name, preset.vae_part, preset.text_part


def preset_json(preset: Preset) -> dict[str, Any]:
    """All of a preset but where packaged weights lie, as JSON holds it."""
    values = dataclasses.asdict(preset)
    del values["weights"]
    return cast("dict[str, Any]", json.loads(json.dumps(values)))


def preset_of(said: dict[str, Any]) -> Preset:
    """The inverse of `preset_json`. Raises KeyError, TypeError or ValueError."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    for name, config in _CONFIGS.items():
        inner = {k: tuple(v) if isinstance(v, list) else v for k, v in said[name].items()}
        values[name] = config(**inner)
    return Preset(**values)


def _packaged(preset: Preset, folder: Path) -> Weights:
    """Packaged models share a VAE, a text encoder and a preview; each has its own transformer."""
    parts = {part: folder / f"{part}.safetensors" for part in ("vae", "text_encoder", "preview")}
    parts["transformer"] = folder / f"transformer-{preset.task}.safetensors"
    if not any(path.exists() for path in parts.values()):
        raise CorruptWeights(f"no weights of {preset.name} on this machine", "install turbofarm again")
    if absent := [path for path in parts.values() if not path.exists()]:
        raise CorruptWeights(f"{absent[0]}: no such file", "install turbofarm again")
    digest = _digest_of(tuple((path, path.stat().st_mtime_ns) for path in sorted(parts.values())))
    return Weights(
        digest, (parts["transformer"],), (parts["vae"],), (parts["text_encoder"],), preview=parts["preview"]
    )


@functools.cache
def _digest_of(files: tuple[tuple[Path, int], ...]) -> str:
    # Remembered by modification time: a server asks at every submit.
    total = hashlib.sha256()
    for path, _ in files:
        total.update(path.name.encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
