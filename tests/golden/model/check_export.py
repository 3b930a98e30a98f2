"""Loads directories that deeptitan wrote into transformers, unchanged, and compares logits with what they were made from.

    python tests/golden/model/check_export.py CASE=DIRECTORY ...

DIRECTORY is what save_model wrote of tests/golden/model/CASE: model_test leaves CASE/f32 and CASE/bf16 in the folder that
DEEPTITAN_EXPORT_DIR names. Last run with transformers 5.23.0 and torch 2.15.0 on all cases but v2_dynamic (transformers has
no moe_layer_freq), f32 and bf16: the same bits as from the directory that transformers itself wrote, nothing missing, and
nothing left unread but the next-token-prediction module. With transformers 4.57.6: the same where the original's config.json
is of the hub's form; 4 does not read the rope_parameters of the others.
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent


def logits(directory, tokens):
    # transformers 4 runs experts one way only.
    experts = {} if transformers.__version__.startswith("4.") else dict(experts_implementation="eager")
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **experts)
    left = {kind: len(keys) for kind, keys in report.items() if keys}
    with torch.no_grad():
        return model(input_ids=tokens[None], use_cache=False).logits[0], left


if __name__ == "__main__":
    failed = False
    for argument in sys.argv[1:]:
        case, directory = argument.split("=")
        expected = load_file(HERE / case / "expected.safetensors")
        tokens = expected["tokens"].long()
        ours, left = logits(directory, tokens)
        theirs, _ = logits(HERE / case, tokens)
        reference = expected["logits/257"]
        error = ((ours[expected["rows"].long()] - reference).norm() / reference.norm()).item()
        same = torch.equal(ours, theirs)
        failed |= not same
        print(f"{case}: same bits as the original directory: {same}; {error:.1e} from DeepSeek's code; "
              f"not loaded or missing: {left or 'nothing'}")
    sys.exit(failed)
