"""A small step is recorded when it comes again, and replayed it computes what its kernels launched one by one do.

Without a card a stand-in computes again, on the tensors that it was recorded with.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from kernels import switch
from kernels.elementwise import reference
from model.wan import recording, transformer
from model.wan.config import TransformerConfig
from model.wan.recording import AFTER, KEPT, Recordings
from model.wan.transformer import WanTransformer

CARD = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
CONFIG = TransformerConfig(dim=128, ffn_dim=160, heads=2, layers=2, text_dim=32, text_len=300, sla=True)


class Again:
    """A graph that computes on a CPU what it was recorded with. No new tensor reaches it."""

    def __init__(self, run: recording.Run, inputs: Sequence[Tensor]) -> None:
        self.run, self.inputs = run, inputs
        self.out = run(inputs).clone()

    def replay(self) -> None:
        self.out.copy_(self.run(self.inputs))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    """What was recorded so far, by the stand-in."""
    made: list[Again] = []

    def graph(_: Recordings, run: recording.Run, inputs: Sequence[Tensor]) -> Again:
        made.append(Again(run, inputs))
        return made[-1]

    monkeypatch.setattr(Recordings, "graph", graph)
    monkeypatch.setattr(recording, "free_bytes", lambda: 1000)
    return made


def steps(
    recordings: Recordings,
    count: int,
    kept: list[Tensor],
    weights: Callable[[], list[Tensor]] = list,
    kind: object = 0,
) -> None:
    """Steps that give the sum of what they are given."""
    for n in range(count):
        fresh = torch.tensor([float(n)])
        out = recordings.step(lambda given: sum(given, torch.zeros(1)), [fresh], kept, kind, weights, 100)
        assert out == n + sum(float(t) for t in kept)


def test_what_comes_again_is_recorded_once(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    steps(recordings, AFTER, kept)
    assert not recorded
    assert not recordings.any
    steps(recordings, 3, kept)
    assert len(recorded) == 1
    assert recordings.any
    steps(recordings, 3, [torch.tensor([2.0])])  # another render's
    assert len(recorded) == 1


def test_a_result_stays_when_the_next_is_computed(recorded: list[Again]) -> None:
    recordings = Recordings()
    outs = [
        recordings.step(lambda given: given[0] + 1, [torch.tensor([float(n)])], [], 0, list, 0)
        for n in range(AFTER + 3)
    ]
    assert recorded
    assert [float(out) for out in outs] == [n + 1 for n in range(AFTER + 3)]


def test_a_recording_of_weights_that_lie_elsewhere_now_is_dropped(recorded: list[Again]) -> None:
    recordings, weight = Recordings(), torch.ones(1)
    steps(recordings, AFTER + 1, [torch.ones(1)], lambda: [weight])
    weight = weight.clone()
    steps(recordings, AFTER, [torch.ones(1)], lambda: [weight])
    assert not recordings.any
    steps(recordings, 1, [torch.ones(1)], lambda: [weight])
    assert len(recorded) == 2


def test_kinds_asked_for_longest_ago_are_dropped(recorded: list[Again]) -> None:
    recordings, kept = Recordings(), [torch.ones(1)]
    for kind in range(KEPT + 1):
        steps(recordings, AFTER + 1, kept, kind=kind)
    assert sorted(recordings.kinds) == list(range(1, KEPT + 1))
    assert len(recorded) == KEPT + 1


@pytest.mark.parametrize(("spare", "fits"), [(900, True), (901, False)])
def test_nothing_is_recorded_where_decoding_would_lack_room(recorded: list[Again], spare: int, fits: bool) -> None:
    recordings = Recordings()
    recordings.spare = spare
    steps(recordings, AFTER + 2, [torch.ones(1)])
    assert len(recorded) == fits


@pytest.mark.skipif(not CARD, reason="needs a card of compute capability 8.0")
def test_a_card_with_little_left_records_nothing() -> None:
    assert 0 < recording.free_bytes() < 1 << 40
    recordings, kept = Recordings(), [torch.ones(1, device="cuda")]
    recordings.spare = 1 << 40
    for _ in range(AFTER + 2):
        recordings.step(lambda given: given[0] + given[1], kept, kept, 0, list, 0)
    assert not recordings.any


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
    monkeypatch.setattr(recording, "free_bytes", lambda: 1 << 40)
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
    """Replayed or not, the same bits as launched one by one."""
    with torch.inference_mode():
        out = model(latent, timestep, text)
        model.recordings.on = False
        expected = model(latent, timestep, text)
        model.recordings.on = True
    assert torch.equal(out, expected)
    assert bool(out.isfinite().all())


def test_renders_of_any_prompt_and_size_are_the_same_replayed(model: WanTransformer) -> None:
    cases = [{}, {"size": (8, 12)}, {"words": 200}, {"b": 2}]
    for turn in range(3):  # in turns, as an artist changes his mind
        for case in cases:
            text = draw(model, turn, **{**case, "words": case.get("words", 5 + turn)})[2]
            for n in range(3):
                latent, timestep, _ = draw(model, 10 * turn + n, **case)
                judge(model, latent, timestep, text)
    kinds = model.recordings.kinds.values()
    assert len(kinds) == len(cases)
    assert all(kind.recording for kind in kinds)


def test_guidance_asks_by_turns(model: WanTransformer) -> None:
    latent, timestep, text = draw(model, 1)
    prompts = torch.cat([text, draw(model, 2, words=30)[2]]).chunk(2)
    for n in range(AFTER + 4):
        judge(model, latent + n, timestep, prompts[n % 2])
    assert model.recordings.any


def test_another_share_of_blocks_is_another_kind(model: WanTransformer) -> None:
    given = draw(model, 1)
    for topk in (0.5, 1.0, 0.5, 1.0):
        model.topk = topk
        for _ in range(AFTER):
            judge(model, *given)
    assert len(model.recordings.kinds) == 2


def test_weights_changed_in_place_or_replaced_count(model: WanTransformer) -> None:
    for _ in range(AFTER + 2):
        judge(model, *draw(model, 1))
    model.get_parameter("blocks.1.ffn.0.weight").mul_(1.5)
    judge(model, *draw(model, 1))
    for name in ("blocks.0.ffn.2", "blocks.1.self_attn.q"):
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(layer.weight * 0.5, requires_grad=False)
        judge(model, *draw(model, 1))
    assert not model.recordings.any
    for _ in range(AFTER):
        judge(model, *draw(model, 1))
    assert model.recordings.any


def test_a_large_step_is_not_recorded(model: WanTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    given = draw(model, 1)
    monkeypatch.setattr(recording, "LARGEST", 3 * 6 * 4 * CONFIG.dim - 1)
    for _ in range(AFTER + 2):
        judge(model, *given)
    assert not model.recordings.any
    monkeypatch.setattr(recording, "LARGEST", 3 * 6 * 4 * CONFIG.dim)
    for _ in range(AFTER + 2):
        judge(model, *given)
    assert model.recordings.any


def test_a_copy_of_a_model_records_anew(model: WanTransformer) -> None:
    for _ in range(AFTER + 2):
        judge(model, *draw(model, 1))
    other = copy.deepcopy(model)
    assert model.recordings.any
    assert not other.recordings.any
    judge(other, *draw(other, 1))


@pytest.mark.usefixtures("recorded")
def test_a_cpu_records_nothing() -> None:
    model = WanTransformer(CONFIG).eval().requires_grad_(False)
    for _ in range(AFTER + 2):
        judge(model, *draw(model, 1))
    assert not model.recordings.kinds
