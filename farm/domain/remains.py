"""What a claim leaves behind in the store, and when it may go."""

from enum import StrEnum

Claim = tuple[str, int]  # job, epoch


class Death(StrEnum):
    """Why nobody needs the files of a claim any more."""

    LOSER = "losers"  # nobody can finish the job with them
    PREVIEWS = "previews"  # the winner's: its video stays
    HIDDEN = "hidden"
