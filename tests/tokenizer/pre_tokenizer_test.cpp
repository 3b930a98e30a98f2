#include "tokenizer/pre_tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/utf8.h"
#include "tokenizer/sample_text.h"
#include "tokenizer/tokenizer_json.h"

namespace deeptitan {
namespace {

std::vector<PreTokenizer::Piece> split(const PreTokenizer& pre_tokenizer, std::string_view text) {
  PreTokenizer::Scratch scratch;
  std::vector<PreTokenizer::Piece> pieces;
  pre_tokenizer.split(text, scratch, pieces);
  return pieces;
}

std::vector<std::string> pieces(std::string_view pattern, std::string_view text) {
  std::vector<std::string> result;
  const PreTokenizer pre_tokenizer({parse_regex(pattern)}, PreTokenizer::Engine::kFastest);
  for (const auto& [begin, end] : split(pre_tokenizer, text)) result.emplace_back(text.substr(begin, end - begin));
  return result;
}

// Patterns of published byte-level tokenizers, and some that try the matcher of runs.
const std::string_view kPatterns[] = {
    kGpt2Pattern,
    R"(\p{N}{1,3})",
    "[一-龥぀-ゟ゠-ヿ]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
    "[\r\n]",
    R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)",
    R"(\s+$)",
    "[一-龥ࠀ-一가-\xED\x9F\xBF]+",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"(a{2,3}b?|ab*c|[^a]{2,}(?!b))",
    R"(a+$|\s{1,2}b|c{2})",
    R"(a*b|[bc]+a)",
    R"((?<=a)b+|a(?=c))",
    R"(.+)",
    R"(x*)",
    R"(\P{L}+\d?)",
};

TEST(PreTokenizer, RunsSplitAsPcre2Does) {
  std::vector<std::string> texts = sample_texts(3, 3000);
  std::mt19937 random(20260118);
  const std::string_view alphabet[] = {"a", "b", "c", " ", "\n", "x", "1", "\xC3\xA9", "\xE4\xB8\xAD"};
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (size_t length = random() % 30; length > 0; --length) text += alphabet[random() % std::size(alphabet)];
    texts.push_back(text);
  }
  for (const std::string_view pattern : kPatterns) {
    const PreTokenizer runs({parse_regex(pattern)}, PreTokenizer::Engine::kFastest);
    const PreTokenizer pcre2({parse_regex(pattern)}, PreTokenizer::Engine::kPcre2);
    for (const std::string& text : texts) ASSERT_EQ(split(runs, text), split(pcre2, text)) << pattern << "\n" << text;
  }
}

TEST(PreTokenizer, LaterSplitsSeeOnePieceAtATime) {
  // After the first split " b" is a piece, so that a space before it no longer counts as followed by \S.
  const std::vector<RegexPattern> patterns = {parse_regex("b"), parse_regex(R"(\s+(?!\S))")};
  const PreTokenizer pre_tokenizer(patterns, PreTokenizer::Engine::kFastest);
  EXPECT_EQ(split(pre_tokenizer, "a  b"), (std::vector<PreTokenizer::Piece>{{0, 1}, {1, 3}, {3, 4}}));
}

TEST(PreTokenizer, SplitsTheEmptyTextIntoNothing) {
  EXPECT_TRUE(pieces(kGpt2Pattern, "").empty());
}

TEST(PreTokenizer, LongRunsTakeLinearTime) {
  // Quadratic time would need hours for these.
  std::string spaces(2'000'000, ' ');
  spaces += 'a';
  EXPECT_EQ(pieces(R"(\s+$)", spaces).size(), 1u);
  EXPECT_EQ(pieces(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces).size(), 3u);
}

TEST(ParseRegex, CountsInTermsOfCharacters) {
  EXPECT_EQ(pieces(R"(\p{N}{1,3})", "12345"), (std::vector<std::string>{"123", "45"}));
  EXPECT_EQ(pieces(R"([一-龥]{2})", "\u4E00\u4E01\u4E02"), (std::vector<std::string>{"\u4E00\u4E01", "\u4E02"}));
}

TEST(ParseRegex, RecognisesPatternsOfRuns) {
  for (const std::string_view pattern : {kPatterns[0], kPatterns[3], kPatterns[6], kPatterns[9]}) {
    const RegexPattern parsed = parse_regex(pattern);
    ASSERT_TRUE(parsed.runs.has_value()) << pattern;
    EXPECT_TRUE(RunMatcher::supports(*parsed.runs)) << pattern;
  }
  EXPECT_FALSE(parse_regex(R"((?<=a)b)").runs.has_value());
  EXPECT_FALSE(parse_regex(R"(a+?)").runs.has_value());
  EXPECT_FALSE(parse_regex(R"(a*)").runs.has_value());  // matches the empty text
}

void expect_error(std::string_view pattern, const std::string& message) {
  try {
    const PreTokenizer pre_tokenizer({parse_regex(pattern)}, PreTokenizer::Engine::kFastest);
    FAIL() << pattern << " was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(ParseRegex, NamesWhatItDoesNotSupport) {
  const std::string hint = " is not supported; use classes, quantifiers, groups, lookaround, ^ and $";
  expect_error(R"(\w+)", R"(regular expression \w+: \w)" + hint);
  expect_error(R"((a)\1)", R"(regular expression (a)\1: \1)" + hint);
  expect_error(R"([[:alpha:]])", R"(regular expression [[:alpha:]]: a POSIX bracket [: :])" + hint);
  expect_error(R"([a&&])", R"(regular expression [a&&]: an empty class)" + hint);
  expect_error(std::string(30, '['),
               "regular expression " + std::string(30, '[') + ": classes are nested more than 20 deep");
  expect_error(R"(a{2}+)", R"(regular expression a{2}+: ? or + after a {n,m} quantifier)" + hint);
  expect_error(R"(a**)", R"(regular expression a**: a quantifier after a quantifier)" + hint);
  expect_error(R"((?<n>a))", R"(regular expression (?<n>a): (?<)" + hint);
  expect_error("*a", "regular expression *a: the quantifier * without something to repeat" + hint);
  expect_error("(a", "regular expression (a: a group is not closed by )");
  expect_error("a)", "regular expression a): ) without (");
  expect_error("[a", "regular expression [a: a class is not closed by ]");
  expect_error("a\\", "regular expression a\\: it ends with a backslash");
  expect_error("[z-a]",
               "regular expression [z-a]: a range in a class must go from a character to one that is not before it");
  expect_error("a{3,2}", "regular expression a{3,2}: {3,2} counts down");
  expect_error("a{2000}", "regular expression a{2000}: 2000 repetitions are too many; at most 1000 are supported");
  expect_error(R"((?<=a+)b)", R"(regular expression (?<=a+)b: a lookaround of unbounded length)" + hint);
}

TEST(Pcre2Regex, GivesUpOnExponentialPatterns) {
  const PreTokenizer pre_tokenizer({parse_regex("(?:a+)+b")}, PreTokenizer::Engine::kFastest);
  try {
    split(pre_tokenizer, std::string(50, 'a') + "cb");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "a regular expression could not be matched: match limit exceeded");
  }
}

}  // namespace
}  // namespace deeptitan
