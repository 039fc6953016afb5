"""A small configuration of every family that was tried."""

from __future__ import annotations

from typing import Any

from pretrained_models import EXPERTS, IDS, TEXT, TOWER

_IMAGE, _VIDEO = IDS["<|image_pad|>"], IDS["<|video_pad|>"]
_START, _END = IDS["<|vision_start|>"], IDS["<|vision_end|>"]

# Windows that every prompt here is longer than.
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_LINEAR = {
    **_MIXED,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 32,
}
_LOCAL = {"num_local_experts": 8}
_ROUTED = {"n_routed_experts": 8, "first_k_dense_replace": 1, "n_shared_experts": 1}
_GROUPS = {"n_group": 2, "topk_group": 1}
_LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
# Fewer keys than every prompt here has; heads so many that no score is zero by chance.
_INDEX = {"index_topk": 6, "index_head_dim": 32, "index_n_heads": 8}

TEXT_MODELS: dict[str, dict[str, Any]] = {
    "afmoe": {"num_dense_layers": 1, **_SLIDING},
    "axk2": {**_ROUTED, **_LATENT, **_GROUPS, **_INDEX},
    "bailing_hybrid": {
        **_ROUTED,
        **_LATENT,
        **_GROUPS,
        **_MIXED,
        "num_key_value_heads": 4,
        "mlp_layer_types": ["dense", "sparse"],
    },
    "cohere2_moe": _SLIDING,
    "deepseek_v2": {**_ROUTED, **_LATENT, "topk_method": "greedy"},
    "deepseek_v3": {**_ROUTED, **_LATENT, **_GROUPS},
    "deepseek_v32": {**_ROUTED, **_LATENT, **_GROUPS, **_INDEX},
    "dots1": {**_ROUTED, **_GROUPS, **_SLIDING},
    "ernie4_5_moe": {"moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone_moe": _SLIDING,
    "flex_olmo": {},
    "flint": {"mlp_only_layers": [0], "shared_expert_intermediate_size": 32, **_SLIDING},
    "gemma4_text": {
        **_SLIDING,
        "enable_moe_block": True,
        "top_k_experts": 2,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 16,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
    },
    "glm4_moe": {**_ROUTED, **_GROUPS},
    "glm4_moe_lite": {**_ROUTED, **_LATENT, **_GROUPS},
    "glm_moe_dsa": {**_ROUTED, **_LATENT, **_GROUPS, **_INDEX, "indexer_types": ["full", "shared"]},
    "gpt_oss": {**_LOCAL, **_SLIDING},
    "granitemoe": {**_LOCAL, "logits_scaling": 4.0},
    "granitemoe_swa": {**_LOCAL, **_SLIDING},
    "granitemoeshared": {**_LOCAL, "shared_intermediate_size": 32},
    "granitemoehybrid": {
        **_LOCAL,
        **_MIXED,
        "shared_intermediate_size": 32,
        "mamba_n_heads": 8,
        "mamba_n_groups": 2,
        "mamba_d_state": 8,
        "mamba_chunk_size": 4,
    },
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "hy_v4": {
        **_ROUTED,
        **_LATENT,
        **_GROUPS,
        **_INDEX,
        "mlp_layer_types": ["dense", "sparse"],
        "indexer_types": ["full", "shared"],
        "hc_mult": 2,
        "pad_token_id": 0,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "jetmoe": {},
    "kimi_linear": {
        **_LOCAL,
        **_LATENT,
        **_MIXED,
        "q_lora_rank": None,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
    },
    "kolibri1": {},
    "laguna": _SLIDING,
    "lara_mini": {},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "llama4_text": {
        **_LOCAL,
        "num_experts_per_tok": 1,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "attention_chunk_size": 6,
        "floor_scale": 4,
        "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 64,
    },
    "longcat_flash": {**_LATENT, **_ROUTED, "num_layers": 2, "zero_expert_num": 5},
    "mellum": _SLIDING,
    "mimo_v2_flash": {"n_routed_experts": 8, **_SLIDING},
    "minimax": {**_MIXED, "block_size": 4},
    "minimax_m2": _LOCAL,
    "mixtral": {**_LOCAL, "sliding_window": 6},
    "nemotron_h": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "moe", "full_attention", "mlp"],
        "n_routed_experts": 8,
        "moe_shared_expert_intermediate_size": 32,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
    "olmoe": {},
    "phimoe": _LOCAL,
    "qwen2_moe": {"shared_expert_intermediate_size": 32},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_moe": {},
    "qwen3_next": _LINEAR,
    "solar_open": {"n_routed_experts": 8},
}
"""By ``model_type``: what a configuration says beside ``TEXT`` and ``EXPERTS``."""

_TEXT = {**TEXT, **EXPERTS}
_MROPE = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [4, 2, 2],
        "partial_rotary_factor": 1.0,
    }
}
_TABLE = {"num_position_embeddings": 64}
_LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 4,
}
_MEDIA = {
    "image_token_id": _IMAGE,
    "video_token_id": _VIDEO,
    "vision_start_token_id": _START,
    "vision_end_token_id": _END,
}

