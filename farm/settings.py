"""Every option of the server side, in one place: <home>/farm.toml, FARM_* variables, flags; later ones win.

The client (`farm submit`, ...) does not read this: it knows only FARM_URL.
"""

import hashlib
import os
import shutil
import socket
import stat
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from farm.domain.address import is_loopback
from farm.domain.errors import FolderUnusable, InvalidRequest
from farm.domain.person import Password, passwords
from farm.storage.s3_address import with_endpoint

_SUN_PATH = 107  # bytes of a Unix socket's path on Linux, without the final NUL
_LONGEST_SOCKET = len("/dispatcher.sock")
# Ray makes its sockets at <dir>/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store
_LONGEST_RAY = len("/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")


class Settings(BaseSettings):
    """Immutable. `load_settings` is the way in: it turns a bad option into a clear FarmError."""

    model_config = SettingsConfigDict(
        env_prefix="FARM_", frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Path = Field(default=Path("~/.turbofarm"), description="folder of everything that this farm keeps")
    host: str = Field(default="127.0.0.1", description="address the web page and API listen on")
    port: int = Field(default=7860, ge=1, le=65535)
    hosts: str = Field(
        default="", description="names by which people reach it through a proxy, like farm.studio.example"
    )
    # Who signs in with a password; tokens are in the database. Without both, only loopback is served, to everybody.
    auth: str = Field(default="", repr=False, description="name:password of one admin; auth_file is safer")
    auth_file: str = Field(default="", description="file of [artist | operator | admin] NAME:PASSWORD lines")
    artists_change_all: bool = Field(default=False, description="artists may change each other's jobs")
    database_url: str = Field(
        default="",
        repr=False,
        description="postgresql://user:password@host/database; default: sqlite:///<home>/farm.db",
    )
    store: str = Field(default="", description="folder of the videos, or s3://bucket/prefix; default: <home>/store")
    s3_endpoint: str = Field(default="", description="https://host:port of an S3 server that is not Amazon's")
    store_redirect: bool = Field(
        default=False, description="send browsers to the S3 server for videos; they must be able to reach it"
    )
    with_servers: bool = Field(
        default=False, description="run a Postgres and a SeaweedFS beside the farm, for a try-out"
    )
    models: Path = Field(default=Path(), description="folder of the model library; default: <home>/models")
    model: str = Field(default="demo-t2v", description="preset that the workers keep resident")
    workers: int | None = Field(
        default=None, ge=0, description="default: one per visible GPU, or one CPU worker where there is none"
    )
    lease_ttl: float = Field(default=30.0, gt=0, description="seconds after which a silent worker loses its job")
    renew_every: float = Field(default=5.0, gt=0, description="seconds between two renewals by the node agent")
    beat_every: float = Field(default=1.0, gt=0, description="seconds between two beats of a worker")
    crash_cap: int = Field(default=3, ge=1, description="blamed attempts after which a job fails as poison")
    worker_recycle_after: int = Field(
        default=500, ge=0, description="jobs after which a worker makes room for a new process; 0: never"
    )
    worker_memory_drift: float = Field(
        default=0.5, ge=0, description="share by which a worker's memory may grow over its first job; 0: any"
    )
    stall_times: float = Field(
        default=4.0, ge=1, description="a stage that takes so many times longer than 95 of 100 others did hangs"
    )
    stall_floor: float = Field(default=120.0, gt=0, description="seconds without progress that are never too long")
    stall_loading: float = Field(default=1200.0, gt=0, description="seconds that loading a model may take")
    stall_unknown: float = Field(
        default=1800.0, gt=0, description="seconds without progress of a stage that few have done before"
    )
    quarantine_after: int = Field(
        default=2, ge=1, description="jobs with device faults on a GPU within an hour that set it aside"
    )
    quarantine_seconds: float = Field(
        default=900.0, gt=0, description="until a GPU that was set aside is probed; doubled each time in a row"
    )
    sweep_every: float = Field(
        default=3600.0, ge=0, description="seconds between two sweeps of the store; 0: only `farm sweep`"
    )
    sweep_spare: float = Field(
        default=86_400.0, ge=3600.0, description="seconds for which a sweep leaves everything in the store alone"
    )
    hidden_kept: float = Field(
        default=604_800.0, ge=0, description="seconds after which the video of a deleted job leaves the store"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO")
    # The place to plug in another model implementation: "module:class", shaped as model.pipeline.Pipeline.
    pipeline: str = Field(default="model.pipeline:Pipeline")
    ray_address: str = Field(default="", description="host:port of Ray's head; `farm up` starts one and sets it")
    # For a farm of several machines. Every other address than 127.0.0.1 opens Ray's ports on all interfaces.
    listen: str = Field(default="127.0.0.1", description="address of this machine that other nodes reach")
    ray_port: int = Field(default=7861, ge=1, le=65535, description="where render nodes join the server")
    token_file: str = Field(default="", description="the secret that the nodes of a farm share")
    node: str = Field(default="", max_length=200, description="name of this machine; default: its host name")
    # What jobs may require of the workers of this machine: farm submit --pool, --on.
    pool: str = Field(default="", max_length=60, description="pool that the workers of this machine are in")
    tags: str = Field(default="", description="names that jobs may require of them, like a100,night")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file lies in home, so home itself can only come from a flag or the environment.
        flags: dict[str, Any] = vars(init_settings).get("init_kwargs", {})
        home = flags.get("home") or os.environ.get("FARM_HOME") or cls.model_fields["home"].default
        file = TomlConfigSettingsSource(settings_cls, toml_file=_absolute(home) / "farm.toml")
        return init_settings, env_settings, file

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        return _absolute(home)

    @model_validator(mode="before")
    @classmethod
    def _defaults_below_home(cls, data: dict[str, Any]) -> dict[str, Any]:
        home = _absolute(data.get("home") or cls.model_fields["home"].default)
        data = dict(data)
        data["database_url"] = data.get("database_url") or f"sqlite:///{home / 'farm.db'}"
        data["store"] = with_endpoint(str(data.get("store") or home / "store"), str(data.get("s3_endpoint") or ""))
        data["models"] = _absolute(data.get("models") or home / "models")
        # The children run in home: what is relative to the caller's folder must not change its meaning there.
        if "://" not in data["store"]:
            data["store"] = str(_absolute(data["store"]))
        for name in ("token_file", "auth_file"):
            if data.get(name):
                data[name] = str(_absolute(data[name]))
        path = str(data["database_url"]).removeprefix("sqlite:///")
        if path != data["database_url"] and path not in ("", ":memory:"):
            data["database_url"] = f"sqlite:///{_absolute(path)}"
        return data

    @model_validator(mode="after")
    def _renewals_fit_the_lease(self) -> "Settings":
        if not self.beat_every < self.lease_ttl / 3 or not self.renew_every <= self.lease_ttl / 3:
            raise ValueError("beat_every and renew_every must be at most a third of lease_ttl")
        return self

    @property
    def url(self) -> str:
        """Where a person on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}"

    @property
    def is_public(self) -> bool:
        """Whether others than this machine's users may reach the page and API."""
        return not is_loopback(self.host) or bool(self.host_names)

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(name.strip().lower() for name in self.hosts.split(",") if name.strip())

    def passwords(self) -> tuple[Password, ...]:
        """Of `auth` and `auth_file`. Raises InvalidRequest, which never holds a password."""
        found = passwords([self.auth], "auth")
        return found if not self.auth_file else (*found, *passwords(_private_lines(self.auth_file), self.auth_file))

    def with_auth_in_file(self) -> "Settings":
        """The same without a password in the environment of children: it lies in a file that only we can read."""
        if not self.auth:
            return self
        lines = [self.auth, *(_private_lines(self.auth_file) if self.auth_file else ())]
        write_private(self.run_dir / "auth", "\n".join(lines) + "\n")
        os.environ.pop("FARM_AUTH", None)
        return self.model_copy(update={"auth": "", "auth_file": str(self.run_dir / "auth")})

    @property
    def session_key_file(self) -> Path:
        """Signs the cookies of browsers. API servers that share it know each other's sessions."""
        return self.home / "session-key"

    @property
    def node_name(self) -> str:
        return self.node or socket.gethostname()

    @property
    def worker_tags(self) -> tuple[str, ...]:
        return tuple(sorted({tag.strip() for tag in self.tags.split(",") if tag.strip()}))

    @property
    def ray_token(self) -> Path:
        """A secret of one run, unless the farm spans several machines."""
        return Path(self.token_file) if self.token_file else self.run_dir / "ray-token"

    @property
    def run_dir(self) -> Path:
        """Lock, pids, scratch files: means nothing once the farm is down."""
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        return self.home / "logs"

    @property
    def lock_file(self) -> Path:
        return self.run_dir / "farm.lock"

    @property
    def scratch_dir(self) -> Path:
        """Videos while they are being encoded, a folder per worker process."""
        return self.run_dir / "scratch"

    @property
    def agent_socket(self) -> Path:
        return self.socket_dir / "agent.sock"

    @property
    def dispatcher_socket(self) -> Path:
        return self.socket_dir / "dispatcher.sock"

    @cached_property
    def socket_dir(self) -> Path:
        return _short_enough(self.run_dir, _LONGEST_SOCKET, self.home)

    @cached_property
    def ray_dir(self) -> Path:
        return _short_enough(self.run_dir / "ray", _LONGEST_RAY, self.home)

    def environment(self) -> dict[str, str]:
        """These settings as FARM_* variables, for a child process."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {f"FARM_{name.upper()}": str(value) for name, value in values.items() if value != ""}

    def make_folders(self) -> None:
        """Creates the farm's own folders, private to this user. Raises FolderUnusable."""
        try:
            for folder in (self.home, self.run_dir, self.log_dir, self.scratch_dir):
                folder.mkdir(parents=True, exist_ok=True)
            # Sockets and tokens lie here: whoever can reach them can give orders.
            self.run_dir.chmod(0o700)
        except OSError as error:
            raise FolderUnusable(
                f"the farm's folder {self.home} cannot be used: {error.strerror}",
                "choose a writable folder with --home or FARM_HOME",
                field="home",
            ) from error
        for folder in (self.socket_dir, self.ray_dir):
            _make_private(folder)

    def remove_fallback_folders(self) -> None:
        """What a farm with a long home keeps in the shared temp dir; nothing there outlives the farm."""
        for folder in (self.socket_dir, self.ray_dir):
            if folder.parent.name.startswith("tf-"):
                shutil.rmtree(folder.parent, ignore_errors=True)


def load_settings(**overrides: Any) -> Settings:
    """Flags over FARM_* over <home>/farm.toml; a flag that is None was not given. Raises InvalidRequest."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InvalidRequest(
            f"option {name}: {first['msg']}", "see `farm up --help`, FARM_* and farm.toml", field=name
        ) from error
    except (OSError, ValueError) as error:  # unreadable file, or not TOML
        raise InvalidRequest(f"farm.toml cannot be read: {error}", "correct or remove the file") from error


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for nobody else's eyes at any moment."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(scratch, path)


def _private_lines(path: str) -> list[str]:
    try:
        if os.stat(path).st_mode & 0o077 and os.name == "posix":
            raise InvalidRequest(
                f"{path} holds passwords and others may read it", f"chmod 600 {path}", field="auth_file"
            )
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidRequest(f"{path} cannot be read: {why}", "check the path", field="auth_file") from None


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _short_enough(wanted: Path, longest: int, home: Path) -> Path:
    """`wanted`, or where a socket below it would not fit, a folder of the system's temp dir keyed by home."""
    if len(os.fsencode(wanted)) + longest <= _SUN_PATH:
        return wanted
    key = hashlib.sha256(os.fsencode(home)).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"tf-{os.getuid()}-{key}" / ("ray" if wanted.name == "ray" else "s")


def _make_private(folder: Path) -> None:
    """A folder (and a fallback's parent) only we can enter; the temp dir is shared: refuse a squatter."""
    try:
        for part in (folder.parent, folder) if folder.parent.name.startswith("tf-") else (folder,):
            part.mkdir(mode=0o700, exist_ok=True)
            found = part.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise FolderUnusable(f"{part} belongs to somebody else", "remove it, or set TMPDIR")
            part.chmod(0o700)
    except OSError as error:
        raise FolderUnusable(
            f"{folder} cannot be used: {error.strerror}", "set TMPDIR to a writable folder"
        ) from error
