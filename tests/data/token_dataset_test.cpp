#include "data/token_dataset.h"

#include <gtest/gtest.h>

#include "core/log.h"
#include "data/letter_encoder.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(ValidationCut, IsAtTheLastPartOrTheNextDocument) {
  const std::vector<int32_t> tokens(1000);
  const auto cut = [&](std::vector<int64_t> starts, double fraction) {
    return validation_cut({tokens, starts, 0, 1000}, fraction);
  };
  EXPECT_EQ(cut({0, 1000}, 0.05), 950);       // one document is cut inside
  EXPECT_EQ(cut({0, 953, 1000}, 0.05), 953);  // a document begins within a tenth of 50 tokens
  EXPECT_EQ(cut({0, 955, 1000}, 0.05), 955);
  EXPECT_EQ(cut({0, 956, 1000}, 0.05), 950);
  EXPECT_EQ(cut({0, 950, 1000}, 0.05), 950);
  EXPECT_EQ(cut({0, 500, 1000}, 0.0), 1000);
}

TEST(TokenDataset, HoldsOutTheEndOrReadsTheNamedText) {
  set_log_quiet(true);
  const TemporaryFolder folder;
  TextSource source;
  source.path = folder.write("a.txt", std::string(99, 'x'));
  const auto cache = folder.path() / "cache";
  {
    const TokenDataset dataset(source, 0.05, letter_encoder(), cache);
    EXPECT_EQ(dataset.name(), "a");
    EXPECT_EQ(dataset.training().size(), 95);
    EXPECT_EQ(dataset.validation().first, 95);
    EXPECT_EQ(dataset.validation().end, 100);
    const TokenDataset whole(source, 0.0, letter_encoder(), cache);
    EXPECT_EQ(whole.validation().size(), 0);
    EXPECT_NE(whole.fingerprint(), dataset.fingerprint());
  }
  source.validation_path = folder.write("v.txt", "yz");
  const TokenDataset dataset(source, 0.05, letter_encoder(), cache);
  EXPECT_EQ(dataset.training().size(), 100);
  EXPECT_EQ(dataset.validation().size(), 3);
  EXPECT_EQ(dataset.validation().tokens[0], 'y');
}

TEST(OpenDatasets, TokensOutsideTheVocabularyAreRefused) {
  set_log_quiet(true);
  const TemporaryFolder folder;
  RunConfig config;
  config.data.sources.resize(1);
  config.data.sources[0].path = folder.write("a.txt", "abc");
  config.data.cache_folder = (folder.path() / "cache").string();
  EXPECT_EQ(open_datasets(config, letter_encoder(), 257).size(), 1u);
  expect_usage_error(
      [&] { open_datasets(config, letter_encoder(), 256); },
      "the tokenizer gives token 256 but the model's vocab_size is 256; set model.shape.vocab_size to at "
      "least 257, or use the model's own tokenizer");
}

TEST(TokenDataset, HoldsOutWholeConversations) {
  set_log_quiet(true);
  const TemporaryFolder folder;
  TextSource source;
  source.format = SourceFormat::kChat;
  std::string lines;
  for (int i = 0; i < 10; ++i) {
    lines +=
        fmt::format(R"({{"messages": [{{"role": "assistant", "content": "{}"}}]}})", std::string(i + 1, 'x')) + "\n";
  }
  source.path = folder.write("chats.jsonl", lines);
  const auto held_out = [&](double fraction) {
    return TokenDataset(source, fraction, letter_encoder(), folder.path() / "cache").validation().size();
  };
  EXPECT_EQ(held_out(0.0), 0);
  EXPECT_EQ(held_out(0.04), 0);
  EXPECT_EQ(held_out(0.05), 12);  // the last: a role, ten letters and an end
  EXPECT_EQ(held_out(0.2), 12 + 11);
  EXPECT_EQ(held_out(0.5), 12 + 11 + 10 + 9 + 8);
}

}  // namespace
}  // namespace deeptitan
