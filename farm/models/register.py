"""Noting what this machine's library holds in the farm's database, so that servers without it can offer it."""

from urllib.parse import urlsplit

from farm.db import models
from farm.db.engine import check_schema, open_database
from farm.domain.errors import FarmError
from farm.models.on_disk import on_disk
from farm.settings import Settings
from model.library import Library


def register(settings: Settings) -> str | None:
    """What a person should know where it did not work; a library is as good without a database."""
    if settings.database_url.startswith("sqlite:") and not settings.home.joinpath("farm.db").exists():
        return None  # no farm has begun here: the first worker that starts will tell
    try:
        db = open_database(settings.database_url, busy_timeout=2.0)
        try:
            check_schema(db)
            models.record(db, on_disk(Library(settings.models)))
        finally:
            db.close()
    except FarmError as error:
        return f"the farm's database ({urlsplit(settings.database_url).scheme}) was not told: {error.message}"
    return None
