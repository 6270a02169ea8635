"""A small step is recorded when it comes again, and replayed it computes what its kernels launched one by one do.

Without a card a stand-in computes again, on the tensors that it was recorded with.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels import switch
from kernels.elementwise import reference
from model.events import RenderSpec, Stage
from model.memory import decoding_bytes
from model.pipeline import Pipeline
from model.wan import recording, transformer
from model.wan.config import TransformerConfig, preset
from model.wan.prompt import keys_of, tensors_of
from model.wan.recording import AFTER, COUNTED, KEPT, MARGIN, Recordings
from model.wan.transformer import WanTransformer

CARD = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
CONFIG = TransformerConfig(dim=128, ffn_dim=160, heads=2, layers=2, text_dim=32, text_len=300, sla=True)


class Again:
    """A graph that computes on a CPU what it was recorded with: it has no other tensors for what is given to it."""

    def __init__(self, run: recording.Run, inputs: Sequence[Tensor]) -> None:
        self.run, self.inputs = run, inputs
        self.out = run(inputs).clone()
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.out.copy_(self.run(self.inputs))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    """What was recorded so far, by the stand-in."""
    made: list[Again] = []

    def capture(_: Recordings, run: recording.Run, inputs: Sequence[Tensor]) -> Again:
        made.append(Again(run, inputs))
        return made[-1]

    monkeypatch.setattr(Recordings, "capture", capture)
    monkeypatch.setattr(recording, "available_bytes", lambda: 1000 + MARGIN)
    monkeypatch.setattr(recording, "needed_bytes", lambda: 500 * bool(made))
    return made


def steps(
    recordings: Recordings,
    count: int,
    kept: list[Tensor],
    weights: Callable[[], list[Tensor]] = list,
    kind: object = 0,
    run: recording.Run = lambda given: sum(given, torch.zeros(1)),
) -> None:
    """Steps that give the sum of what they are given."""
    for n in range(count):
        fresh = torch.tensor([float(n)])
        out = recordings.step(run, [fresh], kept, kind, weights, 100)
        assert out == n + sum(float(t) for t in kept)
        assert fresh == n


def test_what_comes_again_is_recorded_once(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    steps(recordings, AFTER, kept)
    assert not recorded
    steps(recordings, 3, kept)
    assert [graph.replays for graph in recorded] == [3]
    steps(recordings, 3, [torch.tensor([2.0])])  # another render's
    assert [graph.replays for graph in recorded] == [6]
    assert kept[0] == 1  # a prompt's keys are not written over by the next one's


def test_a_result_stays_when_the_next_is_computed(recorded: list[Again]) -> None:
    recordings = Recordings()
    outs = [
        recordings.step(lambda given: given[0] + 1, [torch.tensor([float(n)])], [], 0, list, 0)
        for n in range(AFTER + 3)
    ]
    assert recorded
    assert [float(out) for out in outs] == [n + 1 for n in range(AFTER + 3)]


def test_a_recording_of_weights_that_lie_elsewhere_now_is_dropped(recorded: list[Again]) -> None:
    recordings, weight = Recordings(), torch.ones(4)
    steps(recordings, AFTER + 1, [torch.ones(1)], lambda: [weight])
    (there,) = recordings.recorded.values()
    assert there.weights[0].data_ptr() == weight.data_ptr()  # until then a graph reads what is still there
    for other in (weight.clone(), weight.view(2, 2), weight.view(torch.int32)):
        recordings = copy.copy(recordings)
        recordings.recorded, recordings.launched = {0: there}, {0: AFTER}
        steps(recordings, AFTER, [torch.ones(1)], lambda other=other: [other])
        assert not recordings.recorded
    steps(recordings, 1, [torch.ones(1)], lambda: [weight])
    assert recordings.recorded


def test_kinds_asked_for_longest_ago_are_dropped(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    for kind in range(KEPT):
        steps(recordings, AFTER + 1, kept, kind=kind)
    steps(recordings, 1, kept, kind=0)
    steps(recordings, AFTER + 1, kept, kind=KEPT)
    assert sorted(recordings.recorded) == [0, *range(2, KEPT + 1)]
    assert len(recorded) == KEPT + 1


def test_kinds_that_came_once_drop_no_recording(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    steps(recordings, AFTER + 1, kept)
    for kind in range(1, 2 * COUNTED):
        steps(recordings, 1, kept, kind=kind)
    steps(recordings, 1, kept)
    assert len(recorded) == 1
    assert len(recordings.launched) == COUNTED


@pytest.mark.parametrize(("spare", "fits"), [(896, True), (897, False)])  # beside 100 of the step and 4 of `kept`
def test_nothing_is_recorded_that_would_leave_too_little(recorded: list[Again], spare: int, fits: bool) -> None:
    recordings = Recordings()
    recordings.spare = spare
    steps(recordings, AFTER + 2, [torch.ones(1)])
    assert len(recorded) == fits
    recordings.spare = 0  # a smaller video
    steps(recordings, 1, [torch.ones(1)])
    assert len(recorded) == 1


@pytest.mark.parametrize(("need", "stays"), [(500 + MARGIN, True), (501 + MARGIN, False)])  # 500 of 1000 are held
def test_recordings_give_way_to_what_comes_next(recorded: list[Again], need: int, stays: bool) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    steps(recordings, AFTER + 1, kept)
    assert recordings.held == 500
    recordings.give_way(need)
    assert bool(recordings.recorded) == stays
    assert recordings.held == 500 * stays
    steps(recordings, AFTER + 1, kept)
    assert len(recorded) == 2 - stays


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("operation not permitted")]
)
def test_a_step_that_cannot_be_recorded_is_launched(
    recorded: list[Again], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried: list[int] = []

    def capture(*_: object) -> Again:
        tried.append(1)
        raise error

    monkeypatch.setattr(Recordings, "capture", capture)
    recordings = Recordings()
    lasting = not isinstance(error, torch.OutOfMemoryError)
    told: AbstractContextManager[Any] = pytest.warns(UserWarning, match="not permitted") if lasting else _quiet()
    with told:
        steps(recordings, AFTER + 1, [torch.ones(1)])
    assert len(tried) == 1
    assert recordings.on != lasting
    steps(recordings, AFTER - 1, [torch.ones(1)])  # not again at every step
    assert len(tried) == 1


def _quiet() -> AbstractContextManager[Any]:
    import warnings

    return warnings.catch_warnings(action="error")


def test_steps_may_come_in_any_mode(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    with torch.inference_mode():
        steps(recordings, AFTER + 1, kept)
    with torch.no_grad():
        steps(recordings, 1, [torch.ones(1)])
    with torch.inference_mode():
        steps(recordings, 1, [torch.ones(1)])
    assert [graph.replays for graph in recorded] == [3]
    assert not recorded[0].out.requires_grad


# The whole model.


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[WanTransformer]:
    """On a card, by its kernels; else by plain torch in the kernels' place and the stand-in in the graph's."""
    torch.manual_seed(0)
    model = WanTransformer(CONFIG, 0.5).eval().requires_grad_(False)
    nn.init.normal_(model.head.head.weight)
    if CARD:
        yield model.to("cuda", torch.bfloat16)
        return
    request.getfixturevalue("recorded")
    monkeypatch.setattr(recording, "available_bytes", lambda: 1 << 40)
    monkeypatch.setattr(transformer, "pays", lambda _, size: size <= recording.LARGEST)
    monkeypatch.setattr(transformer, "elementwise_reference", None)  # that plain torch takes the kernels' way
    monkeypatch.setattr(switch, "elementwise", lambda _: reference)
    yield model


def draw(
    model: WanTransformer, seed: int, words: int = 9, size: tuple[int, int] = (12, 8), b: int = 1
) -> list[Tensor]:
    """latent, timestep, text."""
    generator, weight = torch.Generator().manual_seed(seed), model.patch_embedding.weight
    text = torch.randn(b, CONFIG.text_len, CONFIG.text_dim, generator=generator)
    text[:, words:] = 0
    latent = torch.randn(b, 16, 3, *size, generator=generator)
    return [t.to(weight) for t in (latent, torch.full((b,), 100.0 + seed), text)]


def judge(model: WanTransformer, latent: Tensor, timestep: Tensor, text: Tensor) -> None:
    """Replayed or not, the same bits as of a copy of the model that launches."""
    given = [t.clone() for t in (latent, timestep, text)]
    other = copy.deepcopy(model)
    other.recordings.on = False
    other._prompts.entries.clear()
    with torch.inference_mode():
        out, expected = model(latent, timestep, text), other(*given)
    assert torch.equal(out, expected)
    assert bool(out.isfinite().all())
    assert not other.recordings.recorded
    assert all(torch.equal(a, b) for a, b in zip(given, (latent, timestep, text), strict=True))


def test_renders_of_any_prompt_and_size_are_the_same_replayed(model: WanTransformer) -> None:
    cases: list[dict[str, Any]] = [{}, {"size": (8, 12)}, {"words": 200, "size": (8, 8)}, {"b": 2}]
    for turn in range(3):  # in turns, as an artist changes his mind
        for case in cases:
            text = draw(model, turn, **{**case, "words": case.get("words", 5 + turn)})[2]
            for n in range(3):
                latent, timestep, _ = draw(model, 10 * turn + n, **case)
                judge(model, latent, timestep, text)
    assert len(model.recordings.recorded) == len(cases)


def test_guidance_asks_by_turns(model: WanTransformer) -> None:
    latent, timestep, text = draw(model, 1)
    prompts = torch.cat([text, draw(model, 2, words=30)[2]]).chunk(2)
    for n in range(AFTER + 4):
        judge(model, latent + n, timestep, prompts[n % 2])
    assert model.recordings.recorded


def test_a_rotation_table_may_be_dropped_under_a_recording(model: WanTransformer) -> None:
    given = draw(model, 1)
    for _ in range(AFTER + 1):
        judge(model, *given)
    transformer.kept_rope_table.cache_clear()
    for n in range(3):
        judge(model, *draw(model, 1, size=(4, 4 + 2 * n)))
        judge(model, *given)
    assert model.recordings.recorded


def test_another_share_of_blocks_or_dtype_of_time_is_another_kind(model: WanTransformer) -> None:
    latent, timestep, text = draw(model, 1)
    for topk in (0.5, 1.0, 0.5, 1.0):
        model.topk = topk
        for _ in range(AFTER):
            judge(model, latent, timestep, text)
    assert len(model.recordings.recorded) == 2
    for _ in range(AFTER):
        judge(model, latent, timestep.double() + 0.123, text)
    assert len(model.recordings.launched) == 3


def test_weights_changed_in_place_or_replaced_count(model: WanTransformer) -> None:
    model.register_buffer("some", torch.zeros(1))
    for _ in range(AFTER + 2):
        judge(model, *draw(model, 1))
    model.get_parameter("blocks.1.ffn.0.weight").mul_(1.5)
    judge(model, *draw(model, 1))
    assert model.recordings.recorded
    for name in ("blocks.0.ffn.2", "blocks.1.self_attn.q", ""):
        if name:
            layer = model.get_submodule(name)
            layer.weight = nn.Parameter(layer.weight * 0.5, requires_grad=False)
        else:
            model.register_buffer("some", torch.zeros(1))
        judge(model, *draw(model, 1))
        assert not model.recordings.recorded
        for _ in range(AFTER):
            judge(model, *draw(model, 1))
        assert model.recordings.recorded


def test_a_steps_need_and_size_count_its_batch(model: WanTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    given, size = draw(model, 1, b=2), 2 * 3 * 6 * 4 * CONFIG.dim
    needs: list[int] = []
    record = Recordings.step

    def step(self: Recordings, *rest: Any) -> Tensor:
        needs.append(rest[-1])
        return record(self, *rest)

    monkeypatch.setattr(Recordings, "step", step)
    monkeypatch.setattr(recording, "LARGEST", size - 1)
    for _ in range(AFTER + 2):
        judge(model, *given)
    assert not needs
    monkeypatch.setattr(recording, "LARGEST", size)
    for _ in range(AFTER + 2):
        judge(model, *given)
    assert model.recordings.recorded
    assert set(needs) == {size * recording.BYTES}


def test_keys_come_apart_and_together_block_by_block() -> None:
    keys = [transformer.Keys(*(torch.full((1,), 10.0 * block + part) for part in range(4))) for block in range(3)]
    keys = [transformer.Keys(key.k, key.v, keys[0].bias, key.reach) for key in keys]
    assert keys_of(tensors_of(keys)) == keys


def test_a_copy_of_a_model_records_anew(model: WanTransformer) -> None:
    for _ in range(AFTER + 2):
        judge(model, *draw(model, 1))
    assert model.recordings.recorded
    assert not copy.deepcopy(model).recordings.recorded


@pytest.mark.parametrize("size", [recording.LARGEST, recording.LARGEST + 1])
def test_a_cpu_records_nothing_and_a_card_only_small_steps(size: int) -> None:
    assert not recording.pays(torch.zeros(1), 1)
    if CARD:
        assert recording.pays(torch.zeros(1, device="cuda"), size) == (size == recording.LARGEST)


@pytest.mark.skipif(not CARD, reason="needs a card of compute capability 8.0")
def test_what_a_recording_holds_is_given_back_when_it_goes() -> None:
    recordings, kept = Recordings(), [torch.ones(1 << 22, device="cuda")]
    before = recording.available_bytes()
    for _ in range(2):
        for n in range(AFTER + 2):
            out = recordings.step(lambda given: (given[0] @ given[0].T) @ given[0] + given[1].sum(), [
                torch.full((512, 512), float(n), device="cuda")], kept, 0, list, 0)  # fmt: skip
        assert bool(out.isfinite().all())
        assert recordings.recorded
        assert 0 < recordings.held < 1 << 28
        recordings.give_way(1 << 50)
        assert not recordings.recorded
    torch.cuda.empty_cache()
    assert recording.available_bytes() > before - (64 << 20)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


# In a pipeline.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What a pipeline asks of its recordings, in order."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(Recordings, "give_way", lambda _, need: asked.append(("give way", need)))
    monkeypatch.setattr(Recordings, "clear", lambda _: asked.append(("clear", 0)))
    return asked


@pytest.mark.parametrize("visit", [0, 1 << 40])
def test_text_and_decoding_find_the_room_that_was_planned(
    asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, visit: int
) -> None:
    pipeline, spec = Pipeline.load(preset("demo-t2v")), RenderSpec("a red ball", 96, 96, 17, 1, 0)
    monkeypatch.setattr(pipeline.parts.text, "visit", lambda: visit)
    for event in pipeline.render(spec):
        asked += [(event.name, 0)] if isinstance(event, Stage) else []
    decoding = decoding_bytes((96, 96))
    assert asked == [
        ("text", 0), ("give way", visit), ("denoise", 0), ("decode", 0), ("give way", decoding),
    ]  # fmt: skip
    assert pipeline.parts.transformer.recordings.spare == max(visit, decoding)


def test_whoever_runs_out_of_memory_lets_the_recordings_go(
    asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    pipeline = Pipeline.load(preset("demo-t2v"))
    monkeypatch.setattr(pipeline.parts.vae, "stream", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(pipeline.render(RenderSpec("a red ball", 96, 96, 17, 1, 0)))
    assert asked[-1] == ("clear", 0)
