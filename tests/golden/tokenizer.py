"""Makes the fixtures in tests/golden/tokenizer/: small tokenizers trained with PyPI tokenizers for the pre-tokenizer
pipelines of DeepSeek-V2, DeepSeek-V3 and a mixture of rarer options, and hashes of what they encode 100,000 texts to.

Made with tokenizers 0.23.3:
    python tests/golden/tokenizer.py tests/golden/tokenizer
The patterns are those of the pre_tokenizer in the tokenizer.json of deepseek-ai/DeepSeek-V2-Lite and deepseek-ai/DeepSeek-V3.
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tokenizer_samples  # noqa: E402

TRAIN_SEED, TRAIN_COUNT = 1, 20000
TEST_SEED, BLOCKS, BLOCK = 2, 100, 1000

V2_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ"
    "ῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


PIPELINES = {
    "deepseek_v3": [
        split(r"\p{N}{1,3}"),
        split("[一-龥぀-ゟ゠-ヿ]+"),
        split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
              r"""\s*[\r\n]+|\s+(?!\S)|\s+"""),
        byte_level(),
    ],
    "deepseek_v2": [
        split("[\r\n]"),
        split(r"\s?[" + V2_LETTERS + "]+"),
        split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        split(r"\s+$"),
        split("[一-龥ࠀ-一가-\ud7ff]+"),
        pre_tokenizers.Digits(individual_digits=True),
        byte_level(),
    ],
    "options": [pre_tokenizers.Digits(individual_digits=False), byte_level(use_regex=True)],
}
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]


def build(name):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PIPELINES[name])
    tokenizer.decoder = decoders.ByteLevel()
    if name == "deepseek_v3":
        tokenizer.normalizer = normalizers.Sequence([])
    if name == "options":
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(tokenizer_samples.samples(TRAIN_SEED, TRAIN_COUNT), trainer)
    if name == "deepseek_v2":
        tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<｜User｜>", normalized=False)])
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if name == "deepseek_v3":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=SPECIAL[0] + " $A", pair=SPECIAL[0] + " $A $B", special_tokens=[(SPECIAL[0], 0)])
    if name == "options":
        tokenizer.add_tokens([
            AddedToken("TOK"), AddedToken("TOKEN", normalized=False), AddedToken("TOKENS", special=True),
            AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True), AddedToken("word", single_word=True),
            AddedToken("e\u0301"), AddedToken("<think>", special=True, lstrip=True, rstrip=True, normalized=False),
        ])
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(),
            processors.TemplateProcessing(single=SPECIAL[0] + " $A " + SPECIAL[1], pair="$A $B",
                                          special_tokens=[(SPECIAL[0], 0), (SPECIAL[1], 1)]),
        ])
    text = json.loads(tokenizer.to_str())
    if name == "deepseek_v2":
        text["model"]["merges"] = [" ".join(merge) for merge in text["model"]["merges"]]
    if name == "options":
        text["model"]["ignore_merges"] = True
    return json.dumps(text, ensure_ascii=False, separators=(",", ":"))


def hash_ids(value, ids):
    """FNV-1a over 32-bit words, with the length first."""
    for word in [len(ids)] + ids:
        value = ((value ^ word) * 0x100000001B3) & tokenizer_samples.MASK
    return value


def main(directory):
    os.makedirs(directory, exist_ok=True)
    texts = list(tokenizer_samples.samples(TEST_SEED, BLOCKS * BLOCK))
    for name in PIPELINES:
        text = build(name)
        with open(os.path.join(directory, name + ".tokenizer.json"), "w") as out:
            out.write(text + "\n")
        result = {}
        tokenizer = Tokenizer.from_str(text)
        for key, special, parse in [("with_special", True, True), ("plain", False, False)]:
            tokenizer.encode_special_tokens = not parse
            hashes = []
            for block in range(BLOCKS):
                value = 0xCBF29CE484222325
                for sample in texts[block * BLOCK:(block + 1) * BLOCK]:
                    value = hash_ids(value, tokenizer.encode(sample, add_special_tokens=special).ids)
                hashes.append("%016x" % value)
            result[key] = hashes
        tokenizer.encode_special_tokens = False
        value = 0xCBF29CE484222325
        for sample in texts[:10000]:
            ids = tokenizer.encode(sample).ids
            cut = ids[len(ids) // 3:]  # starts inside a character now and then
            for skip in (False, True):
                value = hash_ids(value, list(tokenizer.decode(cut, skip_special_tokens=skip).encode()))
        result["decoded"] = "%016x" % value
        with open(os.path.join(directory, name + ".expected.json"), "w") as out:
            json.dump(result, out, indent=0)
            out.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
