#include "data/token_file.h"

#include <gtest/gtest.h>

#include "core/file.h"
#include "core/log.h"
#include "data/letter_encoder.h"
#include "data/token_cache.h"
#include "support/expect_error.h"
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

TEST_F(TokenFileTest, EveryFlippedBitIsFoundAndTheTextTokenisedAnew) {
  TextSource source;
  source.path = folder_.write("a.txt", "hello");
  const std::filesystem::path cache = open(source).path();
  const std::string whole = read_file(cache);
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    folder_.write("cache/" + cache.filename().string(), damaged);
    EXPECT_NE(message_of([&] { TokenFile file(cache); }), "no error") << bit;
    if (bit % 97 != 0) continue;
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(tokens_of(open(source)).size(), 6u);
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(said, "warning: " + cache.string() + " is damaged, the text is tokenised anew\n");
    EXPECT_EQ(read_file(cache), whole);
  }
}

TEST_F(TokenFileTest, WhatKilledProcessesLeftIsRemovedAndWhatTheLivingWriteIsNot) {
  TextSource source;
  source.path = folder_.write("a.txt", "hello");
  const std::string hash(32, 'a');
  const std::string dead = folder_.write("cache/" + hash + ".tokens.123.tmp", "left");
  const std::string also_dead = folder_.write("cache/" + hash + ".tokens.123-4.tmp", "left");
  const std::string mine = folder_.write("cache/notes.tokens.1.tmp", "mine");
  const UnfinishedFile living(folder_ / "cache" / (hash + ".tokens"));
  open(source);
  EXPECT_FALSE(std::filesystem::exists(dead));
  EXPECT_FALSE(std::filesystem::exists(also_dead));
  EXPECT_TRUE(std::filesystem::exists(mine));
  EXPECT_TRUE(std::filesystem::exists(living.path()));
}

class ChatFileTest : public TokenFileTest {
 protected:
  TextSource chats(const std::string& lines) const {
    TextSource source;
    source.format = SourceFormat::kChat;
    source.path = folder_.write("chats.jsonl", lines);
    return source;
  }
  static std::string learnt(const TokenFile& file) {
    std::string text;
    const TokenRange all = file.all();
    for (int64_t t = 0; t < all.end; ++t) {
      if (all.counts(t)) text += all.tokens[t] == 256 ? '$' : static_cast<char>(all.tokens[t]);
    }
    return text;
  }
};

constexpr const char* kTwoChats =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"1+1\"}, {\"role\": \"assistant\", \"content\": \"two\"}]}\n"
    "\n"
    "{\"messages\": [{\"role\": \"assistant\", \"content\": \"hi\"}, {\"role\": \"user\", \"content\": \"bye\"}, "
    "{\"role\": \"assistant\", \"content\": \"\"}]}\n";

TEST_F(ChatFileTest, TheCacheKeepsWhatIsLearnt) {
  const TextSource source = chats(kTwoChats);
  int calls = 0;
  TextEncoder encoder = letter_encoder();
  encoder.encode_chat = [&, encode = encoder.encode_chat](const Conversation& conversation) {
    ++calls;
    return encode(conversation);
  };
  for (int open_again = 0; open_again < 2; ++open_again) {
    const TokenFile file = open(source, encoder);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(tokens_of(file), (std::vector<int32_t>{'u', '1', '+', '1', 256, 'a', 't', 'w', 'o', 256, 'a',
                                                     'h', 'i', 256, 'u', 'b', 'y', 'e', 256, 'a', 256}));
    EXPECT_EQ(learnt(file), "two$hi$$");
    EXPECT_TRUE(file.all().is_chat());
    EXPECT_EQ(file.statistics().documents, 2);
    EXPECT_EQ(file.statistics().answers_without_end, 0);
    EXPECT_EQ(file.all().document_starts[1], 10);
  }
  encoder.chat_fingerprint = "another template";
  open(source, encoder);
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(cached_files(), 2u);
}

TEST_F(ChatFileTest, FilesCutAnywhereAreRefused) {
  const std::string whole = read_file(open(chats(kTwoChats)).path());
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string path = folder_.write("cut.tokens", whole.substr(0, size));
    EXPECT_THROW(TokenFile cut(path), Error) << size;
  }
}

TEST_F(ChatFileTest, TheFirstWrongLineIsNamed) {
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += kTwoChats;
  lines += "{\"messages\": 3}\n{\"messages\": 4}\n";
  const TextSource source = chats(lines);
  expect_usage_error([&] { open(source); },
                     source.path + ":601: field 'messages' is a number; expected a list of messages");
  EXPECT_EQ(cached_files(), 0u);
}

TEST_F(ChatFileTest, WhatTheTemplateRefusesIsNamedByItsLine) {
  TextEncoder encoder = letter_encoder();
  encoder.encode_chat = [](const Conversation& conversation) -> EncodedTurns {
    if (conversation.messages.size() > 2) fail("roles must alternate");
    return {.ids = {1}, .in_loss = {true}};
  };
  const TextSource source = chats(kTwoChats);
  expect_usage_error([&] { open(source, encoder); }, source.path + ":3: roles must alternate");
}

TEST_F(ChatFileTest, AnswersWithoutAnEndAreCounted) {
  TextEncoder encoder = letter_encoder();
  encoder.encode_chat = [](const Conversation& conversation) -> EncodedTurns {
    if (conversation.messages.size() > 2)
      return {.ids = {1, 2, 256, 3, 256}, .in_loss = {false, true, false, true, true}};
    return {.ids = {1, 2, 256}, .in_loss = {false, true, true}};
  };
  EXPECT_EQ(open(chats(kTwoChats), encoder).statistics().answers_without_end, 1);
}

}  // namespace
}  // namespace deeptitan
