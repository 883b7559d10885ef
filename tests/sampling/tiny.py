"""Small pipelines of every family, with random weights, made of configurations alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from diffusers_ext.nano.autoencoder import build_autoencoder
from diffusers_ext.nano.generator import build_pipeline, build_silent_t5, build_tokenizer

FRAMES = 9


def clip(kind: Any = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(build_tokenizer()),
            hidden_size=32,
            intermediate_size=37,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=14,
        )
    )


def t5(kind: Any = T5EncoderModel, config: Any = T5Config) -> Any:
    return kind(config(vocab_size=8, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def autoencoder(channels: int = 4, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[4, 8],
        norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        **options,
    )


def unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        attention_head_dim=2,
        **options,
    )


def stable_diffusion() -> Any:
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=build_tokenizer(),
        unet=unet(cross_attention_dim=32),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    return StableDiffusionXLPipeline(
        vae=autoencoder(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.0, 1.2], scaling_factor=0.13),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def stable_diffusion_3() -> Any:
    return build_pipeline(build_autoencoder())


def flux() -> Any:
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(1, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(),
        tokenizer=build_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=build_silent_t5()[1],
        transformer=FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        ),
    )


def sana() -> Any:
    return SanaPipeline(
        tokenizer=build_silent_t5()[1],
        text_encoder=Gemma2Model(
            Gemma2Config(
                head_dim=16,
                hidden_size=8,
                intermediate_size=64,
                num_attention_heads=2,
                num_hidden_layers=1,
                num_key_value_heads=2,
                vocab_size=8,
            )
        ),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        ),
        transformer=SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        ),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, solver_order=1
        ),
    )


def pixart_sigma() -> Any:
    return PixArtSigmaPipeline(
        tokenizer=build_silent_t5()[1],
        text_encoder=t5(),
        vae=autoencoder(),
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
        ),
        scheduler=DPMSolverMultistepScheduler(solver_order=1),
    )


def qwen_image() -> Any:
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 2048
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.1, 0.9, 1.0, 1.2],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )


def wan(kind: Any = WanPipeline, channels: int = 16, denoiser: Any = None, **options: Any) -> Any:
    return kind(
        tokenizer=build_silent_t5()[1],
        text_encoder=t5(UMT5EncoderModel, UMT5Config),
        vae=AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
            flow_shift=3.0,
            solver_order=1,
            disable_corrector=list(range(9)),
        ),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=16,
            text_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
            **(denoiser or {}),
        ),
        **options,
    )


def wan_image_to_video(channels: int = 36, **options: Any) -> Any:
    # Without ftfy, an optional dependency, this one pipeline of diffusers cannot clean its prompts.
    vars(pipeline_wan_i2v).setdefault("ftfy", SimpleNamespace(fix_text=str))
    return wan(WanImageToVideoPipeline, channels, **{"image_encoder": None, "image_processor": None, **options})


def wan_that_sees() -> Any:
    """As Wan 2.1 does, whose denoiser attends to what CLIP makes of the first frame, too."""
    return wan_image_to_video(
        image_encoder=CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            )
        ),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        denoiser={"image_dim": 16, "added_kv_proj_dim": 24},
    )


def wan_in_place() -> Any:
    """As Wan 2.2 5B does, whose latents hold the first frame itself."""
    return wan_image_to_video(16, expand_timesteps=True)


def ltx(kind: Any = LTXPipeline, timestep_conditioning: bool = False) -> Any:
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            patch_size=1,
            timestep_conditioning=timestep_conditioning,
        ),
        text_encoder=t5(),
        tokenizer=build_silent_t5()[1],
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ),
    )


def ltx_image_to_video() -> Any:
    return ltx(LTXImageToVideoPipeline, timestep_conditioning=True)


def picture() -> Image.Image:
    return Image.effect_noise((32, 32), 80).convert("RGB")


STILL = {"height": 32, "width": 32}
MOVING = {"height": 32, "width": 32, "num_frames": FRAMES, "max_sequence_length": 8}

PIPELINES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Stable Diffusion 1.5": (stable_diffusion, {"height": 16, "width": 24}),
    "Stable Diffusion XL": (stable_diffusion_xl, STILL),
    "Stable Diffusion 3": (stable_diffusion_3, {"height": 64, "width": 64, "max_sequence_length": 1}),
    "FLUX": (flux, {"height": 16, "width": 24, "max_sequence_length": 8}),
    "Sana": (sana, {**STILL, "use_resolution_binning": False, "max_sequence_length": 8}),
    "PixArt-Sigma": (pixart_sigma, {**STILL, "use_resolution_binning": False, "max_sequence_length": 8}),
    "Qwen-Image": (qwen_image, {**STILL, "negative_prompt": "bad", "true_cfg_scale": 2.0}),
    "Wan": (wan, MOVING),
    "Wan, image to video": (wan_image_to_video, MOVING),
    "LTX-Video": (ltx, MOVING),
    "LTX-Video, image to video": (ltx_image_to_video, MOVING),
}
"""How to make each, and how it is run here."""


MORE: dict[str, tuple[Any, dict[str, Any]]] = {
    "Wan 2.1, image to video": (wan_that_sees, MOVING),
    "Wan 2.2, image to video": (wan_in_place, MOVING),
}
"""Variants of one of these."""


def built(name: str) -> tuple[Any, dict[str, Any]]:
    make, options = (PIPELINES | MORE)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = make()
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    options = {**options, "num_inference_steps": 5}
    if "image to video" in name:
        options["image"] = picture()
    return pipeline, options
