"""Training speed of PyTorch with Hugging Face transformers on the shapes of bench_small.toml and bench_wide.toml.

usage: train_transformers.py small|wide fp32|bf16 STEPS
Prints one JSON object: median tokens a second over STEPS steps of 8 x 256 random tokens with AdamW (fused), grouped
experts (transformers' "grouped_mm"), bf16 through autocast.
"""
import json
import sys
import time

import torch
import transformers
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

SHAPES = {
    "small": dict(hidden_size=256, intermediate_size=768, moe_intermediate_size=128, num_attention_heads=4,
                  num_key_value_heads=4, n_routed_experts=16, kv_lora_rank=64, q_lora_rank=128),
    "wide": dict(hidden_size=1024, intermediate_size=2816, moe_intermediate_size=512, num_attention_heads=16,
                 num_key_value_heads=16, n_routed_experts=32, kv_lora_rank=256, q_lora_rank=384),
}
SEQUENCES, LENGTH, VOCABULARY = 8, 256, 4096

shape, dtype, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
config = DeepseekV3Config(vocab_size=VOCABULARY, max_position_embeddings=512, num_hidden_layers=4, n_group=4, topk_group=2,
                          num_experts_per_tok=4, n_shared_experts=1, qk_rope_head_dim=32, qk_nope_head_dim=64,
                          v_head_dim=64, first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True,
                          tie_word_embeddings=False, **SHAPES[shape])
config._experts_implementation = "grouped_mm"
model = DeepseekV3ForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
seconds = []
for step in range(steps + 2):
    tokens = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH + 1))
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if step >= 2:
        seconds.append(time.perf_counter() - start)
median = sorted(seconds)[len(seconds) // 2]
print(json.dumps({"bench": "train", "peer": f"torch {torch.__version__}, transformers {transformers.__version__}",
                  "shape": shape, "dtype": dtype, "tokens_per_second": SEQUENCES * LENGTH / median,
                  "step_seconds_min": min(seconds), "step_seconds_max": max(seconds)}))
