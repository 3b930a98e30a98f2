"""Writes src/tokenizer/unicode_additions.h: general categories that PyPI tokenizers' regex engine (Oniguruma) knows and
Unicode 14 does not, so that character classes agree whatever Unicode version the installed libraries have.

Made with tokenizers 0.23.3 and Python 3.11 (whose unicodedata is Unicode 14.0.0):
    python tests/golden/unicode_additions.py src/tokenizer/unicode_additions.h
"""
import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers

SEPARATOR = "\x01"  # of category Cc, which never changes and is left out below
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf").split()
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != 1]


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = set()
    for at in range(0, len(SCALARS), 4096):
        text = SEPARATOR + SEPARATOR.join(map(chr, SCALARS[at:at + 4096])) + SEPARATOR
        found |= {ord(piece) for piece, _ in split.pre_tokenize_str(text) if len(piece) == 1 and piece != SEPARATOR}
    return found


def main(path):
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    category = {}
    for name in CATEGORIES:
        for c in members(r"\p{%s}" % name):
            if unicodedata.category(chr(c)) != name:
                category[c] = name
    ranges = []
    for c in sorted(category):
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == category[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, category[c]])
    with open(path, "w") as out:
        out.write("// Written by tests/golden/unicode_additions.py; do not edit.\n#pragma once\n\n#include <array>\n\n")
        out.write("namespace deeptitan {\n\n")
        out.write("/// Code points first..last whose general category in Unicode 16 is not that of Unicode 14.\n")
        out.write("struct UnicodeAddition {\n  char32_t first;\n  char32_t last;\n  const char* category;\n};\n\n")
        out.write("inline constexpr std::array<UnicodeAddition, %d> kUnicodeAdditions = {{\n" % len(ranges))
        for first, last, name in ranges:
            out.write('    {0x%X, 0x%X, "%s"},\n' % (first, last, name))
        out.write("}};\n\n}  // namespace deeptitan\n")


if __name__ == "__main__":
    main(sys.argv[1])
