"""llama.cpp's own converter, told that the model has no tokenizer: it knows tokenizers by a hash of what they make of a
test text and refuses every other. Speed and log-probabilities are measured on ids.

usage: convert_to_gguf.py DIR FILE.gguf bf16|f32
"""
import os
import runpy
import sys

CONVERTER = os.path.join(sys.prefix, "llama.cpp", "convert_hf_to_gguf.py")


def main(directory, gguf, outtype):
    sys.path.insert(0, os.path.dirname(CONVERTER))
    from conversion.base import TextModel
    from conversion.deepseek import DeepseekV2Model

    DeepseekV2Model.set_vocab = TextModel._set_vocab_none
    sys.argv = [CONVERTER, directory, "--outfile", gguf, "--outtype", outtype]
    runpy.run_path(CONVERTER, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
