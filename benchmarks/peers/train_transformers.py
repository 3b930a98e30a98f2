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
from transformers import DeepseekV3ForCausalLM

from shapes import VOCABULARY, transformers_config

SEQUENCES, LENGTH = 8, 256

shape, dtype, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
config = transformers_config(shape)
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
