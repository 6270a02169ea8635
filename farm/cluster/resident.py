"""The model a worker keeps in memory: loaded once. Where a different implementation plugs in."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from farm.cluster import device
from farm.domain.job import JobSpec
from farm.domain.sampling import QUALITIES
from farm.ops.logging import Log
from model.errors import CorruptWeights, ModelError
from model.events import Event, Fit, Image, RenderSpec
from model.library import Library
from model.wan.config import Preset


class Pipeline(Protocol):
    """What the farm asks of a pipeline; model.pipeline.Pipeline is the one we ship."""

    digest: str

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool]) -> Iterator[Event]: ...


class Resident:
    """`where` is "module:class"; the class speaks the words of model.events."""

    def __init__(self, where: str, library: Library, device: str, log: Log) -> None:
        self._module_name, _, self._class_name = where.partition(":")
        self._library = library
        self._device = device
        self._log = log
        self._name: str | None = None
        self._plan = 0
        self._pipeline: Pipeline | None = None
        self.loads = 0

    @property
    def digests(self) -> tuple[str, ...]:
        return () if self._pipeline is None else (self._pipeline.digest,)

    def pipeline(self, model: str, digest: str | None = None, memory_plan: int = 0) -> Pipeline:
        """The pipeline for `model`, with exactly the weights that `digest` names. Raises ModelError.

        memory_plan: 0 is what the model plans by itself, each one more keeps less of it on the card. One that
        keeps still less will do, too.
        """
        if self._pipeline is None or self._name != model or self._plan < memory_plan:
            self._load(model, memory_plan)
        assert self._pipeline is not None
        if digest is not None and self._pipeline.digest != digest:
            # The weights on disk may have been replaced since we read them.
            self._load(model, memory_plan)
            if self._pipeline.digest != digest:
                raise CorruptWeights(
                    f"the weights of {model} are not the ones this job was accepted with",
                    "submit the job again to render it with the weights that are installed now",
                )
        return self._pipeline

    def preset(self, model: str) -> Preset:
        return self._library.find(model)

    def spec(self, job: JobSpec, image: Image | None = None, prompt: str | None = None) -> RenderSpec:
        """The model's own words for a job, and the pixels of its first frame if it has one. prompt: as expanded."""
        return RenderSpec(
            prompt=prompt or job.prompt, width=job.width, height=job.height, frames=job.frames,
            steps=job.steps, seed=job.seed, guidance=job.guidance, negative_prompt=job.negative_prompt,
            image=image, fit=cast(Fit, job.fit), topk=None if job.quality is None else QUALITIES[job.quality],
            ode=job.ode,
        )  # fmt: skip

    def _load(self, model: str, memory_plan: int) -> None:
        self._pipeline, self._name = None, None  # frees the memory before the next one takes it
        device.return_free_device_memory()
        wanted = self._library.find(model)
        kind: Any = getattr(importlib.import_module(self._module_name), self._class_name, None)
        if kind is None:
            raise ModelError(f"{self._module_name} has no {self._class_name}", "see FARM_PIPELINE")
        self._pipeline = kind.load(wanted, library=self._library, device=self._device, plan=_plan(memory_plan))
        self._name, self._plan = model, memory_plan
        self.loads += 1
        self._log.info(
            "model_loaded", model=model, digest=self.digests[0], loads=self.loads, memory_plan=memory_plan
        )


def _plan(number: int) -> Any:
    """model.memory's plan of this number; None leaves it to the model."""
    if number == 0:
        return None
    return importlib.import_module("model.memory").Plan(text_on_host=True)  # here, for it brings torch
