"""The cases: small shapes that together cover every option that changes a number."""

# Fields of every case; each changes some of them. Sizes are ragged against 4, 8, 16 and 32 in places, but even: bf16
# products contract over pairs.
BASE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, q_lora_rank=None, kv_lora_rank=16,
    qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, attention_bias=False, n_routed_experts=8, n_shared_experts=1,
    num_experts_per_tok=2, n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0,
    first_k_dense_replace=1, rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0),
)


def yarn(factor, original, **rest):
    return dict(rope_type="yarn", rope_theta=10000.0, factor=factor, original_max_position_embeddings=original,
                beta_fast=32.0, beta_slow=1.0, **rest)


# name: architecture, form of config.json ("transformers" 5 or "hub"), fields, and what is not a field of transformers.
CASES = {
    "v2_greedy": ("v2", "transformers", dict(topk_method="greedy", n_shared_experts=2), {}),
    "v2_lite": ("v2", "hub", dict(
        topk_method="greedy", hidden_size=40, vocab_size=98, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=20,
        num_experts_per_tok=3, rope_parameters=yarn(40.0, 64, mscale=0.707, mscale_all_dim=0.707)), {}),
    "v2_grouped": ("v2", "hub", dict(
        topk_method="group_limited_greedy", n_routed_experts=16, moe_intermediate_size=6, n_group=8, topk_group=3,
        num_experts_per_tok=4, q_lora_rank=20, routed_scaling_factor=16.0, rms_norm_eps=1e-5,
        rope_parameters=yarn(4.0, 128, mscale=0.707, mscale_all_dim=0.707)), dict(balance_weight=0.05)),
    "v2_normalised_linear": ("v2", "transformers", dict(
        topk_method="group_limited_greedy", norm_topk_prob=True, routed_scaling_factor=2.5, first_k_dense_replace=0,
        num_hidden_layers=1, tie_word_embeddings=True, attention_bias=True, n_group=2, topk_group=1,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)), {}),
    "v2_dynamic": ("v2", "hub", dict(
        topk_method="greedy", norm_topk_prob=True, first_k_dense_replace=0, num_hidden_layers=3, q_lora_rank=24,
        hidden_size=36, moe_intermediate_size=10, max_position_embeddings=64,
        rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)), dict(moe_layer_freq=2)),
    "v3_grouped": ("v3", "hub", dict(
        n_routed_experts=16, moe_intermediate_size=6, n_group=8, topk_group=4, num_experts_per_tok=4, q_lora_rank=24,
        norm_topk_prob=True, routed_scaling_factor=2.5, first_k_dense_replace=3, num_hidden_layers=4,
        intermediate_size=34, rope_parameters=yarn(40.0, 64, mscale=1.0, mscale_all_dim=1.0)), {}),
    "v3_one_group": ("v3", "transformers", dict(
        hidden_size=48, num_attention_heads=3, num_key_value_heads=3, qk_nope_head_dim=10, qk_rope_head_dim=6,
        v_head_dim=12, kv_lora_rank=18, first_k_dense_replace=0, num_hidden_layers=1, moe_intermediate_size=10,
        rms_norm_eps=1e-5), {}),
    "v3_tied_with_biases": ("v3", "transformers", dict(
        q_lora_rank=18, tie_word_embeddings=True, attention_bias=True, norm_topk_prob=True, routed_scaling_factor=16.0,
        num_experts_per_tok=3, n_group=2, topk_group=1, vocab_size=102,
        rope_parameters=yarn(8.0, 32, mscale=0.707)), {}),
    "v3_one_expert": ("v3", "hub", dict(
        num_experts_per_tok=1, norm_topk_prob=True, routed_scaling_factor=2.5, n_group=4, topk_group=2,
        num_hidden_layers=2, qk_rope_head_dim=4), {}),
    "v3_halves": ("v3", "transformers", dict(
        q_lora_rank=20, attention_bias=True, norm_topk_prob=True, routed_scaling_factor=2.5, n_group=2, topk_group=1,
        qk_rope_head_dim=12, first_k_dense_replace=0, num_hidden_layers=1, moe_intermediate_size=10, rope_interleave=False,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0, mscale_all_dim=0.707)), {}),
    "v3_next_token_prediction": ("v3", "hub", dict(
        q_lora_rank=20, norm_topk_prob=True, routed_scaling_factor=2.5, n_group=2, topk_group=1,
        num_hidden_layers=1, first_k_dense_replace=0, moe_intermediate_size=10, num_nextn_predict_layers=1),
        dict(mtp=True, balance_weight=0.05)),
    # Published models of the same graph, small: Moonlight-16B-A3B, Kimi-K2 and GigaChat3-10B-A1.8B.
    "v3_moonlight": ("v3", "hub", dict(
        n_shared_experts=2, num_experts_per_tok=3, norm_topk_prob=True, routed_scaling_factor=2.446, rms_norm_eps=1e-5,
        num_attention_heads=3, num_key_value_heads=3, hidden_size=36,
        rope_parameters=dict(rope_type="default", rope_theta=50000.0)), {}),
    "v3_kimi_k2": ("v3", "hub", dict(
        n_routed_experts=12, num_experts_per_tok=4, moe_intermediate_size=6, q_lora_rank=20, norm_topk_prob=True,
        routed_scaling_factor=2.827,
        rope_parameters=yarn(32.0, 64, mscale=1.0, mscale_all_dim=1.0) | dict(rope_theta=50000.0, beta_fast=1.0)),
        dict(model_type="kimi_k2")),
    "v3_gigachat3": ("v3", "hub", dict(
        num_experts_per_tok=4, norm_topk_prob=True, v_head_dim=12, num_attention_heads=4, num_key_value_heads=4,
        hidden_size=24, num_nextn_predict_layers=1,
        rope_parameters=yarn(64.0, 64, mscale=1.0, mscale_all_dim=1.0) | dict(rope_theta=100000.0)), dict(mtp=True)),
}
