"""Imports go farm -> model -> kernels only, and each outside library comes in through one room."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("farm", "model", "kernels")

# library -> the rooms that may import it
DOORS = {
    "ray": ("farm/cluster/",),
    "sqlalchemy": ("farm/db/", "migrations/"),
    "alembic": ("farm/db/", "migrations/"),
    "psycopg": ("farm/db/",),
    "boto3": ("farm/storage/",),
    "botocore": ("farm/storage/",),
    "av": ("farm/media/",),
    "fastapi": ("farm/api/", "farm/web/"),
    "starlette": ("farm/api/", "farm/web/"),
    "uvicorn": ("farm/api/",),
    "jinja2": ("farm/web/",),
    "click": ("farm/cli/",),
    "rich": ("farm/cli/",),
    "pydantic_settings": ("farm/settings.py",),
    "pynvml": ("farm/gpus.py",),
    "triton": ("kernels/",),
    "transformers": ("model/wan/text_encoder.py",),
}
# What `kernels` and `model` may use of the outside: they run alone on a GPU machine.
ALONE = {"torch", "triton", "numpy", "safetensors", "PIL", "transformers", "ftfy"}


def sources(*folders: str) -> list[Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of every import of a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize(("package", "above"), [("kernels", {"farm", "model"}), ("model", {"farm"})])
def test_knowledge_flows_one_way(package: str, above: set[str]) -> None:
    wrong = {str(p.relative_to(ROOT)): found for p in sources(package) if (found := roots(p) & above)}
    assert wrong == {}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_comes_in_through_its_room(library: str) -> None:
    wrong = []
    for path in sources(*PACKAGES, "migrations"):
        name = path.relative_to(ROOT).as_posix()
        if library in roots(path) and not name.startswith(DOORS[library]):
            wrong.append(name)
    assert wrong == []


def test_kernels_and_model_run_alone() -> None:
    allowed = ALONE | set(sys.stdlib_module_names) | {"model", "kernels"}
    wrong = {str(p.relative_to(ROOT)): extra for p in sources("kernels", "model") if (extra := roots(p) - allowed)}
    assert wrong == {}


def test_the_domain_does_no_io_of_its_own() -> None:
    allowed = set(sys.stdlib_module_names) | {"farm", "model"}
    for path in sources("farm/domain"):
        assert roots(path) <= allowed, path
        inside = {name for name in imports(path) if name.startswith("farm.")}
        assert all(name.startswith("farm.domain") for name in inside), path


def test_kernels_stays_harmless_to_those_who_probe_for_the_name() -> None:
    """transformers looks for a package called `kernels`; ours must not be taken for it, nor break it."""
    code = (
        "import sys, kernels; assert 'torch' not in sys.modules; assert not hasattr(kernels, '__version__');"
        "from transformers import UMT5EncoderModel; print(UMT5EncoderModel.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "UMT5EncoderModel", done.stderr


def test_every_top_folder_says_what_lives_there() -> None:
    for folder in (*PACKAGES, "deploy", "migrations", "tests"):
        assert (ROOT / folder / "README.md").read_text(encoding="utf-8").strip()


def test_the_tracked_tree_stays_small_enough_to_travel() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files to weigh")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(f.stat().st_size for f in files if f.exists()) < 40 * 2**20
    weights = sum(f.stat().st_size for f in (ROOT / "model" / "demo" / "weights").glob("*"))
    assert weights <= 16_000_000
