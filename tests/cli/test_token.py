"""`farm token` and `farm config`: who gets in, how the command says who it is, and where no secret is seen."""

import json
from pathlib import Path

import pytest

from farm.db import tokens
from farm.domain.person import Role
from tests.cli.command import Command
from tests.served.farm import Served


@pytest.fixture
def admin(farm: Command, served: Served) -> str:
    """A farm that has an account, and its secret."""
    secret = tokens.create(served.services.db, "root", Role.ADMIN, "test").secret
    served.app.state.accounts._looked_at = -1e9
    return secret


def as_(farm: Command, **environment: str) -> Command:
    return Command(environment.pop("url", farm.url), farm.cwd, environment)


def test_the_first_token_is_made_by_whoever_is_there(farm: Command) -> None:
    made = farm("token", "create", "mei", "--role", "admin")
    assert made.code == 0
    secret = made.out.strip()
    assert secret.startswith("farm_")
    assert secret not in made.err
    assert "only now" in made.err
    assert as_(farm, FARM_TOKEN=secret)("config", "show").out.split()[1:] == ["mei,", "admin"]


def test_without_a_token_every_command_exits_4_and_says_what_helps(farm: Command, admin: str) -> None:
    for command in (["list"], ["submit", "a kite"], ["status"], ["watch", "job_aaaaaa"], ["token", "list"]):
        done = farm(*command)
        assert (done.code, done.out) == (4, ""), command
        assert "error not_signed_in" in done.err
        assert "FARM_TOKEN" in done.err
    wrong = as_(farm, FARM_TOKEN=admin[:-4] + "AAAA")("list")
    assert (wrong.code, admin[14:-4] in wrong.err) == (4, False)


def test_an_artist_is_told_what_is_not_theirs(farm: Command, admin: str) -> None:
    root = as_(farm, FARM_TOKEN=admin)
    artist = as_(farm, FARM_TOKEN=root("token", "create", "mei", "--json").json["token"])
    job = root("submit", "a kite").out.strip()
    refused = artist("cancel", job)
    assert (refused.code, "belongs to root" in refused.err) == (4, True)
    assert artist("token", "list").code == 4
    assert artist("submit", "a boat", "--json").json["owner"] == "mei"


def test_tokens_are_listed_by_their_beginning_and_revoked_by_it(farm: Command, admin: str) -> None:
    root = as_(farm, FARM_TOKEN=admin)
    secret = root("token", "create", "mei", "--for", "30d").out.strip()
    listed = root("token", "list")
    assert secret[:13] in listed.out
    assert "valid" in listed.out
    assert secret[14:] not in listed.out
    assert root("token", "revoke", secret[:9]).out.strip() == secret[:13]
    assert "revoked" in root("token", "list").out
    assert as_(farm, FARM_TOKEN=secret)("list").code == 4
    assert root("token", "revoke", "farm_zzzz").code == 1
    assert [t["name"] for t in root("token", "list", "--json").lines] == ["mei", "root"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["a/b"], "without '/'"), (["mei", "--for", "soon"], "30m, 12h or 90d"), (["mei", "--for", "1m"], None)],
)
def test_a_token_that_cannot_be_is_refused(farm: Command, arguments: list[str], hint: str | None) -> None:
    done = farm("token", "create", *arguments)
    assert done.code == (0 if hint is None else 2)
    assert hint is None or hint in done.err


def test_on_the_farms_own_machine_the_database_is_the_way_back_in(farm: Command, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    secret = farm("token", "create", "mei", "--role", "admin", "--home", home).out.strip()
    (listed,) = farm("token", "list", "--home", home, "--json").lines
    assert (listed["prefix"], listed["role"], listed["name"]) == (secret[:13], "admin", "mei")
    assert farm("token", "revoke", secret, "--home", home).code == 0
    assert farm("token", "list", "--home", home, "--json").json["revoked_by"]


def test_a_profile_keeps_farm_and_token_for_this_user_alone(farm: Command, admin: str) -> None:
    me = as_(farm, FARM_URL="")
    assert me("config", "add", "studio", "--url", farm.url + "/", "--token", stdin=admin.encode()).code == 0
    kept = farm.cwd / "client.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert me("submit", "a kite").code == 0
    listed = me("config", "list")
    assert ("studio" in listed.out, admin[14:] in listed.out + listed.err) == (True, False)
    assert me("config", "list", "--json").json == {"name": "studio", "url": farm.url, "token": True, "in_use": True}
    # Its token is for its farm only.
    elsewhere = as_(farm, FARM_URL="http://127.0.0.1:1")
    assert admin not in elsewhere("list").err
    me("config", "add", "other", "--url", "http://127.0.0.1:1")
    assert me("list").code == 5
    assert as_(farm, FARM_URL="", FARM_PROFILE="studio")("list").code == 0
    assert me("config", "use", "studio").out.strip() == farm.url
    assert me("list").code == 0
    assert me("config", "remove", "studio").code == 0
    assert admin not in kept.read_text()
    assert as_(farm, FARM_URL="", FARM_PROFILE="studio")("list").code == 2
    assert me("config", "list", "--json").json["name"] == "other"


def test_a_token_goes_to_no_other_farm_than_its_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from farm.cli.config import chosen

    (tmp_path / "c.json").write_text(
        json.dumps({"use": "a", "profiles": {"a": {"url": "http://a:1", "token": "secret"}}})
    )
    monkeypatch.setenv("FARM_CONFIG", str(tmp_path / "c.json"))
    for name in ("FARM_URL", "FARM_TOKEN", "FARM_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert (chosen().url, chosen().token) == ("http://a:1", "secret")
    monkeypatch.setenv("FARM_URL", "http://b:1")
    assert (chosen().url, chosen().token) == ("http://b:1", None)
    monkeypatch.setenv("FARM_TOKEN", "mine")
    assert chosen().token == "mine"
    assert "mine" not in repr(chosen())


def test_a_broken_file_of_profiles_is_said(farm: Command) -> None:
    (farm.cwd / "client.json").write_text("{")
    done = farm("list")
    assert (done.code, "client.json cannot be read" in done.err) == (2, True)


def test_a_video_kept_elsewhere_is_fetched_there_without_our_token(tmp_path: Path) -> None:
    import io
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from farm.cli.client import Client
    from farm.cli.config import Profile

    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            if self.path == "/api/x":
                self.send_response(307)
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/bucket?sign=1")
                self.end_headers()
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"video")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        out = io.BytesIO()
        client = Client(Profile(f"http://127.0.0.1:{server.server_address[1]}", "mine"))
        client.save("/api/x", out)
    finally:
        server.shutdown()
        server.server_close()
    assert out.getvalue() == b"video"
    assert seen == [("/api/x", "Bearer mine"), ("/bucket?sign=1", None)]
