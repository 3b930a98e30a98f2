"""Makes tests/golden/tokenizer/splits.json and kimi/: how PyPI tokenizers cuts texts by patterns with classes inside of
classes, intersections and scripts, and by Split with every use of Removed and invert that is supported; and a small
tiktoken.model in the shape of Moonlight's and Kimi's, with the tokens that PyPI tiktoken gives.

    python tests/golden/tokenizer_splits.py    # tokenizers 0.23.3, tiktoken 0.14.0
"""

import base64
import collections
import importlib.metadata
import json
import pathlib
import random

import tiktoken
from tokenizers import Regex, pre_tokenizers

HERE = pathlib.Path(__file__).parent / "tokenizer"
# pat_str of tokenization_moonshot.py (Moonlight-16B-A3B) and tokenization_kimi.py (Kimi-K2).
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
PATTERNS = [
    KIMI, r"\p{Han}+", r"\P{Han}+", r"[\p{L}&&[^a-m]]+", r"[a-z&&[^aeiou]&&[^x]]+", r"[^a-z&&[aeiou]]+", r"[a[bc]d]+",
    r"[[a-c][x-z]]+", r"[^[a-c]x]+", r"[\p{L}&&\p{Lu}]+", r"[a-c&&b-z]+", r"[\p{Hiragana}\p{Katakana}]+", r"[\p{Latin}&&[^\p{Lu}]]+",
    r"\p{Cyrillic}|\p{Greek}", r"\p{N}", r"\s+",
]
TEXTS = [
    "Hello world, it's 12345 o'clock! WE'LL see.", "你好，世界！漢字とかな混じり文。カタカナも", "aaaa bcdxyz ABC abcxyz\n\n  x\r\n", "𠀀𰀀々〇〆ㇰ ﬀ ß Σ αβγ Привет",
    "   leading and trailing   ", "ab\tcd\u3000ef\u00a0gh", "don't DON'T you'Re 3/4 ½ ⅷ ①", "", "x", "日本語English混合text", "e\u0301 \u0301a ᾳ ǅ ʰ",
]


def splits():
    cases = []
    for pattern in PATTERNS:
        for behavior, invert in [("isolated", False), ("isolated", True), ("removed", False), ("removed", True)]:
            split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
            pieces = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in TEXTS]
            cases.append({"pattern": pattern, "behavior": behavior.capitalize(), "invert": invert, "pieces": pieces})
    return {"tokenizers": importlib.metadata.version("tokenizers"), "texts": TEXTS, "cases": cases}


def train(texts, count):
    """Ranks of a byte-pair encoding: 256 bytes, then the most frequent pair again and again."""
    ranks = {bytes([b]): b for b in range(256)}
    words = collections.Counter(piece for text in texts for piece, _ in pre_tokenizers.Split(Regex(KIMI), "isolated").pre_tokenize_str(text))
    words = [([bytes([b]) for b in word.encode()], n) for word, n in words.items()]
    while len(ranks) < count:
        pairs = collections.Counter()
        for parts, n in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks.setdefault(best[0] + best[1], len(ranks))
        for parts, _ in words:
            at = 0
            while at + 1 < len(parts):
                if (parts[at], parts[at + 1]) == best:
                    parts[at:at + 2] = [best[0] + best[1]]
                at += 1
    return ranks


def kimi():
    rng = random.Random(20261126)
    texts = TEXTS + ["".join(rng.choice("aab") for _ in range(rng.randint(1, 60))) for _ in range(60)]
    ranks = train(texts, 420)
    named = {len(ranks): "[BOS]", len(ranks) + 1: "[EOS]", len(ranks) + 2: "<|im_end|>", len(ranks) + 255: "[PAD]"}
    special = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(len(ranks), len(ranks) + 256)}
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    texts += ["[BOS]a<|im_end|>b<|reserved_token_%d|>" % (len(ranks) + 7), "a" * 300, "ab" * 200, "aab" * 100]
    texts += ["".join(rng.choice("ab") for _ in range(200)) for _ in range(20)]
    folder = HERE / "kimi"
    folder.mkdir(exist_ok=True)
    lines = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (folder / "tiktoken.model").write_text(lines)
    config = {"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]",
              "added_tokens_decoder": {str(i): {"content": c, "special": True, "normalized": False} for i, c in named.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    cases = [{"text": text, "ids": encoding.encode(text, allowed_special="all")} for text in texts]
    (folder / "expected.json").write_text(json.dumps({"tiktoken": importlib.metadata.version("tiktoken"), "cases": cases}, ensure_ascii=False) + "\n")


(HERE / "splits.json").write_text(json.dumps(splits(), ensure_ascii=False) + "\n")
kimi()
