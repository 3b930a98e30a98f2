#include "data/token_file.h"

#include <gtest/gtest.h>

#include "core/expect_error.h"
#include "core/file.h"
#include "core/log.h"
#include "data/letter_encoder.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

class TokenFileTest : public ::testing::Test {
 protected:
  TokenFileTest() { set_log_quiet(true); }

  TokenFile open(const TextSource& source, const TextEncoder& encoder = letter_encoder()) const {
    return open_token_file(source, source.path, encoder, folder_.path() / "cache");
  }
  size_t cached_files() const {
    const std::filesystem::directory_iterator entries(folder_.path() / "cache");
    return static_cast<size_t>(std::distance(begin(entries), end(entries)));
  }
  static std::vector<int32_t> tokens_of(const TokenFile& file) {
    return {file.all().tokens.begin(), file.all().tokens.end()};
  }

  TemporaryFolder folder_;
};

TEST_F(TokenFileTest, OneEndOfTextBehindEveryDocument) {
  TextSource source;
  source.path = folder_.write("a.txt", "ab\n\ncde");
  source.document_separator = "\n\n";
  const TokenFile file = open(source);
  EXPECT_EQ(tokens_of(file), (std::vector<int32_t>{'a', 'b', 256, 'c', 'd', 'e', 256}));
  const TokenRange all = file.all();
  EXPECT_EQ((std::vector<int64_t>{all.document_starts.begin(), all.document_starts.end()}),
            (std::vector<int64_t>{0, 3, 7}));
  EXPECT_EQ(file.statistics().documents, 2);
  EXPECT_EQ(file.statistics().bytes, 5);
  EXPECT_EQ(file.largest_token(), 256);
}

TEST_F(TokenFileTest, TokenisedOnceForTheSameTextTokenizerAndOptions) {
  TextSource source;
  source.path = folder_.write("a.txt", "hello");
  int calls = 0;
  TextEncoder encoder = letter_encoder();
  const auto encode = encoder.encode;
  encoder.encode = [&](std::string_view text, std::vector<int32_t>& tokens) {
    ++calls;
    encode(text, tokens);
  };
  open(source, encoder);
  open(source, encoder);
  EXPECT_EQ(calls, 1);
  encoder.fingerprint = "other";
  open(source, encoder);
  EXPECT_EQ(calls, 2);
  source.path = folder_.write("b.txt", "hello");  // the same text elsewhere
  open(source, encoder);
  EXPECT_EQ(calls, 2);
  folder_.write("b.txt", "hellp");
  open(source, encoder);
  EXPECT_EQ(calls, 3);
  source.document_separator = "l";
  open(source, encoder);
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(cached_files(), 4u);
}

TEST_F(TokenFileTest, ManyDocumentsKeepTheirOrder) {
  std::string lines;
  for (int i = 0; i < 5000; ++i) lines += fmt::format("{{\"text\": \"{:07}\"}}\n", i);
  TextSource source;
  source.path = folder_.write("a.jsonl", lines);
  const TokenFile file = open(source);
  ASSERT_EQ(file.all().size(), 5000 * 8);
  for (const int i : {0, 1, 2499, 4999}) {
    std::string text;
    for (int j = 0; j < 7; ++j) text += static_cast<char>(file.all().tokens[static_cast<size_t>(i * 8 + j)]);
    EXPECT_EQ(text, fmt::format("{:07}", i));
  }
}

TEST_F(TokenFileTest, FailureLeavesNothingBehind) {
  TextSource source;
  source.path = folder_.write("a.txt", "hello");
  TextEncoder encoder = letter_encoder();
  encoder.encode = [](std::string_view, std::vector<int32_t>&) { fail("no such byte"); };
  expect_runtime_error([&] { open(source, encoder); }, "no such byte");
  EXPECT_EQ(cached_files(), 0u);
}

TEST_F(TokenFileTest, EmptyTextIsAnError) {
  TextSource source;
  source.path = folder_.write("a.txt", " \n");
  expect_usage_error([&] { open(source); }, "the text " + source.path + " is empty; expected at least one document");
}

TEST_F(TokenFileTest, FilesCutAnywhereAreRefused) {
  TextSource source;
  source.path = folder_.write("a.txt", "hello");
  const std::string whole = read_file(open(source).path());
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string path = folder_.write("cut.tokens", whole.substr(0, size));
    expect_runtime_error([&] { TokenFile cut(path); },
                         path + " is damaged or not a token file; remove it and it is made anew");
  }
}

}  // namespace
}  // namespace deeptitan
