"""Which models can be rendered here, and how large their weights are."""

from collections.abc import Mapping

from farm.ops.checks.finding import Finding, failed, ok, size
from model.wan.config import installed


def read_models() -> dict[str, int]:
    """Bytes of the weights on this machine, by preset."""
    return {
        preset.name: sum(path.stat().st_size for path in preset.weights.glob("*.safetensors"))
        for preset in installed()
        if preset.weights is not None
    }


def check_models(found: Mapping[str, int], wanted: str) -> list[Finding]:
    """`wanted`: what the workers are to keep in memory."""
    findings = [ok("model", f"{name}, {size(number)}") for name, number in sorted(found.items())]
    if wanted not in found:
        others = ", ".join(sorted(found)) or "none"
        findings.append(
            failed("model", f"the weights of {wanted}, which the workers keep in memory, are not here",
                   f"install them, or choose one that is here with --model or FARM_MODEL: {others}")
        )  # fmt: skip
    return findings
