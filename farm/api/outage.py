"""What is away, in words that every door of the farm says: health, the event stream, the page, the command."""

from farm.api.present import Json
from farm.api.services import Services
from farm.db import jobs
from farm.domain.errors import FarmError

_DATABASE = (
    "The farm's database is away. Nothing is lost: accepted jobs are kept there, what is being rendered goes on, "
    "and finished videos wait with their workers. New jobs can be sent once it is back."
)
_STORE = (
    "The farm's store of videos is away. Nothing is lost: finished videos wait with their workers and are saved "
    "once it is back. Jobs are accepted; videos cannot be played or downloaded meanwhile."
)


def outage(database: FarmError | None, store: FarmError | None) -> Json:
    """`says` is empty while all is there. The database first: without it nothing is known of the rest."""
    says = _DATABASE if database is not None else _STORE if store is not None else ""
    return {
        "database": None if database is None else database.message,
        "store": None if store is None else store.message,
        "says": says,
    }


def database_trouble(farm: Services) -> FarmError | None:
    """None: it is there."""
    try:
        jobs.counts(farm.db)
    except FarmError as error:
        return error
    return None
