"""Makes tests/golden/model/v2_dynamic/decoding.safetensors: what transformers gives with a cache where dynamic NTK changes
the rotary frequencies while text is generated.

    OMP_NUM_THREADS=1 python tests/golden/model/make_decoding.py

Made with torch 2.15.0 and transformers 5.24.0. The model and the tokens are those of the case, whose context ends at 64
tokens. transformers computes the frequencies anew for the longest position it has met, and leaves cached keys as they
were rotated when they were shorter.

    logits/60, logits/90   f32 [steps, vocab]  behind so many tokens at once, then behind each that follows
"""

import pathlib

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

from cases import BASE, CASES
from make import CLOSEST_CHOICE
from reference import Reference

FOLDER = pathlib.Path(__file__).resolve().parent / "v2_dynamic"
PREFILLED, LENGTH = (60, 90), 100


def decode(reference, tokens, pieces):
    """The logits behind the last token of each piece, which are run one after another over one cache."""
    rotary = reference.main.model.rotary_emb
    rotary.inv_freq, rotary.max_seq_len_cached = rotary.original_inv_freq, rotary.original_max_seq_len
    cache, rows, begin = DynamicCache(config=reference.config), [], 0
    with torch.no_grad():
        for size in pieces:
            output = reference.main(input_ids=tokens[None, begin:begin + size], past_key_values=cache, use_cache=True)
            rows.append(output.logits[0, -1].float())
            begin += size
    return torch.stack(rows)


def main():
    architecture, _, changes, extra = CASES["v2_dynamic"]
    with safe_open(FOLDER / "expected.safetensors", "pt") as file:
        expected = {name: file.get_tensor(name) for name in ("tokens", "logits/7", "logits/257")}
        seed = int(file.metadata()["seed"])
    reference = Reference(architecture, BASE | changes, extra)
    reference.randomise(torch.Generator().manual_seed(seed))
    tokens = expected["tokens"].long()
    with torch.no_grad():
        assert torch.allclose(reference.logits(tokens[:7]), expected["logits/7"], atol=1e-5), "another model"
    for router in reference.routers():
        router.margin = float("inf")
    decoded = {f"logits/{n}": decode(reference, tokens, [n] + [1] * (LENGTH - n)).contiguous() for n in PREFILLED}
    margin = min(router.margin for router in reference.routers())
    assert margin > CLOSEST_CHOICE, f"a choice is as close as {margin}"
    with torch.no_grad():
        whole = reference.logits(tokens[:LENGTH])[-1]
    departure = ((decoded["logits/60"][-1] - whole).norm() / whole.norm()).item()
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "seed": str(seed)}
    save_file(decoded, FOLDER / "decoding.safetensors", metadata=versions)
    print(f"closest choice {margin:.1e}; {LENGTH} tokens decoded are {departure:.1e} from the same without a cache")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
