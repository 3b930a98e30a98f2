"""The reference models: Hugging Face transformers, changed where it departs from DeepSeek's own published code.

DeepSeek's own: modeling_deepseek.py beside the weights of DeepSeek-V2, V2-Lite and V3 on the hub, and inference/model.py
of the DeepSeek-V3 repository. docs/adr/0010-deepseek-published-code-is-the-reference.md lists the departures.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3


def note_margin(router, values, chosen):
    """Keeps how close a choice has come to another: what rounding could turn around."""
    if chosen < values.shape[1]:
        best = values.topk(chosen + 1).values
        router.margin = min(getattr(router, "margin", math.inf), (best[:, -2] - best[:, -1]).min().item())


def route(router, hidden):
    """MoEGate.forward of DeepSeek's modeling_deepseek.py. Returns router logits, expert weights and expert indices.

    What transformers does otherwise: V2 ignores norm_topk_prob (DeepSeek divides by the sum and then leaves out
    routed_scaling_factor); V3 also normalises where one expert is chosen, which makes its weight constant.
    """
    sigmoid = hasattr(router, "e_score_correction_bias")
    config = router.config
    hidden = hidden.view(-1, hidden.shape[-1])
    logits = F.linear(hidden.float(), router.weight.float())
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    experts = scores.shape[1]
    if router.replay is not None:
        index = router.replay
    else:
        ranked = scores.detach() + (router.e_score_correction_bias if sigmoid else 0.0)
        if sigmoid or config.topk_method == "group_limited_greedy":
            groups = ranked.view(len(ranked), config.n_group, -1)
            best = groups.topk(2).values.sum(-1) if sigmoid else groups.amax(-1)
            note_margin(router, best, config.topk_group)
            kept = torch.zeros_like(best).scatter_(1, best.topk(config.topk_group).indices, 1.0)
            excluded = kept.repeat_interleave(experts // config.n_group, 1) == 0
            ranked = ranked.masked_fill(excluded, -math.inf)
        note_margin(router, ranked, config.num_experts_per_tok)
        index = ranked.topk(config.num_experts_per_tok).indices
    router.index = index
    weight = scores.gather(1, index)
    normalised = config.num_experts_per_tok > 1 and config.norm_topk_prob
    if normalised:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    if sigmoid or not normalised:
        weight = weight * config.routed_scaling_factor
    # Balance over a sequence: DeepSeek-V3 equations 17 to 20, DeepSeek-V2 equations 23 to 25 within one sequence.
    share = scores / (scores.sum(-1, keepdim=True) + 1e-20) if sigmoid else scores
    frequency = torch.bincount(index.flatten(), minlength=experts) * experts / index.numel()
    router.balance = (frequency * share.mean(0)).sum()
    return logits, weight, index


def rope_factor(rope):
    """What DeepSeek multiplies cos and sin by: transformers takes `mscale` into account only beside `mscale_all_dim`."""

    def mscale(m):
        return 0.1 * m * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    return mscale(rope.get("mscale", 1.0)) / mscale(rope.get("mscale_all_dim", 0.0))


class NextTokenPrediction(nn.Module):
    """DeepSeek-V3 section 2.2, laid out as the released weights: the normed embedding of the next token comes first, and
    the state is the main model's after its final norm."""

    def __init__(self, config):
        super().__init__()
        self.enorm = v3.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = v3.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = v3.DeepseekV3DecoderLayer(config, config.num_hidden_layers)
        self.shared_head_norm = v3.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, main, hidden, next_ids):
        """The states [1, T, D] whose logits are those of the token after the next."""
        embedded = main.model.embed_tokens(next_ids)
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1))
        length = x.shape[1]
        mask = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)[None, None]
        positions = torch.arange(length)[None]
        rotary = main.model.rotary_emb(x, positions)
        y = self.block(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        return self.shared_head_norm(y)


class Reference(nn.Module):
    """A model and, where the case has one, its next-token-prediction module."""

    def __init__(self, architecture, fields, extra, patched=True):
        super().__init__()
        config_class, model_class, self.mlp_class = {
            "v2": (DeepseekV2Config, DeepseekV2ForCausalLM, v2.DeepseekV2MLP),
            "v3": (DeepseekV3Config, DeepseekV3ForCausalLM, v3.DeepseekV3MLP),
        }[architecture]
        self.config = config_class(**fields)
        self.config._attn_implementation = "eager"
        self.config._experts_implementation = "eager"
        self.main = model_class(self.config)
        # transformers has no moe_layer_freq.
        for i, layer in enumerate(self.main.model.layers):
            if i % extra.get("moe_layer_freq", 1) != 0 and i >= self.config.first_k_dense_replace:
                layer.mlp = self.mlp_class(self.config)
        self.mtp = NextTokenPrediction(self.config) if extra.get("mtp") else None
        if not patched:
            return
        for router in self.routers():
            router.config, router.replay = self.config, None
            router.forward = functools.partial(route, router)
        rope = self.config.rope_parameters
        if rope["rope_type"] == "yarn":
            self.main.model.rotary_emb.attention_scaling = rope_factor(rope)

    def routers(self):
        blocks = list(self.main.model.layers) + ([self.mtp.block] if self.mtp is not None else [])
        return [block.mlp.gate for block in blocks if hasattr(block.mlp, "gate")]

    def router_layers(self):
        blocks = list(self.main.model.layers) + ([self.mtp.block] if self.mtp is not None else [])
        return [i for i, block in enumerate(blocks) if hasattr(block.mlp, "gate")]

    def randomise(self, generator):
        """Weights with which every part matters, exact in bf16 so that rounding them is no part of a comparison."""
        for name, p in list(self.named_parameters()) + list(self.named_buffers()):
            if "rotary_emb" in name:
                continue
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("e_score_correction_bias"):
                p.data.copy_(0.1 * noise)  # fp32 in every checkpoint
                continue
            if "norm" in name:
                value = 1 + 0.2 * noise
            elif name.endswith("bias"):
                value = 0.1 * noise
            elif "embed_tokens" in name:
                value = 0.7 * noise
            else:
                value = noise * (2.0 if name.endswith("gate.weight") else 0.9) / math.sqrt(p.shape[-1])
            p.data.copy_(value.bfloat16().float())

    def logits(self, tokens):
        return self.main(input_ids=tokens[None], use_cache=False).logits[0]

    def loss(self, tokens, mtp_weight, balance_weight):
        """Mean cross-entropy over the tokens that have a next one, plus the weighted others; the parts by name."""
        hidden = self.main.model(input_ids=tokens[None], use_cache=False).last_hidden_state
        logits = self.main.lm_head(hidden).float()[0, :-1]
        parts = {"loss": F.cross_entropy(logits, tokens[1:])}
        total = parts["loss"]
        if self.mtp is not None:
            next_ids = torch.cat([tokens[1:], torch.zeros(1, dtype=tokens.dtype)])[None]
            logits = self.main.lm_head(self.mtp(self.main, hidden, next_ids)).float()[0, :-2]
            # Both losses are sums over the same number of tokens, those that bear the main loss.
            parts["mtp_loss"] = F.cross_entropy(logits, tokens[2:], reduction="sum") / (len(tokens) - 1)
            total = total + mtp_weight * parts["mtp_loss"]
        if balance_weight > 0:
            total = total + balance_weight * sum(router.balance for router in self.routers())
        return total, parts

    def to_bfloat16(self):
        """Rounds everything but the rotary frequencies, as from_pretrained(dtype=bfloat16) does."""
        frequencies = self.main.model.rotary_emb.inv_freq.clone()
        self.to(torch.bfloat16)
        self.main.model.rotary_emb.inv_freq = frequencies
        return self

    def checkpoint_name(self, name):
        """deeptitan's and the hub's name of a parameter of this module."""
        layer = f"model.layers.{self.config.num_hidden_layers}."
        if name.startswith("main."):
            return name.removeprefix("main.")
        return layer + name.removeprefix("mtp.").removeprefix("block.").replace("shared_head_norm", "shared_head.norm")

    def checkpoint_tensors(self, tensors):
        """From {parameter name: tensor} to {checkpoint name: tensor}; experts stay stacked, as "experts.{}.up_proj"."""
        result = {}
        for name, tensor in tensors.items():
            name = self.checkpoint_name(name)
            if name.endswith("experts.gate_up_proj"):
                stem = name.removesuffix("gate_up_proj")
                gate, up = tensor.chunk(2, dim=1)
                result[stem + "{}.gate_proj.weight"] = gate.contiguous()
                result[stem + "{}.up_proj.weight"] = up.contiguous()
            elif name.endswith("experts.down_proj"):
                result[name.removesuffix("down_proj") + "{}.down_proj.weight"] = tensor
            else:
                result[name] = tensor
        return result
