"""What can go wrong between a hub and the model library, in words that help."""

from farm.domain.errors import Exit, FarmError


class HubUnreachable(FarmError):
    """No answer, or none that makes sense; what has arrived is kept."""

    code = "hub_unreachable"
    exit = Exit.UNREACHABLE


class HubRefused(FarmError):
    """401 or 403: a token is needed, or a licence to be accepted on the hub's page."""

    code = "hub_refused"
    exit = Exit.NOT_SIGNED_IN


class NotOnHub(FarmError):
    code = "not_on_hub"


class WrongFile(FarmError):
    """What arrived is not what was announced: another size or checksum."""

    code = "wrong_file"


class LibraryBusy(FarmError):
    """Another process is changing the library."""

    code = "library_busy"


class ImportFailed(FarmError):
    """The files are here and whole, and still not what the model needs."""

    code = "corrupt_weights"


class StillNeeded(FarmError):
    code = "still_needed"
