"""Writes src/tokenizer/unicode_additions.h: general categories that PyPI tokenizers' regex engine (Oniguruma) knows and
Unicode 14 does not, so that character classes agree whatever Unicode version the installed libraries have; and the code
points that its normaliser, whose data are older, does not reorder, compose or decompose though Unicode 14 does.

Made with tokenizers 0.23.3 and Python 3.11 (whose unicodedata is Unicode 14.0.0):
    python tests/golden/unicode_additions.py src/tokenizer/unicode_additions.h
"""
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

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


def to_ranges(category):
    ranges = []
    for c in sorted(category):
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == category[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, category[c]])
    return ranges


def unknown_to_nfc():
    """Code points that take part in normalisation in Unicode 14, but not in PyPI tokenizers' NFC."""
    nfc = normalizers.NFC().normalize_str
    marks = "\u0334\u093c\u3099\u094d\u0323\u0301\u0345"  # combining classes 1, 7, 8, 9, 220, 230, 240
    composed = [unicodedata.decomposition(chr(c)).split() for c in SCALARS]
    partners = {}
    for parts in composed:
        if len(parts) == 2 and "<" not in parts[0]:
            first, second = (chr(int(part, 16)) for part in parts)
            partners.setdefault(first, []).append(first + second)
            partners.setdefault(second, []).append(first + second)
    unknown = {}
    for c in SCALARS:
        x = chr(c)
        texts = [x] + ["a" + x + m for m in marks] + ["a" + m + x for m in marks] + partners.get(x, [])
        if any(nfc(t) != unicodedata.normalize("NFC", t) for t in texts):
            unknown[c] = True
    return to_ranges(unknown)


def main(path):
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    category = {}
    for name in CATEGORIES:
        for c in members(r"\p{%s}" % name):
            if unicodedata.category(chr(c)) != name:
                category[c] = name
    ranges = to_ranges(category)
    unknown = unknown_to_nfc()
    with open(path, "w") as out:
        out.write("// Written by tests/golden/unicode_additions.py; do not edit.\n#pragma once\n\n#include <array>\n\n")
        out.write("namespace deeptitan {\n\n")
        out.write("/// Code points first..last whose general category in Unicode 16 is not that of Unicode 14.\n")
        out.write("struct UnicodeAddition {\n  char32_t first;\n  char32_t last;\n  const char* category;\n};\n\n")
        out.write("inline constexpr std::array<UnicodeAddition, %d> kUnicodeAdditions = {{\n" % len(ranges))
        for first, last, name in ranges:
            out.write('    {0x%X, 0x%X, "%s"},\n' % (first, last, name))
        out.write("}};\n\n")
        out.write("/// Code points of Unicode 14 and before that take part in normalisation, but not in PyPI tokenizers' NFC.\n")
        out.write("struct CodePointRange {\n  char32_t first;\n  char32_t last;\n};\n\n")
        out.write("inline constexpr std::array<CodePointRange, %d> kUnknownToNfc = {{\n" % len(unknown))
        for first, last, _ in unknown:
            out.write("    {0x%X, 0x%X},\n" % (first, last))
        out.write("}};\n\n}  // namespace deeptitan\n")


if __name__ == "__main__":
    main(sys.argv[1])