VISION_MODELS: dict[str, dict[str, Any]] = {
    "aria": {
        "text_config": {
            **TEXT,
            "intermediate_size": 32,
            "moe_num_experts": 8,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
        },
        "vision_config": {**_LAYERS, "model_type": "idefics3_vision", "image_size": 16},
        "projector_patch_to_query_dict": {16: 4},
        "image_token_id": _IMAGE,
    },
    "deepseek_ocr2": {
        "text_config": {
            **_TEXT,
            **_ROUTED,
            "num_key_value_heads": 4,
            "mlp_layer_types": ["dense", "sparse"],
        },
        "vision_config": {
            "sam_config": {
                **_LAYERS,
                "patch_size": 16,
                "image_size": 64,
                "output_channels": 16,
                "downsample_channels": [16, 32],
                "window_size": 2,
                "global_attn_indexes": [1],
            },
            "encoder_config": {**_LAYERS, "num_key_value_heads": 2, "num_hidden_layers": 1},
        },
        "image_token_id": _IMAGE,
    },
    "ernie4_5_vl_moe": {
        "text_config": {
            **TEXT,
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": [32, 16],
            "mlp_layer_types": ["dense", "sparse"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [3, 3, 2],
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "patch_size": 4,
        },
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
        "image_start_token_id": _START,
        "image_end_token_id": _END,
        "video_start_token_id": 262,
        "video_end_token_id": 263,
    },
    "gemma4": {
        "text_config": {
            **_TEXT,
            **TEXT_MODELS["gemma4_text"],
            "pad_token_id": 0,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            **_LAYERS,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "pooling_kernel_size": 2,
            "position_embedding_size": 32,
            "standardize": True,
        },
        "audio_config": None,
        **_MEDIA,
    },
    "glm46v": {
        "text_config": {**_TEXT, **_ROUTED, **_GROUPS, **_MROPE, "model_type": "glm4v_moe_text"},
        "vision_config": {**TOWER, "image_size": 32, "model_type": "glm4v_moe_vision"},
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
        "image_start_token_id": _START,
        "image_end_token_id": _END,
        "video_start_token_id": 262,
        "video_end_token_id": 263,
    },
    "glm4v_moe": {
        "text_config": {**_TEXT, **_ROUTED, **_GROUPS, **_MROPE},
        "vision_config": {**TOWER, "image_size": 32},
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
        "image_start_token_id": _START,
        "image_end_token_id": _END,
        "video_start_token_id": 262,
        "video_end_token_id": 263,
    },
    "glm5_next": {
        "text_config": {
            **_TEXT,
            **_ROUTED,
            **_GROUPS,
            **_LATENT,
            **_INDEX,
            "qk_rope_head_dim": 0,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
            "indexer_types": ["full", "full", "shared"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "index_kpool": 2,
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 4,
        },
        "vision_config": {**TOWER, "image_size": 32, "projection_intermediate_size": 48},
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
        "image_start_token_id": _START,
        "image_end_token_id": _END,
        "video_start_token_id": 262,
        "video_end_token_id": 263,
    },
    "hy_v4_vl": {
        "text_config": {
            **_TEXT,
            **TEXT_MODELS["hy_v4"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
            },
        },
        "vision_config": {**_LAYERS, "max_image_size": 32, "out_hidden_size": 64},
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
    },
    "inkling_mm_model": {
        "text_config": {
            **_TEXT,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_hidden_layers": 3,
            "layer_types": ["hybrid", "hybrid_sliding", "hybrid"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 16,
            "sliding_window_size": 6,
            "d_rel": 8,
            "rel_extent": 10,
            "log_scaling_n_floor": 4,
            "logits_mup_width_multiplier": 2.0,
            "unpadded_vocab_size": 310,
        },
        "vision_config": {"patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3},
        "audio_config": {"n_mel_bins": 4, "mel_vocab_size": 8},
        "image_token_id": _IMAGE,
        "image_bos_token_id": _START,
        "audio_token_id": 264,
        "audio_bos_token_id": 265,
    },
    "internvl": {
        "text_config": {**_TEXT, "model_type": "qwen3_moe"},
        "vision_config": {**_LAYERS, "image_size": [16, 16], "patch_size": [4, 4]},
        "image_token_id": _IMAGE,
    },
    "kimi_k25": {
        "text_config": {**_TEXT, **_ROUTED, **_LATENT, **_GROUPS, "model_type": "deepseek_v3"},
        "vision_config": {**_LAYERS, "pos_emb_height": 8, "pos_emb_width": 8},
        "projection_hidden_size": 32,
        **_MEDIA,
    },
    "llama4": {
        "text_config": {**_TEXT, **TEXT_MODELS["llama4_text"]},
        "vision_config": {
            **_LAYERS,
            "image_size": 16,
            "num_attention_heads": 2,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "intermediate_size": 128,
        },
        "image_token_index": _IMAGE,
        "boi_token_index": _START,
        "eoi_token_index": _END,
    },
    "minimax_m3_vl": {
        "text_config": {
            **_TEXT,
            **_LOCAL,
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "dense_intermediate_size": 64,
            "shared_intermediate_size": 32,
        },
        "vision_config": {**_LAYERS, "hidden_size": 48, "image_size": 32},
        "projector_hidden_size": 32,
        "image_token_id": _IMAGE,
        "video_token_id": _VIDEO,
    },
    "mistral_large4": {
        "text_config": {
            **_TEXT,
            **_ROUTED,
            **_GROUPS,
            **_INDEX,
            "index_n_heads": 48,  # of 8 all are at zero for some keys, which are then alike
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
            "num_key_value_heads": 4,
            "num_hidden_layers": 5,
            "mlp_layer_types": ["dense", "sparse", "dense", "dense", "sparse"],
            # Keys with and without rotations, of a layer's own and of one before it.
            "no_rope_layers": [1, 0, 1, 0, 1],
            "kv_source_layers": [0, 1, 0, 1, 4],
            "indexer_types": ["full", "full", "full", "shared", "shared"],
        },
        "vision_config": {**_LAYERS, "model_type": "pixtral", "image_size": 32},
        "image_token_id": _IMAGE,
    },
    "qwen3_5_moe": {
        "text_config": {
            **_TEXT,
            **_MROPE,
            **_LINEAR,
        },
        "vision_config": {**TOWER, **_TABLE},
        **_MEDIA,
    },
    "qwen3_omni_moe_thinker": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {**TOWER, **_TABLE, "depth": 3, "deepstack_visual_indexes": [0, 1]},
        "audio_config": {
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "downsample_hidden_size": 16,
            "output_dim": 64,
        },
        "audio_token_id": 264,
        "audio_start_token_id": 265,
        "audio_end_token_id": 266,
        **_MEDIA,
    },
    "qwen3_vl_moe": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {**TOWER, **_TABLE, "depth": 3, "deepstack_visual_indexes": [0, 1]},
        **_MEDIA,
    },
    "step3p7": {
        "text_config": {
            **_TEXT,
            **_LOCAL,
            **_SLIDING,
            "n_routed_experts": 8,
            "num_sliding_attention_heads": 4,
            "share_expert_dim": 32,
            "pad_token_id": 0,
            "mlp_layer_types": ["dense", "sparse"],
            "swiglu_limits": [0.0, 1.5],
            "swiglu_limits_shared": [0.0, 1.5],
        },
        "vision_config": {**_LAYERS, "image_size": 32, "max_position_embeddings": 64},
        "image_token_id": _IMAGE,
    },
}
"""By ``model_type``: whole configurations."""

_SPEECH = {**TEXT, "vocab_size": 32, "num_key_value_heads": 2, "pad_token_id": 0}
VISION_MODELS["qwen3_omni_moe"] = {
    "thinker_config": VISION_MODELS["qwen3_omni_moe_thinker"],
    "talker_config": {
        "text_config": {**_SPEECH, **EXPERTS, **_MROPE, "shared_expert_intermediate_size": 32},
        "code_predictor_config": {**_SPEECH, "num_hidden_layers": 1, "num_code_groups": 4},
        "num_code_groups": 4,
        "thinker_hidden_size": 64,
        "accept_hidden_layer": 1,
        "spatial_merge_size": 2,
    },
    "code2wav_config": {
        "codebook_size": 32,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_quantizers": 4,
        "decoder_dim": 32,
    },
}
