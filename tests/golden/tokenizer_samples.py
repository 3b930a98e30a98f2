"""Texts that are hard on a tokenizer, the same from this script and from tests/tokenizer/sample_text.cpp."""

MASK = (1 << 64) - 1

WORDS = ("the of and to in that was his he it with is for as had you not be her on at by which have or from this him but all "
         "don't I'm we'll they've CamelCase snake_case naïve café Straße Москва Ελλάδα").split(" ")
CODE = ["int main(void) {", "}\n", "    return x[i] + 1;", "if (a == b && !c)", "#include <stdio.h>\n", "def f(self, *args):\n",
        "\t\tprint(f\"{x!r:>10}\")", "std::vector<int> v{1, 2, 3};", "// comment", "/* block */", "foo->bar.baz()", "x <<= 0x1F;",
        "SELECT * FROM t WHERE id='42';", "\\alpha_{i}^{2}", "https://example.org/a?b=c&d=%20e", "<div class=\"x\">", "\r\n", "\n\n\n"]
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜begin▁of", "<think>", "</think>", "<｜", "｜>",
           "TOK", "TOKEN", "TOKENS", "[L]", "[R]", "word", "é", "e\u0301"]
CJK_PUNCTUATION = "，。！？、：；「」《》…—～"
BASES = "aeiouAEOUnszحكקक한"
SPACES = [" ", "\t", "\u00a0", "\u3000", "\u2003", "\u180e", "\u0085", "\u2028", "\n", "\r", "\v"]
DIGIT_STARTS = [0x30, 0x660, 0x966, 0xFF10, 0x1D7CE, 0x2160, 0x2460, 0xB2, 0x11DE0]
EMOJI_EXTRAS = [0x200D, 0xFE0F, 0x1F3FD, 0x1F1E6, 0x1F1FA]


class Random:
    """splitmix64"""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n

    def pick(self, values):
        return values[self.below(len(values))]


def scalar(random):
    """Any Unicode scalar value, planes 0 and 1 more often than the others."""
    limit = random.pick([0x800, 0x3000, 0x10000, 0x20000, 0x110000])
    c = random.below(limit)
    return 0xFFFD if 0xD800 <= c < 0xE000 else c


def part(random, kind):
    if kind == 0:  # English
        text = ""
        for _ in range(1 + random.below(12)):
            text += random.pick(WORDS) + random.pick([" ", " ", " ", ", ", ". ", "; ", "-", "'s ", "? ", " \"", ") ", "\n"])
        return text
    if kind == 1:
        return "".join(random.pick(CODE) for _ in range(1 + random.below(4)))
    if kind == 2:  # Chinese, Japanese and Korean
        text = ""
        for _ in range(1 + random.below(20)):
            which = random.below(10)
            if which < 6:
                text += chr(0x4E00 + random.below(400))
            elif which < 8:
                text += chr(0x3040 + random.below(192))
            elif which < 9:
                text += random.pick(CJK_PUNCTUATION)
            else:
                text += chr(0xAC00 + random.below(300))
        return text
    if kind == 3:  # emoji
        return "".join(chr(random.pick(EMOJI_EXTRAS) if random.below(3) == 0 else 0x1F300 + random.below(0x700))
                       for _ in range(1 + random.below(6)))
    if kind == 4:  # combining marks, conjoining jamo
        text = ""
        for _ in range(1 + random.below(6)):
            text += random.pick(BASES)
            for _ in range(random.below(4)):
                text += chr(random.pick([0x300, 0x900, 0x1100, 0x1160]) + random.below(0x60))
        return text
    if kind == 5:  # control and format characters
        return "".join(chr(random.pick([0, 0x80, 0x2000, 0x2060]) + random.below(32)) for _ in range(1 + random.below(6)))
    if kind == 6:  # digits
        return "".join(chr(random.pick(DIGIT_STARTS) + random.below(10)) if random.below(4) == 0 else chr(0x30 + random.below(10))
                       for _ in range(1 + random.below(14)))
    if kind == 7:  # long runs of white space
        space = random.pick(SPACES)
        text = space * (1 + random.below(40))
        return text + random.pick(SPACES) if random.below(2) == 0 else text
    if kind == 8:  # anything
        return "".join(chr(scalar(random)) for _ in range(1 + random.below(16)))
    if kind == 9:  # bytes that are not UTF-8, replaced
        raw = bytes(random.pick([random.below(256), 0x80 + random.below(128), 0xE4, 0xB8]) for _ in range(1 + random.below(16)))
        return raw.decode("utf-8", errors="replace")
    return random.pick(SPECIAL)


KINDS = 11


def samples(seed, count):
    """`count` texts of one to five parts each."""
    random = Random(seed)
    for _ in range(count):
        yield "".join(part(random, random.below(KINDS)) for _ in range(1 + random.below(5)))
