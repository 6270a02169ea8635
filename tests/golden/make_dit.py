"""Makes dit_*_head.safetensors: the golden DiTs with a head that is not zero, run by diffusers.

In dit_t2v and dit_i2v head.head.weight is zero, as at the start of training, so that their velocity is the
head's bias and says nothing of the blocks. Here the same weights get a random head and the velocity comes
from diffusers' WanTransformer3DModel (Apache-2.0) in float32 on a CPU.
`python tests/golden/make_dit.py` (diffusers 0.42)
"""

import re
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
NAMES = (
    (r"time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"time_projection\.1", "condition_embedder.time_proj"),
    (r"^head\.modulation", "scale_shift_table"),
    (r"^head\.head", "proj_out"),
    (r"\.modulation", ".scale_shift_table"),
    (r"ffn\.0", "ffn.net.0.proj"),
    (r"ffn\.2", "ffn.net.2"),
    (r"norm3", "norm2"),
    (r"self_attn", "attn1"),
    (r"cross_attn", "attn2"),
    (r"(attn\d)\.([qkv])\.", r"\1.to_\2."),
    (r"(attn\d)\.o\.", r"\1.to_out.0."),
)


def diffusers_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def make(name: str) -> None:
    source = FOLDER / f"{name}.safetensors"
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        meta = dict(file.metadata())
    head = tensors["state_dict.head.head.weight"]
    generator = torch.Generator().manual_seed(0)
    tensors["state_dict.head.head.weight"] = torch.randn(head.shape, generator=generator) / head.shape[1] ** 0.5
    model = WanTransformer3DModel(
        num_attention_heads=int(meta["num_heads"]),
        attention_head_dim=int(meta["dim"]) // int(meta["num_heads"]),
        in_channels=int(meta["in_dim"]),
        out_channels=16,
        text_dim=int(meta["text_dim"]),
        ffn_dim=int(meta["ffn_dim"]),
        num_layers=int(meta["num_layers"]),
    )
    state = {
        diffusers_name(k.removeprefix("state_dict.")): v for k, v in tensors.items() if k.startswith("state_dict.")
    }
    state["patch_embedding.weight"] = state["patch_embedding.weight"].unflatten(1, (-1, 1, 2, 2))
    model.load_state_dict(state)
    latent = tensors["input.latent"]
    if "input.conditioning" in tensors:
        latent = torch.cat([latent, tensors["input.conditioning"]], dim=1)
    with torch.no_grad():
        velocity = model(latent, tensors["input.timestep"], tensors["input.text_embedding"], return_dict=False)[0]
    tensors["output.velocity"] = velocity.contiguous()
    save_file(tensors, FOLDER / f"{name}_head.safetensors", {**meta, "made_by": "diffusers WanTransformer3DModel"})


if __name__ == "__main__":
    for golden in ("dit_t2v", "dit_i2v"):
        make(golden)
