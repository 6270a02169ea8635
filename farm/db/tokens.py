"""Tokens: made, listed, revoked, and looked up when somebody shows one. Their secrets are never kept."""

import hmac
import logging

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from farm.db import rows
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import tokens
from farm.domain.errors import DatabaseUnavailable, FarmError, TokenNotFound
from farm.domain.person import NewToken, Role, Token, digest_of, new_secret, prefix_of

log = logging.getLogger("farm.db.tokens")

_COARSE = 300.0  # seconds between two notes that a token is in use: reading must not become writing


def create(db: Database, name: str, role: Role, by: str, seconds: float | None = None) -> NewToken:
    """For the person `name`; it ends after `seconds`, None: when it is revoked."""
    for _ in range(5):
        secret = new_secret()
        prefix = prefix_of(secret)
        assert prefix is not None
        try:
            with db.write() as conn:
                conn.execute(
                    insert(tokens).values(
                        prefix=prefix, digest=digest_of(secret), name=name, role=role, created_at=farm_now(),
                        created_by=by, expires_at=None if seconds is None else farm_now(seconds),
                    )
                )  # fmt: skip
                return NewToken(_read(conn, prefix), secret)
        except IntegrityError:
            continue  # one in 2^40 has this prefix already
    raise DatabaseUnavailable("no token could be made", "try again")


def find(db: Database) -> list[Token]:
    """All there ever were, the newest first."""
    with db.read() as conn:
        stmt = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.prefix)
        return [rows.token(row) for row in conn.execute(stmt).mappings()]


def exist(db: Database) -> bool:
    """Whether there ever was one: from then on nobody gets in without."""
    with db.read() as conn:
        return conn.scalar(select(tokens.c.prefix).limit(1)) is not None


def revoke(db: Database, text: str, by: str) -> Token:
    """The one whose prefix begins so. Revoking twice changes nothing. Raises TokenNotFound."""
    with db.write() as conn:
        prefix = _resolve(conn, text)
        conn.execute(
            update(tokens)
            .where(tokens.c.prefix == prefix, tokens.c.revoked_at.is_(None))
            .values(revoked_at=farm_now(), revoked_by=by)
        )
        return _read(conn, prefix)


def look_up(db: Database, secret: str) -> Token | None:
    """The token that this is, if it is valid now."""
    prefix = prefix_of(secret)
    if prefix is None:
        return None
    found = valid(db, prefix)
    same = hmac.compare_digest(found.digest if found else "", digest_of(secret))
    return found if same else None


def valid(db: Database, prefix: str) -> Token | None:
    """The token of this prefix unless it was revoked or is over; notes, now and then, that it is in use."""
    stale = func.coalesce(tokens.c.last_used_at < farm_now(-_COARSE), True).label("stale")
    lasts = tokens.c.expires_at.is_(None) | (tokens.c.expires_at > farm_now())
    stmt = select(tokens, stale).where(tokens.c.prefix == prefix, tokens.c.revoked_at.is_(None), lasts)
    with db.read() as conn:
        row = conn.execute(stmt).mappings().one_or_none()
    if row is None:
        return None
    if row["stale"]:
        try:
            with db.write() as conn:
                conn.execute(update(tokens).where(tokens.c.prefix == prefix).values(last_used_at=farm_now()))
        except FarmError as error:  # a full disk keeps nobody from looking
            log.warning("use of a token not noted", extra={"code": error.code})
    return rows.token(row)


def _read(conn: Connection, prefix: str) -> Token:
    return rows.token(conn.execute(select(tokens).where(tokens.c.prefix == prefix)).mappings().one())


def _resolve(conn: Connection, text: str) -> str:
    known = conn.scalars(select(tokens.c.prefix)).all()
    text = prefix_of(text) or text
    begin = text if text.startswith("farm_") else f"farm_{text}"
    found = [prefix for prefix in known if text and prefix.startswith(begin)]
    if len(found) != 1:
        what = "more than one token begins" if found else "no token begins"
        raise TokenNotFound(f"{what} with {text[:13]!r}", "see them with: farm token list")
    return found[0]
