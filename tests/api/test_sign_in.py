"""Signing in: tokens, passwords and sessions; what is refused, how often, and in which words."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from farm.api import accounts
from farm.api.app import create_app
from farm.api.services import Services
from farm.api.sessions import Sessions
from farm.db import tokens
from farm.domain.errors import DatabaseUnavailable
from farm.domain.person import Role, passwords
from tests.served.machine import Machine

Make = Callable[..., TestClient]


@pytest.fixture
def open_as(services: Services) -> Iterator[Make]:
    """open_as(**changes) is a client of a farm with these services; it keeps cookies."""
    entered: list[TestClient] = []

    def make(**changes: Any) -> TestClient:
        client = TestClient(create_app(replace(services, **changes)), follow_redirects=False)
        entered.append(client.__enter__())
        return client

    yield make
    for client in entered:
        client.__exit__(None, None, None)


def token(services: Services, name: str = "mei", role: Role = Role.ADMIN, **kwargs: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.create(services.db, name, role, 'root', **kwargs).secret}"}


PEOPLE = passwords(["ann:open sesame", "artist 梅:芝麻:开门", "artist bob:b"], "test")


def login(client: TestClient, name: str = "ann", password: str = "open sesame", **fields: str) -> Any:
    return client.post("/login", data={"name": name, "password": password, **fields})


def form_token(client: TestClient) -> str:
    found = re.search(r'name="csrf-token" content="([0-9a-f]+)"', client.get("/").text)
    assert found
    return found[1]


def test_without_accounts_everything_works_at_once(open_as: Make) -> None:
    client = open_as()
    me = client.get("/api/me").json()
    assert (me["name"], me["role"], me["signed_in_by"]) == ("local", "admin", "open")
    assert client.post("/api/jobs", json={"prompt": "a kite"}).json()["owner"] == "local"
    assert client.get("/login").headers["location"] == "/"
    assert "csrf" not in client.get("/").text


def test_the_first_token_shuts_the_door(open_as: Make, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_LOOK", 0.0)
    client = open_as()
    made = client.post("/api/tokens", json={"name": "mei", "role": "admin"}).json()
    refused = client.get("/api/jobs")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "not_signed_in")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "FARM_TOKEN" in refused.json()["error"]["next"]
    right = {"Authorization": f"Bearer {made['token']}"}
    assert client.get("/api/jobs", headers=right).status_code == 200
    assert client.delete(f"/api/tokens/{made['prefix']}", headers=right).json()["revoked_by"] == "mei"
    assert client.get("/api/jobs", headers=right).status_code == 401, "revoked at once"
    assert client.get("/api/jobs").status_code == 401, "and the farm is not open again"


def test_in_public_nobody_gets_in_unknown_even_before_the_first_account(open_as: Make) -> None:
    client = open_as(public=True, any_host=True)
    assert client.get("/api/jobs").status_code == 401
    assert client.get("/healthz", headers={"Host": "10.0.0.5:7860"}).status_code == 200


def test_jobs_belong_to_who_submits_them(open_as: Make, services: Services) -> None:
    client = open_as()
    mei = token(services, "梅", Role.ARTIST)
    job = client.post("/api/jobs", json={"prompt": "a kite"}, headers=mei).json()
    video = client.post("/v1/videos", json={"prompt": "a kite"}, headers=mei).json()
    batch = client.post("/api/batches", json={"name": "night", "rows": ["a kite"]}, headers=mei).json()
    again = client.post(f"/api/jobs/{job['id']}/rerun", headers=token(services, "bob", Role.ARTIST)).json()
    owners = {j["id"]: j["owner"] for j in client.get("/api/jobs", headers=mei).json()["data"]}
    assert owners == {job["id"]: "梅", video["id"]: "梅", batch["jobs"][0]: "梅", again["id"]: "bob"}


def test_an_artist_changes_no_job_of_another(open_as: Make, services: Services, machine: Machine) -> None:
    mei, bob, ops = (token(services, n, r) for n, r in (("mei", Role.ARTIST), ("bob", Role.ARTIST),
                                                        ("ops", Role.OPERATOR)))  # fmt: skip
    client = open_as()
    job = client.post("/api/jobs", json={"prompt": "a kite"}, headers=mei).json()["id"]
    for method, path in (("POST", f"/api/jobs/{job}/cancel"), ("PATCH", f"/api/jobs/{job}"),
                         ("DELETE", f"/v1/videos/{job}"), ("POST", f"/jobs/{job}/cancel"),
                         ("POST", f"/api/jobs/{job[4:12]}/hold")):  # fmt: skip
        refused = client.request(method, path, json={"priority": 5}, headers=bob)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed"), path
        assert "mei" in refused.json()["error"]["message"]
    assert client.get(f"/api/jobs/{job}", headers=bob).json()["state"] == "queued"
    assert client.post(f"/api/jobs/{job}/hold", headers=ops).json()["state"] == "held"
    assert client.post(f"/api/jobs/{job}/release", headers=mei).json()["state"] == "queued"
    shared = open_as(artists_change_all=True)
    assert shared.post(f"/api/jobs/{job}/cancel", headers=bob).json()["state"] == "cancelled"


def test_who_wished_something_cannot_be_made_up(open_as: Make, services: Services, machine: Machine) -> None:
    wish = {"wish": "drain", "by": "somebody else"}
    client = open_as()
    told = client.post("/api/workers/w1/wish", json=wish, headers=token(services, "ops", Role.OPERATOR)).json()
    assert told["wish_by"] == "ops"


def test_names_and_passwords_work_over_basic_too(open_as: Make, services: Services) -> None:
    client = open_as(passwords=PEOPLE)
    assert client.get("/api/me", auth=("ann", "open sesame")).json()["role"] == "admin"
    mei = client.get("/api/me", auth=("梅".encode(), "芝麻:开门".encode())).json()
    assert (mei["name"], mei["role"], mei["signed_in_by"]) == ("梅", "artist", "password")
    assert client.get("/api/me", auth=("ann", "b")).status_code == 401, "somebody else's password"
    by_token = token(services)["Authorization"].split()[1]
    assert client.get("/api/me", auth=("", by_token)).json()["name"] == "mei"


@pytest.mark.parametrize(
    "said", ["Basic !!", "Basic /////w==", "Bearer", "Bearer \u00ff", "Negotiate x", "x" * 5000]
)
def test_nonsense_in_the_header_is_a_401(open_as: Make, said: str) -> None:
    client = open_as(passwords=PEOPLE)
    assert client.get("/api/me", headers={"Authorization": said.encode("latin-1")}).status_code == 401


def test_wrong_tries_are_bounded_and_then_even_the_right_password_waits(
    open_as: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_as(passwords=PEOPLE)
    now = [1000.0]
    monkeypatch.setattr(client.app.state.accounts._tries, "_clock", lambda: now[0])  # type: ignore[attr-defined]
    for _ in range(accounts.TRIES):
        assert client.get("/api/me", auth=("ann", "guess")).status_code == 401
    for password in ("guess", "open sesame"):
        refused = client.get("/api/me", auth=("ann", password))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_tries")
        assert refused.headers["retry-after"] == "60"
    assert login(client).status_code == 429, "the form is no way around"
    now[0] += accounts.WINDOW + 1
    assert client.get("/api/me", auth=("ann", "open sesame")).status_code == 200


def test_wrong_tokens_are_bounded_but_lock_nobody_out_who_has_a_right_one(
    open_as: Make, services: Services
) -> None:
    client = open_as()
    right = token(services)
    codes = {client.get("/api/me", headers={"Authorization": f"Bearer x{n}"}).status_code for n in range(30)}
    assert codes == {401, 429}
    assert client.get("/api/me", headers=right).status_code == 200


def test_the_count_of_wrong_tries_takes_bounded_memory() -> None:
    tries = accounts.Tries(lambda: 0.0)
    for n in range(accounts._ADDRESSES * 2):
        tries.wrong(f"10.{n}")
    assert len(tries._wrong) <= accounts._ADDRESSES


def test_a_page_leads_to_the_sign_in_and_back_to_where_one_wanted(open_as: Make) -> None:
    client = open_as(passwords=PEOPLE)
    asked = client.get("/workers?lang=zh", headers={"Accept": "text/html"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fworkers%3Flang%3Dzh")
    form = client.get(asked.headers["location"])
    assert form.status_code == 200
    assert 'value="/workers?lang=zh"' in form.text
    done = login(client, next="/workers?lang=zh")
    assert (done.status_code, done.headers["location"]) == (303, "/workers?lang=zh")
    cookie = done.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Max-Age="))
    assert client.get("/workers").status_code == 200


@pytest.mark.parametrize("wanted", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "/a\nb"])
def test_signing_in_leads_nowhere_else(open_as: Make, wanted: str) -> None:
    assert login(open_as(passwords=PEOPLE), next=wanted).headers["location"] == "/"


@pytest.mark.parametrize(("lang", "word"), [("en", "Sign in"), ("zh", "登录")])
def test_the_sign_in_page_speaks_both_languages(open_as: Make, lang: str, word: str) -> None:
    client = open_as(passwords=PEOPLE)
    assert f"<title>{word}" in client.get(f"/login?lang={lang}").text
    wrong = client.post("/login", data={"name": "ann", "password": "x"})
    assert wrong.status_code == 401
    assert ("is wrong" if lang == "en" else "不正确") in wrong.text
    assert 'value="ann"' in wrong.text


def test_a_change_with_a_cookie_must_come_from_a_page_of_the_farm(open_as: Make, services: Services) -> None:
    client = open_as(passwords=PEOPLE)
    login(client)
    wish = {"prompt": "a kite"}
    for headers in ({}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": "é".encode("latin-1").decode("latin-1")}):
        refused = client.post("/api/jobs", json=wish, headers={k: v.encode("latin-1") for k, v in headers.items()})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
    assert client.post("/submit", data=wish).status_code == 403
    assert client.get("/api/jobs").json()["data"] == []
    made = client.post("/api/jobs", json=wish, headers={"X-CSRF-Token": form_token(client)})
    assert (made.status_code, made.json()["owner"]) == (201, "ann")
    assert client.get("/api/me").json()["signed_in_by"] == "session"
    other = open_as(passwords=PEOPLE)
    login(other)
    stolen = {"X-CSRF-Token": form_token(other)}
    assert client.post("/api/jobs", json=wish, headers=stolen).status_code == 403, "another session's token"


def test_every_form_of_every_page_works_without_the_script(open_as: Make, machine: Machine) -> None:
    client = open_as(passwords=PEOPLE)
    login(client)
    shown = form_token(client)
    made = client.post("/submit", data={"prompt": "a kite", "csrf": shown})
    assert (made.status_code, made.headers["location"]) == (303, "/")
    as_file = client.post("/submit", data={"prompt": "a boat", "csrf": shown}, files={"input_reference": ("", b"")})
    assert as_file.status_code == 303, as_file.text[-500:]
    boat, kite = client.get("/api/jobs").json()["data"]
    assert (boat["prompt"], kite["prompt"]) == ("a boat", "a kite")
    assert client.post(f"/jobs/{kite['id']}/cancel", data={"csrf": shown}).status_code == 303
    for page in ("/", f"/jobs/{boat['id']}", "/workers", "/login"):
        text = client.get(page).text
        forms = re.findall(r'<form[^>]*method="post"[^>]*>(.{0,40})', text)
        assert forms, page
        assert all(after.startswith('<input type="hidden" name="csrf"') for after in forms), page


def test_signing_out_ends_it(open_as: Make) -> None:
    client = open_as(passwords=PEOPLE)
    login(client)
    assert client.post("/logout").status_code == 403, "not even this can be done by another site"
    gone = client.post("/logout", data={"csrf": form_token(client)})
    assert (gone.status_code, gone.headers["location"]) == (303, "/login")
    assert client.get("/api/me").status_code == 401


def test_a_session_ends_with_what_opened_it(open_as: Make, services: Services) -> None:
    made = tokens.create(services.db, "mei", Role.OPERATOR, "root")
    client = open_as()
    login(client, "", made.secret)
    assert client.get("/api/me").json()["role"] == "operator"
    tokens.revoke(services.db, made.token.prefix, "root")
    refused = client.get("/api/me")
    assert (refused.status_code, refused.json()["error"]["message"]) == (401, "your session is over")
    by_password = open_as(passwords=PEOPLE, sessions=Sessions(b"k"))
    login(by_password)
    changed = open_as(passwords=passwords(["ann:another"], "test"), sessions=Sessions(b"k"))
    changed.cookies = by_password.cookies
    assert by_password.get("/api/me").status_code == 200
    assert changed.get("/api/me").status_code == 401


def test_a_session_cannot_be_made_changed_or_kept_for_ever() -> None:
    now = [0.0]
    sessions = Sessions(b"key", lambda: now[0])
    cookie = sessions.write(sessions.open("mei", Role.ARTIST, "token:farm_a"))
    assert sessions.read(cookie).name == "mei"  # type: ignore[union-attr]
    better = Sessions(b"other key").write(sessions.open("mei", Role.ADMIN, "token:farm_a"))
    for bad in (better, cookie[:-1], cookie[1:], "", ".", "x.y", "é.é"):
        assert sessions.read(bad) is None
    now[0] += 8 * 86400
    assert sessions.read(cookie) is None


def test_a_restart_signs_nobody_out_and_the_key_is_private(tmp_path: Path) -> None:
    from farm.api.server import session_key
    from farm.settings import load_settings

    settings = load_settings(home=tmp_path)
    key = session_key(settings)
    assert session_key(settings) == key
    assert len(key) == 32
    assert settings.session_key_file.stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["session-key"]


def test_while_the_database_is_away_who_was_known_still_is(
    open_as: Make, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_as()
    known, new = token(services), token(services, "new")
    client.get("/api/me", headers=known)

    def away(*_: object) -> None:
        raise DatabaseUnavailable("cannot reach it", "it is tried again")

    monkeypatch.setattr(tokens, "look_up", away)
    assert client.get("/api/me", headers=known).status_code == 200
    assert client.get("/api/me", headers=new).status_code == 503, "not a 401: nobody said that it is wrong"


def test_no_secret_is_in_a_log_an_error_or_an_event(
    open_as: Make, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = open_as(passwords=PEOPLE)
    made = client.post("/api/tokens", json={"name": "mei"}, auth=("ann", "open sesame")).json()
    said = [client.get("/api/tokens", auth=("ann", "open sesame")).text]
    wrong = made["token"][:-1] + "_"
    said.append(client.get("/api/me", headers={"Authorization": f"Bearer {wrong}"}).text)
    said.append(client.post("/login", data={"name": "ann", "password": made["token"]}).text)
    said.append(client.delete(f"/api/tokens/{made['token']}", auth=("ann", "open sesame")).text)
    from farm.db import events

    said += [str(row) for row in events.read(services.db, 0)[0]]
    said += [str(vars(record)) for record in caplog.records if record.name.startswith("farm")]
    assert any("wrong credentials" in text for text in said)
    for text in said:
        assert made["token"][14:-2] not in text
        assert "open sesame" not in text
