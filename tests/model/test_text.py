"""Wan's text side: cleaning, the official key layout, a local tokenizer, embeddings on disk."""

import json
import os
from pathlib import Path

import pytest
import torch

from model.checkpoints.entries import of_tensors
from model.checkpoints.safetensors import read
from model.errors import CorruptWeights
from model.wan.config import UMT5Shapes
from model.wan.text_cache import TextCache
from model.wan.text_encoder import UMT5TextEncoder, WanText, WanTokenizer, clean
from tests.model.small import save_tokenizer, text_encoder

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = UMT5Shapes(vocabulary=160, dim=64, attention_dim=64, ffn_dim=160, heads=4, layers=3)


@pytest.mark.parametrize(
    ("typed", "cleaned"),
    [
        ("  a  red\n kite\t", "a red kite"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("donâ€™t", "don't"),
        ("一只 红色的　风筝", "一只 红色的 风筝"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_in_training(typed: str, cleaned: str) -> None:
    assert clean(typed) == cleaned


def test_names_are_those_of_the_official_file() -> None:
    layout = json.loads((GOLDEN / "checkpoint_layouts.json").read_text())["models_t5_umt5-xxl-enc-bf16.pth"]
    with torch.device("meta"):
        state = UMT5TextEncoder(UMT5Shapes(layers=1)).official()
    ours = {k: list(v.shape) for k, v in state.items()}
    assert ours == {k: shape for k, (_, shape) in layout["tensors"].items()}


def official() -> dict[str, torch.Tensor]:
    tensors = read(GOLDEN / "umt5.safetensors")
    return {k.removeprefix("state_dict."): v for k, v in tensors.items() if k.startswith("state_dict.")}


def test_padding_changes_no_real_row_and_is_zero() -> None:
    encoder = UMT5TextEncoder(SMALL).eval()
    encoder.fill(of_tensors(official(), GOLDEN / "umt5.safetensors"), torch.float32)
    ids = torch.randint(2, 160, (1, 7), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([ids, torch.zeros(1, 9, dtype=torch.int64)], dim=1)
    mask = (padded != 0).long()
    with torch.no_grad():
        short, long = encoder(ids, torch.ones_like(ids)), encoder(padded, mask)
    torch.testing.assert_close(long[:, :7], short, rtol=1e-4, atol=1e-5)
    assert (long[:, 7:] == 0).all()


def test_a_foreign_or_incomplete_checkpoint_is_refused_by_tensor() -> None:
    tensors = official()
    source = Path("umt5.safetensors")
    missing = {k: v for k, v in tensors.items() if k != "blocks.1.attn.q.weight"}
    with pytest.raises(CorruptWeights, match=r"umt5.safetensors: tensor blocks.1.attn.q.weight is missing"):
        UMT5TextEncoder(SMALL).fill(of_tensors(missing, source), torch.float32)
    wrong = {**tensors, "norm.weight": torch.ones(65)}
    with pytest.raises(CorruptWeights, match=r"norm.weight expected \[64\], found \[65\]"):
        UMT5TextEncoder(SMALL).fill(of_tensors(wrong, source), torch.float32)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("text") / "tokenizer")


def test_the_tokenizer_pads_ends_and_cuts(tokenizer_folder: Path) -> None:
    tokenize = WanTokenizer(tokenizer_folder, text_len=16)
    ids, mask = tokenize(["a red  kite", "红色的风筝 " * 30])
    assert ids.shape == mask.shape == (2, 16)
    real = ids[0][mask[0].bool()]
    assert real[-1] == 1  # </s> ends a prompt
    assert (ids[0][~mask[0].bool()] == 0).all()
    assert 2 not in real
    assert mask[1].all()
    assert torch.equal(tokenize(["a red kite"])[0], ids[:1])


def test_a_folder_without_tokenizer_is_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CorruptWeights, match="no tokenizer here"):
        WanTokenizer(tmp_path)


def test_an_embedding_is_found_under_its_weights_and_text_alone(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "text", "weights-1")
    rows = torch.randn(5, 8).bfloat16()
    assert cache.get("a red kite") is None
    cache.put("a red kite", rows)
    found = cache.get("a red kite")
    assert found is not None
    assert torch.equal(found, rows)
    assert cache.get("a red kit") is None
    assert TextCache(cache.folder, "weights-2").get("a red kite") is None
    assert [p.suffix for p in cache.folder.iterdir()] == [".safetensors"]


def test_a_damaged_embedding_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, "w")
    cache.put("x", torch.ones(2, 2))
    cache.path("x").write_bytes(b"half")
    assert cache.get("x") is None
    cache.put("x", torch.ones(2, 2))
    assert cache.get("x") is not None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, "w")
    for n, prompt in enumerate("abc"):
        cache.put(prompt, torch.ones(64, 64))
        os.utime(cache.path(prompt), (n, n))
    assert cache.get("a") is not None  # now the most recently used
    cache.max_bytes = 2 * cache.path("a").stat().st_size
    cache.put("a", torch.ones(64, 64))
    assert [cache.get(p) is not None for p in "abc"] == [True, False, True]


def test_a_folder_that_takes_nothing_costs_no_render(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = TextCache(blocked / "text", "w")
    cache.put("x", torch.ones(2, 2))
    assert cache.get("x") is None


def test_a_prompt_is_encoded_once_and_only_its_real_tokens(tokenizer_folder: Path, tmp_path: Path) -> None:
    encoder = text_encoder()
    seen: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        text = WanText(WanTokenizer(tokenizer_folder, 24), encoder, "cpu", TextCache(tmp_path / "kept", "w"))
        with torch.no_grad():
            first = text.encode(["a red kite", ""])
            again = WanText(text.tokenizer, encoder, "cpu", TextCache(tmp_path / "kept", "w")).encode(
                ["a  red kite"]
            )
            ids, mask = text.tokenizer(["a red kite"])
            padded = encoder.forward(ids, mask)
    finally:
        handle.remove()
    assert len(seen) == 2
    assert max(seen) < 24
    assert torch.equal(again[0], first[0])
    torch.testing.assert_close(first[:1], padded, rtol=1e-4, atol=1e-5)
    assert (first[1, 1:] == 0).all()  # no words: the end mark alone
