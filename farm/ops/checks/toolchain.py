"""What Triton needs to build its kernels on this machine, and what must not be installed beside them."""

import importlib.metadata
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from farm.ops.checks.finding import Finding, failed, ok, warning

OLDEST_GLIBC = (2, 28)
RAY = "2.60"
_COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True)
class Toolchain:
    """Paths are None where there is nothing; versions of packages that are not installed, too."""

    glibc: str | None
    compiler: str | None
    python_h: str | None
    foreign_kernels: str | None
    ray: str | None


def read_toolchain() -> Toolchain:
    name, version = platform.libc_ver()
    header = Path(sysconfig.get_path("include")) / "Python.h"
    wanted = [os.environ["CC"]] if os.environ.get("CC") else _COMPILERS
    return Toolchain(
        glibc=version if name == "glibc" else None,
        compiler=next((path for each in wanted if (path := shutil.which(each))), None),
        python_h=str(header) if header.is_file() else None,
        foreign_kernels=_installed("kernels"),
        ray=_installed("ray"),
    )


def check_toolchain(tools: Toolchain, gpus: int) -> list[Finding]:
    """Without a GPU nothing is built, so what is missing is only good to know."""
    missing = failed if gpus else warning
    only = "" if gpus else " (needed once there is a GPU)"
    findings = [_check_glibc(tools.glibc)]
    if tools.compiler is None:
        findings.append(missing("compiler", f"no C compiler{only}", "install one: apt-get install gcc"))
    else:
        findings.append(ok("compiler", tools.compiler))
    if tools.python_h is None:
        how = f"install them: apt-get install python{platform.python_version_tuple()[0]}-dev"
        findings.append(missing("headers", f"Python.h is missing{only}", how))
    else:
        findings.append(ok("headers", tools.python_h))
    if tools.foreign_kernels is not None:
        findings.append(
            failed("packages", f"the package 'kernels' {tools.foreign_kernels} from Hugging Face hides our own"
                   " package of that name", "remove it: pip uninstall kernels")
        )  # fmt: skip
    else:
        findings.append(ok("packages", "none that gets in the way"))
    findings.append(_check_ray(tools.ray))
    return findings


def _check_glibc(version: str | None) -> Finding:
    oldest = ".".join(map(str, OLDEST_GLIBC))
    if version is None:
        return failed("glibc", "this system's C library is not glibc", "use a distribution with glibc, not musl")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_GLIBC:
        return failed("glibc", f"glibc {version} is older than {oldest}", "use a newer distribution")
    return ok("glibc", f"glibc {version}")


def _check_ray(version: str | None) -> Finding:
    if version is None:
        return failed("ray", "Ray is not installed", "pip install 'turbofarm[server]'")
    if not version.startswith(f"{RAY}."):
        return failed("ray", f"Ray {version}, this farm needs {RAY}", f"pip install 'ray[default]=={RAY}.*'")
    return ok("ray", f"Ray {version}; every node of a farm needs the same one")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
