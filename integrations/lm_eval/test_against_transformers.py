"""Holds deeptitan_lm against the harness's own hf model. usage: test_against_transformers.py DEEPTITAN

Two random checkpoints (a V2 and a V3 of a few layers), a tokenizer that deeptitan learns, and local tasks of the three kinds:
multiple choice, rolling log-likelihood, generation until a string. Log-probabilities must agree to 1e-4 a token's worth of
rounding, generated texts exactly. Needs requirements.txt; run by hand, as it needs Python and torch.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from deeptitan_lm import DeeptitanLM  # noqa: E402

WORDS = "the king saw a river and his servant heard bread water people mountain lion prophet feared praised".split()


def sentence(seed, words):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def make_model(folder, program, kind):
    text = folder / "text.txt"
    text.write_text("\n".join(sentence(i, 12) + "." for i in range(2000)))
    subprocess.run([program, "tokenizer", "train", "--text", text, "--out", folder, "--vocab-size", "400"], check=True)
    # As many as the tokenizer has: deeptitan never chooses a token that has no text.
    entries = len(transformers.AutoTokenizer.from_pretrained(folder))
    shape = dict(vocab_size=entries, hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=3,
                 num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2,
                 n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=32, qk_rope_head_dim=16,
                 qk_nope_head_dim=16, v_head_dim=16, max_position_embeddings=256, initializer_range=0.2, bos_token_id=0,
                 eos_token_id=1, rope_scaling=None)
    torch.manual_seed(7)
    if kind == "v3":
        config = transformers.DeepseekV3Config(**shape)
        model = transformers.DeepseekV3ForCausalLM(config)
    else:
        config = transformers.DeepseekV2Config(**shape, topk_method="greedy", norm_topk_prob=False)
        model = transformers.DeepseekV2ForCausalLM(config)
    model.float().save_pretrained(folder)


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def compare(folder, program):
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, max_length=128)
    ours = DeeptitanLM(model=folder, program=program, dtype="fp32", max_length=128)
    choices = []
    for i in range(20):
        context = sentence(i, 9) + ("\n" if i % 3 == 0 else " " if i % 3 == 1 else "")
        choices += [(context, (" " if i % 3 == 2 else "") + sentence(100 * i + j, 3)) for j in range(4)]
    choices += [("", "the king"), ("a " * 150, "lion")]
    pairs = zip(theirs.loglikelihood(requests("loglikelihood", choices)), ours.loglikelihood(requests("loglikelihood", choices)))
    worst = max(abs(a[0] - b[0]) for a, b in pairs)
    greedy = [x[1] for x in theirs.loglikelihood(requests("loglikelihood", choices))]
    assert greedy == [x[1] for x in ours.loglikelihood(requests("loglikelihood", choices))]
    texts = [(sentence(i, 20 * (i + 1)),) for i in range(6)]
    rolling = list(zip(theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts)),
                       ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts))))
    worst_rolling = max(abs(a - b) / len(t[0].split()) for (a, b), t in zip(rolling, texts))
    prompts = [(sentence(i, 6), {"until": [".", "\n\n"], "max_gen_toks": 24, "do_sample": False}) for i in range(8)]
    made = theirs.generate_until(requests("generate_until", prompts)), ours.generate_until(requests("generate_until", prompts))
    ours.close()
    print(json.dumps({"model": folder.name, "worst_logprob": worst, "worst_rolling_a_word": worst_rolling,
                      "same_texts": made[0] == made[1], "texts": len(prompts)}))
    assert worst < 1e-4 and worst_rolling < 1e-4
    assert made[0] == made[1], made


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as root:
        for kind in ("v2", "v3"):
            folder = pathlib.Path(root) / kind
            folder.mkdir()
            make_model(folder, program, kind)
            compare(folder, program)


if __name__ == "__main__":
    main()
