"""What a claim leaves behind in the store, and when it may go."""

from enum import StrEnum

Claim = tuple[str, int]  # job, epoch


class Death(StrEnum):
    """Why nobody needs the files of a claim any more."""

    LOSER = "losers"  # nobody can finish the job with them
    PREVIEWS = "previews"  # the winner's: its video stays
    HIDDEN = "hidden"
    REMOVED = "removed"  # the job stays in the lists, its video was pruned


def files_of(job: str) -> str:
    """What the keys of all files of a job begin with, whichever claim wrote them."""
    return f"videos/{job}/"
