"""Writes src/jinja/unicode_tables.cpp: what Python's str methods know of each character.

Run from the repository root:  python3 tests/golden/chat_templates/make_unicode_tables.py
The tables are those of the Python that runs it (3.11: Unicode 14.0), because jinja2 renders with them.
"""

import pathlib
import unicodedata

SURROGATES = range(0xD800, 0xE000)
ALL = [c for c in range(0x110000) if c not in SURROGATES]


def ranges(points):
    """Runs of equal stride 1 or 2 as (first, last, stride)."""
    out = []
    points = list(points)
    i = 0
    while i < len(points):
        stride = 1
        if i + 1 < len(points) and points[i + 1] - points[i] <= 2:
            stride = points[i + 1] - points[i]
        j = i
        while j + 1 < len(points) and points[j + 1] - points[j] == stride:
            j += 1
        out.append((points[i], points[j], stride))
        i = j + 1
    return out


def range_table(name, predicate):
    rows = ranges(c for c in ALL if predicate(chr(c)))
    return table(name, "UnicodeRange", [f"{{0x{a:X},0x{b:X},{s}}}" for a, b, s in rows])


def case_tables(name, convert):
    simple, special = {}, []
    for c in ALL:
        text = convert(chr(c))
        if text == chr(c):
            continue
        if len(text) == 1:
            simple.setdefault(ord(text) - c, []).append(c)
        else:
            special.append((c, text))
    rows = sorted((a, b, s, delta) for delta, points in simple.items() for a, b, s in ranges(points))
    out = table(name, "CaseRange", [f"{{0x{a:X},0x{b:X},{s},{d}}}" for a, b, s, d in rows])
    rows = ["{0x%X,{%s}}" % (c, ",".join(f"0x{ord(x):X}" for x in text)) for c, text in special]
    return out + table(name + "Special", "SpecialCase", rows)


def table(name, kind, rows):
    if not rows:
        return f"const std::span<const {kind}> k{name}{{}};\n\n"
    lines, line = [], " "
    for row in rows:
        if len(line) + len(row) + 2 > 118:
            lines.append(line)
            line = " "
        line += " " + row + ","
    lines.append(line)
    return (
        f"static constexpr {kind} k{name}Rows[] = {{\n" + "\n".join(lines) + "\n};\n"
        f"const std::span<const {kind}> k{name}(k{name}Rows);\n\n"
    )


def main():
    text = (
        "// Written by tests/golden/chat_templates/make_unicode_tables.py from Unicode "
        + unicodedata.unidata_version
        + ". Do not edit.\n// clang-format off\n"
        '#include "jinja/unicode_tables.h"\n\nnamespace deeptitan::jinja {\n\n'
    )
    text += range_table("NotPrintable", lambda c: not c.isprintable())
    text += range_table("Alpha", str.isalpha)
    text += range_table("Decimal", str.isdecimal)
    text += range_table("Digit", str.isdigit)
    text += range_table("Numeric", str.isnumeric)
    text += range_table("Lowercase", str.islower)
    text += range_table("Uppercase", str.isupper)
    text += case_tables("ToLower", str.lower)
    text += case_tables("ToUpper", str.upper)
    text += case_tables("ToTitle", str.title)
    text += "}  // namespace deeptitan::jinja\n// clang-format on\n"
    pathlib.Path("src/jinja/unicode_tables.cpp").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
