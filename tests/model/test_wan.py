"""Shapes of every preset, the DiT's pieces, and a VAE that streams."""

import json
from pathlib import Path

import pytest
import torch

from model.wan.config import PRESETS, TransformerConfig, VAEConfig, preset
from model.wan.transformer import WanTransformer, patchify, rope_table, timestep_embedding, unpatchify
from model.wan.vae import WanVAE

LAYOUTS = json.loads((Path(__file__).parent.parent / "golden" / "checkpoint_layouts.json").read_text())
OFFICIAL = {
    "wan2.1-t2v-1.3b": "TurboWan2.1-T2V-1.3B-480P.pth",
    "wan2.1-t2v-14b": "TurboWan2.1-T2V-14B-720P.pth",
    "wan2.2-i2v-a14b": "TurboWan2.2-I2V-A14B-{high,low}-720P.pth",
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_preset_has_the_shapes_of_the_official_checkpoint(name: str) -> None:
    layout = LAYOUTS[OFFICIAL[name]]
    with torch.device("meta"):
        state = WanTransformer(preset(name).transformer).state_dict()
    ours = {
        k.replace("self_attn.proj_l", "self_attn.attn_op.local_attn.proj_l"): list(v.shape)
        for k, v in state.items()
        if not k.startswith("blocks.") or k.startswith("blocks.0.")
    }
    assert ours == {k: shape for k, (_, shape) in layout["tensors"].items()}
    assert len({k.split(".")[1] for k in state if k.startswith("blocks.")}) == layout["num_blocks"]


def test_the_vae_has_the_shapes_of_the_official_checkpoint() -> None:
    layout = LAYOUTS["Wan2.1_VAE.pth"]
    with torch.device("meta"):
        vae = WanVAE(VAEConfig())
    ours = {k: list(v.shape) for k, v in vae.named_parameters()}
    assert ours == {k: shape for k, (_, shape) in layout["tensors"].items()}


def test_presets_are_named_by_their_key_and_multiples_of_sixteen() -> None:
    for name, p in PRESETS.items():
        assert p.name == name
        assert p.size[0] % 16 == p.size[1] % 16 == 0
        assert p.frames % 4 == 1


def test_unpatchify_inverts_patchify_up_to_its_channel_order() -> None:
    latent = torch.randn(2, 16, 3, 4, 6)
    tokens = patchify(latent, (1, 2, 2))  # c kt kh kw
    head_order = tokens.unflatten(2, (16, 4)).transpose(2, 3).flatten(2)  # kt kh kw c
    assert torch.equal(unpatchify(head_order, (3, 2, 3), (1, 2, 2), 16), latent)


def test_rope_splits_the_head_as_the_paper_does() -> None:
    table = rope_table((2, 3, 4), 128, torch.device("cpu"))
    assert table.shape == (2, 24, 1, 64)
    cos = table[0, :, 0].view(2, 3, 4, 64)
    assert torch.equal(cos[0, 1, 2, :22], torch.ones(22))  # 44 channels of time stand still at t = 0
    assert torch.equal(cos[1, 0, 2, 22:43], torch.ones(21))  # 42 of height at h = 0
    assert torch.equal(cos[1, 2, 0, 43:], torch.ones(21))  # 42 of width at w = 0
    assert torch.isclose(cos[1, 0, 0, 0], torch.tensor(1.0).cos())


def test_timestep_embedding_is_cosine_first() -> None:
    row = timestep_embedding(torch.tensor([1000.0]), 256)[0]
    assert torch.isclose(row[0], torch.tensor(1000.0, dtype=torch.float64).cos().float())
    assert torch.isclose(row[128], torch.tensor(1000.0, dtype=torch.float64).sin().float())


def test_sparse_attention_without_its_projection_is_refused() -> None:
    config = TransformerConfig(dim=64, ffn_dim=64, heads=2, layers=1, text_dim=16, text_len=4)
    with pytest.raises(ValueError, match="sla=True"):
        WanTransformer(config, topk=0.1)


def test_sparse_attention_over_all_blocks_differs_from_dense_by_its_linear_branch_alone() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(dim=64, ffn_dim=64, heads=2, layers=2, text_dim=16, text_len=4, sla=True)
    sparse, dense = WanTransformer(config, topk=1.0), WanTransformer(config)
    for block in sparse.blocks:
        torch.nn.init.zeros_(block.self_attn.proj_l.weight)
        torch.nn.init.zeros_(block.self_attn.proj_l.bias)
    dense.load_state_dict(sparse.state_dict())
    x, t, text = torch.randn(1, 16, 3, 16, 16), torch.tensor([500.0]), torch.randn(1, 4, 16)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x, t, text), dense(x, t, text), rtol=1e-4, atol=1e-5)
        torch.nn.init.normal_(sparse.blocks[0].self_attn.proj_l.weight)
        assert not torch.allclose(sparse(x, t, text), dense(x, t, text), atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_any_chunk_length_decodes_to_the_same_frames(chunk: int) -> None:
    torch.manual_seed(0)
    vae = WanVAE(VAEConfig(dim=8, res_blocks=1)).eval()
    latent = torch.randn(1, 16, 5, 4, 6)
    with torch.no_grad():
        whole = vae.decode(latent).clamp(-1, 1)
        chunks = list(vae.stream(latent, chunk))
    assert chunks[0].shape[2] == 4 * chunk - 3
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, rtol=1e-4, atol=1e-5)


def test_a_long_clip_encodes_in_chunks_to_the_same_latent() -> None:
    torch.manual_seed(0)
    vae = WanVAE(VAEConfig(dim=8, res_blocks=1)).eval()
    video = torch.rand(1, 3, 37, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = vae.conv1(vae.encoder(video, {}), {}).chunk(2, dim=1)[0]
        expected = (whole - vae.mean) / vae.std
        torch.testing.assert_close(vae.encode(video), expected, rtol=1e-4, atol=1e-5)
