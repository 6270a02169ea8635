"""The drawing pipeline of the cluster's tests, under the digest of the weights that the API knows."""

from typing import Any

from model.checkpoints.digest import weights_digest

from tests.cluster import fake_model


class Pipeline(fake_model.Pipeline):
    def __init__(self, preset: Any) -> None:
        super().__init__(preset)
        self.digest = weights_digest(preset)
