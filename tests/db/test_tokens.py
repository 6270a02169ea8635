"""Tokens: only a digest is kept, and who is revoked or over gets in no more."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from farm.db import tokens
from farm.db.tables import tokens as table
from farm.domain.errors import TokenNotFound
from farm.domain.person import Role


def test_a_token_is_known_by_its_digest_alone(db):
    assert not tokens.exist(db)
    made = tokens.create(db, "mei", Role.ARTIST, by="root")
    assert tokens.exist(db)
    found = tokens.look_up(db, made.secret)
    assert (found.name, found.role, found.created_by) == ("mei", Role.ARTIST, "root")
    with db.read() as conn:
        kept = " ".join(map(str, conn.execute(select(table)).one()))
    assert made.secret.startswith(f"{made.token.prefix}_")
    assert made.secret[14:] not in kept
    assert made.secret not in repr(made)


def test_almost_the_right_token_is_none(db):
    secret = tokens.create(db, "mei", Role.ADMIN, by="root").secret
    wrong = secret[:-2] + ("AA" if secret[-2:] != "AA" else "BB")
    for shown in (wrong, secret[:13], secret + "A", "", "farm_aaaaaaaa_" + "A" * 43):
        assert tokens.look_up(db, shown) is None, shown


def test_a_revoked_token_is_none_and_the_first_revocation_counts(db, clock):
    made = tokens.create(db, "mei", Role.ADMIN, by="root")
    gone = tokens.revoke(db, made.token.prefix[5:9], by="ann")
    clock.forward(60)
    again = tokens.revoke(db, made.secret, by="bob")
    assert (gone.revoked_by, again.revoked_by) == ("ann", "ann")
    assert tokens.look_up(db, made.secret) is None
    assert tokens.exist(db), "the farm is not open to everybody again"


def test_a_token_ends_when_it_was_to(db, clock):
    made = tokens.create(db, "mei", Role.ADMIN, by="root", seconds=60)
    assert made.token.expires_at - made.token.created_at == timedelta(seconds=60)
    assert tokens.look_up(db, made.secret)
    clock.forward(61)
    assert tokens.look_up(db, made.secret) is None


def test_use_is_noted_coarsely(db, clock):
    made = tokens.create(db, "mei", Role.ADMIN, by="root")

    def used():
        return tokens.find(db)[0].last_used_at

    assert used() is None
    tokens.look_up(db, made.secret)
    first = used()
    assert first == clock.time
    clock.forward(120)
    tokens.look_up(db, made.secret)
    assert used() == first, "reading must not become writing"
    clock.forward(240)
    tokens.look_up(db, made.secret)
    assert used() == clock.time


def test_a_prefix_must_name_exactly_one(db):
    for _ in range(2):
        tokens.create(db, "mei", Role.ARTIST, by="root")
    for text in ("farm_", "", "zzzzzzzzz"):
        with pytest.raises(TokenNotFound):
            tokens.revoke(db, text, by="root")
    assert [one.revoked_at for one in tokens.find(db)] == [None, None]
