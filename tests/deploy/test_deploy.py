"""What stands in deploy/ is true of this farm: commands, options and tests exist, and its files hold together."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from farm.cli.main import cli
from farm.cluster.children import children_of, children_of_node
from farm.cluster.supervisor import _DOWN_PATIENCE
from farm.domain.errors import Exit
from farm.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
EXAMPLES = sorted(DEPLOY.glob("systemd/*.env.example"))
PAGES = sorted(p for p in DEPLOY.rglob("*") if p.is_file())
ELSEWHERE = {"FARM_TOKEN", "FARM_URL"}  # of the client: farm/cli/config.py
SECRET = re.compile(r"KEY|PASSWORD|DATABASE_URL")


def name(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def unit(path: Path) -> dict[str, list[str]]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] not in "#;"]
    options: dict[str, list[str]] = {}
    for line in lines:
        options.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    return options


def seconds(text: Any) -> int:
    return int(str(text).removesuffix("s"))


@cache
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())


@cache
def kubernetes() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((DEPLOY / "kuberay/raycluster.yaml").read_text())
    return {thing["kind"]: thing for thing in found}


def pods() -> list[dict[str, Any]]:
    spec = kubernetes()["RayCluster"]["spec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def command_lines() -> Iterator[list[str]]:
    """What the machines are told to run, as words after `farm`."""
    for path in UNITS:
        yield shlex.split(unit(path)["ExecStart"][0])[1:]
    for service in ("server", "node"):
        yield compose()["services"][service]["command"]
    for pod in pods():
        program, *words = pod["containers"][0]["command"]
        assert program == "farm"
        yield words


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in UNITS:  # the farm is not installed where they say
        text = path.read_text().replace("/opt/turbofarm/venv/bin/farm", "/bin/true")
        (tmp_path / path.name).write_text(text)
    made = [str(tmp_path / path.name) for path in UNITS]
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", *made], capture_output=True, text=True)
    assert (said.returncode, [line for line in said.stderr.splitlines() if "turbofarm" in line]) == (0, [])


@pytest.mark.parametrize("path", UNITS, ids=name)
def test_a_unit_stops_as_the_supervisor_does_and_is_not_root(path: Path) -> None:
    options = unit(path)
    assert options["User"] == ["turbofarm"]
    assert options["KillMode"] == ["mixed"]  # the supervisor ends its children itself
    assert seconds(options["TimeoutStopSec"][0]) > _DOWN_PATIENCE
    assert options["Restart"] == ["on-failure"]
    assert options["RestartPreventExitStatus"] == [str(int(Exit.USAGE))]
    window, many = int(options["StartLimitIntervalSec"][0]), int(options["StartLimitBurst"][0])
    assert many * int(options["RestartSec"][0]) < window, "the limit would never be reached"
    assert options["OOMPolicy"] == ["continue"]
    assert int(options["LimitNOFILE"][0]) >= 65536
    assert options["NoNewPrivileges"] == ["true"]
    assert not SECRET.search(" ".join([*options["ExecStart"], *options["Environment"]]))


def test_a_node_reaches_its_cards_and_may_compile() -> None:
    options = unit(DEPLOY / "systemd/turbofarm-node.service")
    assert options["DevicePolicy"] == ["closed"]
    assert "char-nvidia* rw" in options["DeviceAllow"]
    assert not {"PrivateDevices", "MemoryDenyWriteExecute", "ProtectClock"} & options.keys()


def test_stopping_in_order_fits_into_the_patience_of_all(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, ray_address="127.0.0.1:7861")
    longest = max(sum(child.patience for child in these(settings)) for these in (children_of, children_of_node))
    given = [
        *(seconds(unit(path)["TimeoutStopSec"][0]) for path in UNITS),
        *(seconds(compose()["services"][service]["stop_grace_period"]) for service in ("server", "node")),
        *(pod["terminationGracePeriodSeconds"] for pod in pods()),
    ]  # fmt: skip
    assert len(given) == 6
    assert min(given) > _DOWN_PATIENCE > longest


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_the_example_options_are_accepted(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FARM_HOME", str(tmp_path))
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", path.read_text(), re.MULTILINE)
    for variable, value in lines:
        assert value, variable
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.database_url.startswith("postgresql://")
    assert settings.store.startswith("s3://videos")
    assert settings.host == "127.0.0.1"
    used = unit(path.with_name(f"turbofarm-{path.name.removesuffix('.env.example')}.service"))
    assert set(re.findall(r"\$\{(\w+)\}", used["ExecStart"][0])) <= {variable for variable, _ in lines}


def test_every_command_line_is_one_the_farm_understands() -> None:
    lines = list(command_lines())
    assert [words[0] for words in lines] == ["worker", "serve", "serve", "worker", "serve", "worker"]
    for words in lines:
        command = cli.get_command(click.Context(cli), words[0])
        assert command is not None
        command.make_context(words[0], words[1:])  # parses, and runs nothing


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_and_option_named_exists(path: Path) -> None:
    text = path.read_text()
    commands = re.findall(r"(?:`|/bin/|^ +|\[)farm,? ([a-z]+)", text, re.MULTILINE)
    assert [c for c in commands if cli.get_command(click.Context(cli), c) is None] == []
    known = {f"FARM_{field.upper()}" for field in Settings.model_fields} | ELSEWHERE
    assert set(re.findall(r"\bFARM_[A-Z0-9_]*[A-Z0-9]\b", text)) <= known
    assert not re.search(r"FARM_HOST[=:]", text), "where the page is served is for the operator to say"


def test_nothing_of_compose_listens_beyond_loopback() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "seaweedfs", "server", "node"}
    for service in services.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    for service in (services["server"], services["node"]):
        assert service["network_mode"] == "host"
        assert "ports" not in service
        assert "FARM_LISTEN" not in service["environment"]


def test_compose_waits_for_what_is_well_and_keeps_secrets_out() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            image_has_one = "healthcheck" in services[needed] or needed == "server"
            assert image_has_one
        for mount in service["volumes"]:
            assert mount.partition(":")[0] in volumes
        for variable, value in service["environment"].items():
            if SECRET.search(variable):
                assert re.search(r"\$\{\w+:\?", value), f"{variable} must come from .env"
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose/compose.yaml").read_text()))
    offered = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose/.env.example").read_text(), re.MULTILINE)
    assert dict(offered) == dict.fromkeys(asked, "")
    [card] = services["node"]["deploy"]["resources"]["reservations"]["devices"]
    assert (card["driver"], card["capabilities"]) == ("nvidia", ["gpu"])


def test_server_and_nodes_share_database_store_and_token() -> None:
    server, node = (compose()["services"][service]["environment"] for service in ("server", "node"))
    shared = ("FARM_DATABASE_URL", "FARM_STORE", "FARM_S3_ENDPOINT", "FARM_TOKEN_FILE")
    assert [server[key] for key in shared] == [node[key] for key in shared]
    head, worker = ({e["name"]: e for e in pod["containers"][0]["env"]} for pod in pods())
    assert [head[key] for key in shared] == [worker[key] for key in shared]


def test_the_image_takes_dependencies_before_the_source_and_is_not_root() -> None:
    text = (DEPLOY / "docker/Dockerfile").read_text()
    order = ["FROM python:3.11-slim", "gcc", "COPY pyproject.toml", "pip install -r", "COPY farm", 'pip install ".']
    at = [text.index(part) for part in order]
    assert at == sorted(at)
    assert text.index("\nUSER 10001") < text.index("\nENTRYPOINT")
    assert 'CMD ["farm", "status"]' in text
    for copied in re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE):
        assert (ROOT / copied).exists()
        assert f"!{copied}" in (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert compose()["services"]["server"]["build"]["dockerfile"] == "deploy/docker/Dockerfile"


def test_the_raycluster_is_whole() -> None:
    cluster = kubernetes()["RayCluster"]
    assert (cluster["apiVersion"], cluster["metadata"]["name"]) == ("ray.io/v1", "turbofarm")
    assert cluster["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
    assert (
        f"ray[default]=={cluster['spec']['rayVersion'].rpartition('.')[0]}."
        in (ROOT / "pyproject.toml").read_text()
    )
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert re.fullmatch(r"turbofarm:\d+\.\d+\.\d+", container["image"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= container["resources"].keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        [main] = pod["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert "exec" in main[probe], "the page listens on the pod's loopback: no HTTP probe reaches it"
        for variable in main["env"]:
            if SECRET.search(variable["name"]):
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "turbofarm-servers"
    assert pods()[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_nodes_of_the_raycluster_find_the_service_and_the_page_is_not_on_it() -> None:
    service = kubernetes()["Service"]
    [port] = service["spec"]["ports"]
    head = {e["name"]: e.get("value") for e in pods()[0]["containers"][0]["env"]}
    assert str(port["port"]) == head["FARM_RAY_PORT"]
    assert kubernetes()["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]["port"] == head["FARM_RAY_PORT"]
    assert pods()[1]["containers"][0]["command"][-1] == f"{service['metadata']['name']}:{port['port']}"
    assert service["spec"]["selector"]["ray.io/node-type"] == "head"


def rows() -> dict[int, list[str]]:
    text = (DEPLOY / "FROM_TURBODIFFUSION.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE)
    return {int(number): [cell.strip() for cell in rest.split(" | ")] for number, rest in found}


def test_every_point_of_the_notes_is_answered_by_a_test_or_open() -> None:
    assert list(rows()) == list(range(1, 51))
    for number, (_, answer, state, shown) in rows().items():
        assert answer, number
        assert re.fullmatch(r"done|open, (4|5|6|7|later)|part; open, (4|5|6|7|later)", state), number
        assert bool(shown) == (not state.startswith("open")), number


def test_every_test_named_exists() -> None:
    named = re.findall(r"`(\w+/\w+\.py)::(\w+)`", (DEPLOY / "FROM_TURBODIFFUSION.md").read_text(encoding="utf-8"))
    assert len(named) >= 40
    for file, function in named:
        assert re.search(rf"^def {function}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    for _, _, _, shown in rows().values():
        assert re.sub(r"`\w+/\w+\.py::\w+`|[,\s]", "", shown) == ""
