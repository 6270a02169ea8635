"""Which models can be rendered here, how large their weights are, and which of them are incomplete."""

from collections.abc import Mapping, Sequence

from farm.models.on_disk import size_of
from farm.ops.checks.finding import Finding, failed, ok, size, warning
from model.errors import CorruptWeights
from model.library import MANIFEST, Library


def read_models(library: Library) -> tuple[dict[str, int], list[CorruptWeights]]:
    """Bytes of each model that can be loaded, and what is wrong with the parts that cannot."""
    faults: list[CorruptWeights] = []
    for manifest in sorted(library.folder.glob(f"*/{MANIFEST}")):
        try:
            library.read(manifest.parent.name)
        except CorruptWeights as fault:
            faults.append(fault)
    return {preset.name: size_of(library, preset) for preset in library.installed()}, faults


def check_models(found: Mapping[str, int], faults: Sequence[CorruptWeights], wanted: str) -> list[Finding]:
    """`wanted`: what the workers are to keep in memory."""
    findings = [ok("model", f"{name}, {size(number)}") for name, number in sorted(found.items())]
    findings += [warning("model", fault.message, fault.next) for fault in faults]
    if wanted not in found:
        others = ", ".join(sorted(found)) or "none"
        findings.append(
            failed("model", f"the weights of {wanted}, which the workers keep in memory, are not here",
                   f"install them, or choose one that is here with --model or FARM_MODEL: {others}")
        )  # fmt: skip
    return findings
