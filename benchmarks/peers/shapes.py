"""The shapes that deeptitan and its peers are compared at: those of configs/bench_small.toml and configs/bench_wide.toml."""
from transformers import DeepseekV3Config

VOCABULARY = 4096
SHAPES = {
    "small": dict(hidden_size=256, intermediate_size=768, moe_intermediate_size=128, num_attention_heads=4,
                  num_key_value_heads=4, n_routed_experts=16, kv_lora_rank=64, q_lora_rank=128),
    "wide": dict(hidden_size=1024, intermediate_size=2816, moe_intermediate_size=512, num_attention_heads=16,
                 num_key_value_heads=16, n_routed_experts=32, kv_lora_rank=256, q_lora_rank=384),
}


def transformers_config(shape):
    # scoring_func is no field of transformers', which knows the sigmoid alone; llama.cpp's converter reads it.
    return DeepseekV3Config(vocab_size=VOCABULARY, max_position_embeddings=2048, num_hidden_layers=4, n_group=4,
                            topk_group=2, num_experts_per_tok=4, n_shared_experts=1, qk_rope_head_dim=32,
                            qk_nope_head_dim=64, v_head_dim=64, first_k_dense_replace=1, routed_scaling_factor=2.5,
                            norm_topk_prob=True, tie_word_embeddings=False, scoring_func="sigmoid", num_nextn_predict_layers=0,
                            bos_token_id=None, eos_token_id=None, **SHAPES[shape])
