#include "tokenizer/sample_text.h"

#include <string_view>

#include "core/utf8.h"

namespace deeptitan {
namespace {

using Strings = std::vector<std::string_view>;
using CodePoints = std::vector<char32_t>;

const Strings kWords = {"the",   "of",   "and",    "to",     "in",    "that",  "was",     "his",       "he",
                        "it",    "with", "is",     "for",    "as",    "had",   "you",     "not",       "be",
                        "her",   "on",   "at",     "by",     "which", "have",  "or",      "from",      "this",
                        "him",   "but",  "all",    "don't",  "I'm",   "we'll", "they've", "CamelCase", "snake_case",
                        "naïve", "café", "Straße", "Москва", "Ελλάδα"};
const Strings kSeparators = {" ", " ", " ", ", ", ". ", "; ", "-", "'s ", "? ", " \"", ") ", "\n"};
const Strings kCode = {"int main(void) {",
                       "}\n",
                       "    return x[i] + 1;",
                       "if (a == b && !c)",
                       "#include <stdio.h>\n",
                       "def f(self, *args):\n",
                       "\t\tprint(f\"{x!r:>10}\")",
                       "std::vector<int> v{1, 2, 3};",
                       "// comment",
                       "/* block */",
                       "foo->bar.baz()",
                       "x <<= 0x1F;",
                       "SELECT * FROM t WHERE id='42';",
                       "\\alpha_{i}^{2}",
                       "https://example.org/a?b=c&d=%20e",
                       "<div class=\"x\">",
                       "\r\n",
                       "\n\n\n"};
const Strings kSpecial = {"<｜begin▁of▁sentence｜>",
                          "<｜end▁of▁sentence｜>",
                          "<｜User｜>",
                          "<｜begin▁of",
                          "<think>",
                          "</think>",
                          "<｜",
                          "｜>",
                          "TOK",
                          "TOKEN",
                          "TOKENS",
                          "[L]",
                          "[R]",
                          "word",
                          "\u00e9",
                          "e\u0301"};
const Strings kCjkPunctuation = {"，", "。", "！", "？", "、", "：", "；", "「", "」", "《", "》", "…", "—", "～"};
const Strings kBases = {"a", "e", "i", "o", "u", "A", "E", "O", "U", "n", "s", "z", "ح", "ك", "ק", "क", "한"};
const Strings kSpaces = {" ", "\t", "\u00a0", "\u3000", "\u2003", "\u180e", "\xC2\x85", "\u2028", "\n", "\r", "\v"};
const CodePoints kDigitStarts = {0x30, 0x660, 0x966, 0xFF10, 0x1D7CE, 0x2160, 0x2460, 0xB2, 0x11DE0};
const CodePoints kEmojiExtras = {0x200D, 0xFE0F, 0x1F3FD, 0x1F1E6, 0x1F1FA};
const CodePoints kMarkStarts = {0x300, 0x900, 0x1100, 0x1160};
const CodePoints kControlStarts = {0, 0x80, 0x2000, 0x2060};
const CodePoints kScalarLimits = {0x800, 0x3000, 0x10000, 0x20000, 0x110000};

// splitmix64
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t below(uint64_t n) {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
  }

  template <typename T>
  T pick(const std::vector<T>& values) {
    return values[below(values.size())];
  }

 private:
  uint64_t state_;
};

char32_t scalar(Random& random) {
  const char32_t limit = random.pick(kScalarLimits);
  const auto c = static_cast<char32_t>(random.below(limit));
  return c >= 0xD800 && c < 0xE000 ? 0xFFFD : c;
}

void append_offset(Random& random, char32_t start, uint64_t count, std::string& text) {
  append_utf8(text, start + static_cast<char32_t>(random.below(count)));
}

void append_cjk(Random& random, std::string& text) {
  const uint64_t which = random.below(10);
  if (which < 6) {
    append_offset(random, 0x4E00, 400, text);
  } else if (which < 8) {
    append_offset(random, 0x3040, 192, text);
  } else if (which < 9) {
    text += random.pick(kCjkPunctuation);
  } else {
    append_offset(random, 0xAC00, 300, text);
  }
}

void append_marked(Random& random, std::string& text) {
  text += random.pick(kBases);
  for (uint64_t marks = random.below(4); marks > 0; --marks) {
    const char32_t start = random.pick(kMarkStarts);
    append_offset(random, start, 0x60, text);
  }
}

void append_digit(Random& random, std::string& text) {
  const char32_t start = random.below(4) == 0 ? random.pick(kDigitStarts) : 0x30;
  append_offset(random, start, 10, text);
}

void append_emoji(Random& random, std::string& text) {
  if (random.below(3) == 0) {
    append_utf8(text, random.pick(kEmojiExtras));
  } else {
    append_offset(random, 0x1F300, 0x700, text);
  }
}

char random_byte(Random& random) {
  const uint64_t any = random.below(256), high = 0x80 + random.below(128);
  return static_cast<char>(random.pick(std::vector<uint64_t>{any, high, 0xE4, 0xB8}));
}

template <typename Append>
std::string repeat(Random& random, uint64_t most, const Append& append) {
  std::string text;
  for (uint64_t count = 1 + random.below(most); count > 0; --count) append(text);
  return text;
}

std::string part(Random& random, uint64_t kind) {
  switch (kind) {
    case 0:
      return repeat(random, 12, [&](std::string& text) {
        text += random.pick(kWords);
        text += random.pick(kSeparators);
      });
    case 1:
      return repeat(random, 4, [&](std::string& text) { text += random.pick(kCode); });
    case 2:
      return repeat(random, 20, [&](std::string& text) { append_cjk(random, text); });
    case 3:
      return repeat(random, 6, [&](std::string& text) { append_emoji(random, text); });
    case 4:
      return repeat(random, 6, [&](std::string& text) { append_marked(random, text); });
    case 5:
      return repeat(random, 6, [&](std::string& text) {
        const char32_t start = random.pick(kControlStarts);
        append_offset(random, start, 32, text);
      });
    case 6:
      return repeat(random, 14, [&](std::string& text) { append_digit(random, text); });
    case 7: {
      const std::string_view space = random.pick(kSpaces);
      std::string text = repeat(random, 40, [&](std::string& spaces) { spaces += space; });
      if (random.below(2) == 0) text += random.pick(kSpaces);
      return text;
    }
    case 8:
      return repeat(random, 16, [&](std::string& text) { append_utf8(text, scalar(random)); });
    case 9:
      return utf8_sanitize(repeat(random, 16, [&](std::string& text) { text += random_byte(random); })).text;
    default:
      return std::string(random.pick(kSpecial));
  }
}

}  // namespace

std::vector<std::string> sample_texts(uint64_t seed, size_t count) {
  constexpr uint64_t kKinds = 11;
  Random random(seed);
  std::vector<std::string> texts(count);
  for (std::string& text : texts) {
    for (uint64_t parts = 1 + random.below(5); parts > 0; --parts) text += part(random, random.below(kKinds));
  }
  return texts;
}

}  // namespace deeptitan
