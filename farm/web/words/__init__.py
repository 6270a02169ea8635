"""In which language the page speaks, and the states behind each of its chips."""

from farm.domain.states import JobState
from farm.web.words.chinese import CHINESE
from farm.web.words.english import ENGLISH

LANGUAGES = {"en": "English", "zh": "中文"}
WORDS: dict[str, dict[str, str]] = {"en": ENGLISH, "zh": CHINESE}

# A chip is called as its first state is.
CHIPS: dict[str, tuple[JobState, ...]] = {
    "running": (JobState.RUNNING, JobState.LEASED),
    "queued": (JobState.QUEUED, JobState.SCHEDULED),
    "held": (JobState.HELD,),
    "succeeded": (JobState.SUCCEEDED,),
    "failed": (JobState.FAILED,),
    "cancelled": (JobState.CANCELLED,),
}


def language(asked: str | None, kept: str | None, accepted: str) -> str:
    """What was just asked for, else what was chosen before, else what the browser prefers."""
    for one in (asked, kept, *(part.partition(";")[0].strip()[:2].lower() for part in accepted.split(","))):
        if one in LANGUAGES:
            return one
    return "en"
