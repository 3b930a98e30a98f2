"""Makes tests/golden/model/<case>/: a checkpoint and what the reference computes with it.

    OMP_NUM_THREADS=1 python tests/golden/model/make.py [CASE ...]

Made with torch 2.15.0, transformers 5.23.0 (the last three cases: 5.24.0) and safetensors on the CPU; seeds from 20260101 on. Each case is a Hugging Face
directory (config.json, model.safetensors with bf16 weights and fp32 router biases) and expected.safetensors:

    tokens              i32 [257]
    logits/1, logits/7  f32 [length, vocab]        of the first tokens alone
    rows                i32 [R]
    logits/257          f32 [R, vocab]             those rows of the logits of all tokens
    loss, mtp_loss      f32 [1]                    nats a token
    weights             f32 [2]                    of the next-token-prediction loss and of the balance loss
    routes/LAYER        i32 [257, K]               the chosen experts
    gradients/NAME      f32                        of loss + weight * mtp_loss + weight * balance, 257 tokens
    bf16/NAME           f32 [1]                    ||a - b|| / ||b|| of the reference in bf16 (experts replayed) against
                                                   itself in fp32; NAME is "logits" or "gradients/..."
"""

import itertools
import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

from cases import BASE, CASES
from reference import Reference

SEED = 20260101
# No expert is chosen over another by less than this, which fp32 in another order could turn around: else the next seed.
CLOSEST_CHOICE = 2e-5
LENGTHS = (1, 7, 257)
ROWS = [0, 1, 31, 32, 100, 255, 256]
MTP_WEIGHT = 0.3
HERE = pathlib.Path(__file__).resolve().parent


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def hub_config(reference, architecture, extra):
    """config.json in the form of the files beside DeepSeek's weights: rope_theta and rope_scaling, transformers 4."""
    config = reference.config
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    rope.pop("type", None)
    fields = {name: getattr(config, name) for name in BASE if name not in ("rope_parameters", "norm_topk_prob")}
    v3 = architecture == "v3"
    fields |= dict(
        architectures=[type(reference.main).__name__], model_type=extra.get("model_type", config.model_type), hidden_act="silu",
        initializer_range=0.02, norm_topk_prob=config.norm_topk_prob, moe_layer_freq=extra.get("moe_layer_freq", 1),
        topk_method="noaux_tc" if v3 else config.topk_method, scoring_func="sigmoid" if v3 else "softmax", seq_aux=True,
        aux_loss_alpha=0.001, ep_size=1, pretraining_tp=1, attention_dropout=0.0, use_cache=True,
        rope_theta=int(theta), rope_scaling=None if kind == "default" else {"type": kind} | rope, torch_dtype="bfloat16")
    if v3:
        fields["num_nextn_predict_layers"] = config.num_nextn_predict_layers if extra.get("mtp") else 0
    return fields


def write_checkpoint(folder, reference, architecture, form, extra):
    with tempfile.TemporaryDirectory() as temporary:
        reference.main.save_pretrained(temporary)
        tensors = load_file(f"{temporary}/model.safetensors")
        text = pathlib.Path(temporary, "config.json").read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"')
    if reference.mtp is not None:
        layer = f"model.layers.{reference.config.num_hidden_layers}."
        state = {f"mtp.{name}": tensor for name, tensor in reference.mtp.state_dict().items()}
        for name, tensor in reference.checkpoint_tensors(state).items():
            if "{}" in name:
                tensors |= {name.format(e): tensor[e].contiguous() for e in range(len(tensor))}
            else:
                tensors[name] = tensor
        # The released weights repeat the embedding and the head in the module.
        tensors[layer + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[layer + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    tensors = {n: t if n.endswith("e_score_correction_bias") else t.bfloat16() for n, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if form == "hub":
        text = json.dumps(hub_config(reference, architecture, extra), indent=2)
    (folder / "config.json").write_text(text.rstrip() + "\n")


def run(reference, tokens, balance_weight):
    """Logits and gradients of one forward and backward over all tokens."""
    reference.zero_grad()
    total, parts = reference.loss(tokens, MTP_WEIGHT, balance_weight)
    total.backward()
    gradients = {n: p.grad for n, p in reference.named_parameters()}
    with torch.no_grad():
        logits = reference.logits(tokens)[ROWS].float()
    return logits, reference.checkpoint_tensors(gradients), parts


def make(name):
    architecture, form, changes, extra = CASES[name]
    fields = BASE | changes
    if architecture == "v3" and not extra.get("mtp"):
        fields["num_nextn_predict_layers"] = 0
    balance_weight = extra.get("balance_weight", 0.0)
    for seed in itertools.count(SEED):
        generator = torch.Generator().manual_seed(seed)
        reference = Reference(architecture, fields, extra)
        reference.randomise(generator)
        tokens = torch.randint(fields["vocab_size"], (LENGTHS[-1],), generator=generator)
        with torch.no_grad():
            reference.loss(tokens, MTP_WEIGHT, balance_weight)
        margin = min(router.margin for router in reference.routers())
        if margin > CLOSEST_CHOICE:
            break
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_checkpoint(folder, reference, architecture, form, extra)

    expected = {"tokens": tokens.int(), "rows": torch.tensor(ROWS, dtype=torch.int32),
                "weights": torch.tensor([MTP_WEIGHT, balance_weight])}
    with torch.no_grad():
        for length in LENGTHS[:-1]:
            expected[f"logits/{length}"] = reference.logits(tokens[:length]).clone()
    logits, gradients, parts = run(reference, tokens, balance_weight)
    expected[f"logits/{LENGTHS[-1]}"] = logits
    expected |= {n: value.detach().reshape(1) for n, value in parts.items()}
    expected |= {f"gradients/{n}": g.clone() for n, g in gradients.items()}
    routes = [router.index for router in reference.routers()]
    for layer, index in zip(reference.router_layers(), routes):
        expected[f"routes/{layer}"] = index.int()

    own = Reference(architecture, fields, extra, patched=False)
    own.load_state_dict(reference.state_dict())
    with torch.no_grad():
        departure = distance(own.logits(tokens)[ROWS], logits)

    rounded = Reference(architecture, fields, extra)
    rounded.load_state_dict(reference.state_dict())
    for router, index in zip(rounded.routers(), routes):
        router.replay = index
    rounded_logits, rounded_gradients, _ = run(rounded.to_bfloat16(), tokens, balance_weight)
    expected["bf16/logits"] = torch.tensor([distance(rounded_logits, logits)])
    for n, g in rounded_gradients.items():
        expected[f"bf16/gradients/{n}"] = torch.tensor([distance(g, gradients[n])])

    metadata = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "seed": str(seed)}
    save_file({n: t.contiguous() for n, t in expected.items()}, folder / "expected.safetensors", metadata=metadata)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size / 1e3:.0f} kB, loss {parts['loss'].item():.4f}, closest choice {margin:.1e}, "
          f"transformers unchanged {departure:.1e}, bf16 logits {expected['bf16/logits'].item():.1e}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for case in sys.argv[1:] or CASES:
        make(case)
