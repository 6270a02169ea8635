"""Beyond loopback nobody gets in without signing in; passwords come from where only their owner reads them."""

import os
from pathlib import Path

import pytest

from farm.cluster import supervisor
from farm.cluster.front_door import NoSignIn, refuse_without_sign_in
from farm.db import tokens
from farm.db.engine import migrate, open_database
from farm.domain.errors import InvalidRequest
from farm.domain.person import Role
from farm.settings import load_settings


@pytest.fixture(autouse=True)
def _no_farm_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("FARM_")]:
        monkeypatch.delenv(name)


def secrets(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("public", [{"host": "0.0.0.0"}, {"host": "::"}, {"hosts": "farm.studio.example"}])
def test_in_public_it_starts_only_once_somebody_can_sign_in(tmp_path: Path, public: dict[str, str]):
    home = tmp_path / "home"
    with pytest.raises(NoSignIn) as caught:
        supervisor.up(load_settings(home=home, **public))
    assert "farm token create" in caught.value.next
    assert not home.exists()
    refuse_without_sign_in(load_settings(home=home, **public, auth="ann:open sesame"))
    file = secrets(tmp_path / "auth", "# people\nann:open sesame\n")
    refuse_without_sign_in(load_settings(home=home, **public, auth_file=str(file)))
    home.mkdir()
    settings = load_settings(home=home, **public)
    (home / "farm.db").touch()
    with pytest.raises(NoSignIn):
        refuse_without_sign_in(settings)  # a database of before there were tokens
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    tokens.create(db, "mei", Role.ADMIN, "test")
    db.close()
    refuse_without_sign_in(settings)


def test_on_loopback_nothing_is_asked(tmp_path: Path):
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.7"):
        refuse_without_sign_in(load_settings(home=tmp_path / "home", host=host))
    assert not (tmp_path / "home").exists()


def test_an_auth_file_has_a_person_a_line(tmp_path: Path):
    file = secrets(tmp_path / "auth", "\ufeff# studio\n\nann:open:sesame\nartist 梅:芝麻 开门\noperator bob:b\n")
    found = load_settings(home=tmp_path, auth_file=str(file), auth="root:r").passwords()
    assert [(p.name, p.role) for p in found] == [
        ("root", Role.ADMIN), ("ann", Role.ADMIN), ("梅", Role.ARTIST), ("bob", Role.OPERATOR),
    ]  # fmt: skip
    assert found[1].matches("ann", "open:sesame")
    assert not found[1].matches("ann", "open")
    assert "sesame" not in repr(found)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("ann:secret\n", 0o644, "others may read it"),
        ("ann:secret\nannsecret\n", 0o600, "line 2"),
        ("boss ann:secret\n", 0o600, "line 1"),
        ("a/b:secret\n", 0o600, "without '/'"),
    ],
)
def test_an_auth_file_that_is_wrong_is_refused_without_its_words(tmp_path: Path, text: str, mode: int, says: str):
    file = secrets(tmp_path / "auth", text, mode)
    with pytest.raises(InvalidRequest) as caught:
        refuse_without_sign_in(load_settings(home=tmp_path, auth_file=str(file)))
    said = f"{caught.value.message} {caught.value.next}"
    assert says in said
    assert "secret" not in said
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_settings(home=tmp_path, auth_file=str(tmp_path / "nowhere")).passwords()


def test_a_password_of_the_command_line_goes_on_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FARM_AUTH", "ann:open sesame")
    more = secrets(tmp_path / "auth", "bob:b\n")
    settings = load_settings(home=tmp_path, auth_file=str(more))
    settings.make_folders()
    kept = settings.with_auth_in_file()
    assert "sesame" not in f"{settings!r} {kept.environment()} {dict(os.environ)}"
    assert Path(kept.auth_file).stat().st_mode & 0o077 == 0
    assert kept.passwords() == settings.passwords()
