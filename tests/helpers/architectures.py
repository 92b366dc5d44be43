"""Tiny random models of many architectures, as transformers defines them: text alone, and with towers."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.helpers.tiny import save_tokenizer

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 256,
}
NO_GROUPS = {key: size for key, size in SIZES.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR_ATTENTION = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MROPE = {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}}
GPT2_SIZES = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 256}

# by name: the class and what its config sets beside the defaults of the class
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SIZES),
    "llama_tied": ("LlamaForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", SIZES),
    "qwen2": ("Qwen2ForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**SIZES, "head_dim": 16}),
    "gemma": ("GemmaForCausalLM", {**SIZES, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**SIZES, "head_dim": 16}),
    "gemma3_text": ("Gemma3ForCausalLM", {**SIZES, "head_dim": 16}),
    "phi": ("PhiForCausalLM", NO_GROUPS),
    "phi3": ("Phi3ForCausalLM", {**SIZES, "pad_token_id": 0}),
    "gpt2": ("GPT2LMHeadModel", GPT2_SIZES),
    "gptj": ("GPTJForCausalLM", {**GPT2_SIZES, "rotary_dim": 8}),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 300,
            "max_position_embeddings": 256,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", NO_GROUPS),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT2_SIZES),
    "opt": ("OPTForCausalLM", {**NO_GROUPS, "ffn_dim": 96, "word_embed_proj_dim": 64}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300}),
    "falcon": (
        "FalconForCausalLM",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300},
    ),
    "mpt": ("MptForCausalLM", {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 300, "max_seq_len": 256}),
    "stablelm": ("StableLmForCausalLM", SIZES),
    "starcoder2": ("Starcoder2ForCausalLM", SIZES),
    "cohere": ("CohereForCausalLM", SIZES),
    "cohere2": ("Cohere2ForCausalLM", SIZES),
    "olmo2": ("Olmo2ForCausalLM", SIZES),
    "glm4": ("Glm4ForCausalLM", {**SIZES, "head_dim": 16, "pad_token_id": 0}),
    "exaone": ("exaone", SIZES),
    "smollm3": ("SmolLM3ForCausalLM", {**SIZES, "pad_token_id": 0}),
    "granite": ("GraniteForCausalLM", SIZES),
    "nemotron": ("NemotronForCausalLM", SIZES),
    "mixtral": ("MixtralForCausalLM", {**SIZES, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**SIZES, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**SIZES, **EXPERTS, "head_dim": 16}),
    "olmoe": ("OlmoeForCausalLM", {**SIZES, "num_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": ("PhimoeForCausalLM", {**SIZES, "num_local_experts": 4}),
    "granitemoe": ("GraniteMoeForCausalLM", {**SIZES, "num_local_experts": 4}),
    "gpt_oss": (
        "GptOssForCausalLM",
        {**SIZES, "intermediate_size": 64, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {**SIZES, **EXPERTS, **LINEAR_ATTENTION, "shared_expert_intermediate_size": 32},
    ),
    "hrm_text": ("HrmTextForCausalLM", SIZES),
    "lara_mini": ("lara_mini", SIZES),
    "lfm2": ("Lfm2ForCausalLM", {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "mamba": ("MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300, "state_size": 8}),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        {
            **SIZES,
            "head_dim": 16,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        {
            **SIZES,
            "head_dim": 16,
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": 300,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": None,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        {
            **NO_GROUPS,
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "hybrid_layer_ids": [1, 3],
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "n_mamba_heads": 8,
            "num_mem_blocks": 1,
            "adapter_rank": 8,
            "chunk_size": 8,
            "mamba_ngroups": 1,
        },
    ),
    "openai-gpt": ("OpenAIGPTLMHeadModel", GPT2_SIZES),
    "bart": (
        "BartForCausalLM",
        {
            "vocab_size": 300,
            "d_model": 64,
            "decoder_layers": 2,
            "decoder_ffn_dim": 96,
            "decoder_attention_heads": 4,
            "max_position_embeddings": 256,
        },
    ),
    "modernbert-decoder": (
        "ModernBertDecoderForCausalLM",
        {**NO_GROUPS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4},
    ),
}

IDS = {"image_token_id": 299, "video_token_id": 298, "vision_start_token_id": 297, "vision_end_token_id": 296}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 64,
}


def _text(model_type: str | None = None, **changes: Any) -> dict[str, Any]:
    return {**SIZES, **({"model_type": model_type} if model_type else {}), **changes}


TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _text(head_dim=16),
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": 299,
            "boi_token_index": 298,
            "eoi_token_index": 297,
        },
    ),
    "gemma4": (
        "Gemma4ForConditionalGeneration",
        {
            "text_config": _text(
                head_dim=16, global_head_dim=16, hidden_size_per_layer_input=0, vocab_size_per_layer_input=300
            ),
            "audio_config": None,
            "vision_config": VISION,
            "image_token_id": 299,
        },
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": _text(**MROPE),
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 64,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 8,
            },
            **IDS,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": _text(**MROPE), "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [1]}, **IDS},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": _text(head_dim=16, rope_scaling={"rope_type": "default", "mrope_section": [2, 3, 3]}),
            "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
            **IDS,
        },
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoeForConditionalGeneration",
        {
            "text_config": _text(
                head_dim=16, rope_scaling={"rope_type": "default", "mrope_section": [2, 3, 3]}, **EXPERTS
            ),
            "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
            **IDS,
        },
    ),
    "qwen3_5": (
        "Qwen3_5ForConditionalGeneration",
        {"text_config": _text(**LINEAR_ATTENTION), "vision_config": QWEN_VISION, **IDS},
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeForConditionalGeneration",
        {
            "text_config": _text(**LINEAR_ATTENTION, **EXPERTS, shared_expert_intermediate_size=32),
            "vision_config": QWEN_VISION,
            **IDS,
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": _text("llama"),
            "vision_config": {**VISION, "model_type": "clip_vision_model", "projection_dim": 32},
            "image_token_index": 299,
        },
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": _text("mistral"),
            "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 16},
            "image_token_index": 299,
        },
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {
            "text_config": _text("qwen2"),
            "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [8, 8]},
            "image_token_index": 299,
        },
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        {"text_config": _text("llama"), "vision_config": VISION, "image_token_id": 299},
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {"text_config": _text("llama"), "vision_config": VISION, "image_token_id": 299},
    ),
    "aya_vision": (
        "AyaVisionForConditionalGeneration",
        {
            "text_config": _text("cohere2"),
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            "image_token_index": 299,
        },
    ),
    "qwen2_audio": (
        "Qwen2AudioForConditionalGeneration",
        {
            "text_config": _text("qwen2"),
            "audio_config": {
                "d_model": 32,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 48,
                "model_type": "qwen2_audio_encoder",
            },
            "audio_token_index": 299,
        },
    ),
    "granite_speech": (
        "GraniteSpeechForConditionalGeneration",
        {
            "text_config": _text("granite"),
            "encoder_config": {
                "input_dim": 16,
                "num_layers": 2,
                "hidden_dim": 32,
                "feedforward_mult": 2,
                "num_heads": 2,
                "dim_head": 16,
                "output_dim": 20,
                "context_size": 8,
                "max_pos_emb": 16,
                "conv_kernel_size": 3,
            },
            "projector_config": {
                **VISION,
                "model_type": "blip_2_qformer",
                "encoder_hidden_size": 32,
                "vocab_size": 300,
            },
            "audio_token_index": 299,
            "has_lora_adapter": False,
        },
    ),
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": _text(
                cross_attention_layers=[0], pad_token_id=0, rope_scaling={"rope_type": "default"}, num_hidden_layers=3
            ),
            "vision_config": {
                **VISION,
                "attention_heads": 2,
                "num_global_layers": 1,
                "vision_output_dim": 64,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1]],
                "max_num_tiles": 1,
            },
            "image_token_index": 299,
        },
    ),
    "kosmos-2": (
        "Kosmos2ForConditionalGeneration",
        {
            "text_config": {"vocab_size": 300, "embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4},
            "vision_config": VISION,
            "latent_query_num": 4,
        },
    ),
}
ARCHITECTURES = {**TEXT, **TOWERS}
NEEDS_IMAGES = ("kosmos-2",)  # these do not run on text alone


def build(kind: str, seed: int = 0, std: float = 0.08) -> PreTrainedModel:
    """The model, float32, every parameter drawn from a normal distribution: none is zero or one."""
    name, settings = ARCHITECTURES[kind]
    model: PreTrainedModel
    if name in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        config = transformers.AutoConfig.for_model(name, **settings)
        model = transformers.AutoModelForCausalLM.from_config(config)
    else:
        model_class = getattr(transformers, name)
        model = model_class(model_class.config_class(**settings))
    model = model.float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def save_tiny(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny random checkpoint of this architecture, with a tokenizer of 262 tokens."""
    build(kind, seed).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
