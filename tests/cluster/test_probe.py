"""What a device in quarantine is probed with."""

from pathlib import Path
from typing import Any, cast

from farm.cluster import probe
from model.library import Library


class Nothing:
    """A worker's resident model where there is none: whoever asks for it has made a mistake."""


def test_a_node_without_the_farms_model_is_probed_with_what_it_has(tmp_path: Path) -> None:
    library = Library(tmp_path)
    ours = {preset.name for preset in library.installed()}
    assert ours, "the packaged model is everywhere"
    other = probe.model_for(library, "wan2.1-t2v-14b")
    assert other is not None
    assert other.name in ours
    (name, *_) = ours
    chosen = probe.model_for(library, name)
    assert chosen is not None
    assert chosen.name == name


def test_a_node_without_any_model_is_not_held_at_fault_for_that() -> None:
    class Empty:
        def installed(self) -> list[Any]:
            return []

    preset = probe.model_for(cast(Library, Empty()), "demo-t2v")
    assert preset is None
    assert probe.run(cast(Any, Nothing()), preset, on_gpu=False) == "there is no model here to render with"
