"""The drawing pipeline of the cluster's tests, under the digest of the weights that the API knows."""

from typing import Any

from model.library import Library
from tests.cluster import fake_model


class Pipeline(fake_model.Pipeline):
    def __init__(self, preset: Any, device: str = "cpu") -> None:
        super().__init__(preset, device)
        self.digest = Library().digest(preset)
