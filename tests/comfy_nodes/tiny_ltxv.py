"""A node of the tests' own, which ComfyUI loads: an LTX-Video of random weights, and a prompt as it takes them."""

import json

import comfy.ops
import torch
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
from comfy.sd import load_state_dict_guess_config
from comfy_api.latest import ComfyExtension, io

TRANSFORMER = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "caption_channels": 16,
}
# Decoders have their blocks in the reverse order, and by the first of them ComfyUI knows an LTX-Video.
AUTOENCODER = {
    "dims": 3,
    "latent_channels": 128,
    "blocks": [["compress_all", 1], ["res_x", 1]],
    "patch_size": 4,
    "norm_layer": "pixel_norm",
}


def drawn(prefix: str, part: torch.nn.Module) -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in part.state_dict().items():
        if value.ndim > 1:
            weights[prefix + name] = torch.randn(value.shape) / value[0].numel() ** 0.5
        else:  # ones are for norms and for the deviations of latents
            ones = name.endswith(("norm.weight", "std-of-means"))
            weights[prefix + name] = torch.ones(value.shape) if ones else torch.zeros(value.shape)
    return weights


class TinyLTXV(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Model.Output(), io.Conditioning.Output(), io.Vae.Output()]
        return io.Schema(node_id="TinyLTXV", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        metadata = {"config": json.dumps({"transformer": TRANSFORMER, "vae": AUTOENCODER})}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights = {
                **drawn("model.diffusion_model.", LTXVModel(**TRANSFORMER, operations=comfy.ops.disable_weight_init)),
                **drawn("vae.", VideoVAE(config=AUTOENCODER)),
            }
            words = torch.randn(1, 4, TRANSFORMER["caption_channels"])
        model, _, vae, _ = load_state_dict_guess_config(weights, output_clip=False, metadata=metadata)
        return io.NodeOutput(model, [[words, {"attention_mask": torch.ones(1, 4, dtype=torch.long)}]], vae)


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyLTXV]


async def comfy_entrypoint() -> ComfyExtension:
    return Extension()
