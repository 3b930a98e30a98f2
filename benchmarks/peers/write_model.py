"""A model directory of random bf16 weights, the same for every program that is compared.

usage: write_model.py small|wide DIR
The router's bias is drawn too, so that a program that left it out, or the limit to groups of experts, gives other logits.
"""
import itertools
import json
import os
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import DeepseekV3ForCausalLM

from shapes import VOCABULARY, transformers_config


def byte_tokenizer():
    """Every id has a token: the 256 bytes, then pairs of them. deeptitan asks a model directory for a tokenizer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = itertools.islice(itertools.product(letters, letters), VOCABULARY - len(letters))
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(letters + [a + b for a, b in pairs])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main(shape, directory):
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(transformers_config(shape))
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            torch.nn.init.normal_(layer.mlp.gate.e_score_correction_bias, std=0.02)
    model.to(torch.bfloat16).save_pretrained(directory)
    byte_tokenizer().save(os.path.join(directory, "tokenizer.json"))
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast"}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
