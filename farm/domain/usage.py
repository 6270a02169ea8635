"""What people have used: GPU time and videos by owner and project."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """gpu_seconds: of every attempt, those that were lost or failed too."""

    owner: str
    project: str
    videos: int
    attempts: int
    gpu_seconds: float
