#include "data/tokenizer_encoder.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

/// Every byte a token (of the byte-level alphabet a few letters only), one merge, one special token.
constexpr const char* kTokenizer = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{"id": 5, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "<": 2, ">": 3, "ab": 4, "e": 6, "o": 7, "s": 8}, "merges": ["a b"]}})";

TEST(TokenizerEncoder, SpecialTokensInATextAreText) {
  const TextEncoder encoder = make_text_encoder(Tokenizer::from_json(kTokenizer, R"({"eos_token": "<eos>"})"));
  std::vector<int32_t> tokens = {42};
  encoder.encode("ab<eos>", tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{42, 4, 2, 6, 7, 8, 3}));
  EXPECT_EQ(encoder.eos_token_id, 5);
  EXPECT_EQ(encoder.token_bytes(4), 2);
  EXPECT_EQ(encoder.token_bytes(5), 0);
  EXPECT_EQ(encoder.fingerprint.size(), 32u);
}

TEST(TokenizerEncoder, WithoutAnEndOfTextIsAnError) {
  expect_usage_error([] { make_text_encoder(Tokenizer::from_json(kTokenizer)); },
                     "the tokenizer names no eos_token, which stands between two documents; add it to "
                     "tokenizer_config.json");
}

std::shared_ptr<const ChatTemplate> shared_template(const std::string& source, const std::string& config) {
  return std::make_shared<const ChatTemplate>(ChatTemplate::from_texts(source, config));
}

// The end of text is what padding is made of, too: it is learnt by its place, not by its id.
TEST(TokenizerEncoder, OfAConversationTheAnswersAndTheirEndsAreLearnt) {
  const std::string config = R"({"eos_token": "<eos>", "pad_token": "<eos>"})";
  const char* chat_template =
      "{% for m in messages %}{{ 'b' if m.role == 'user' else 'a' }}{{ m.content }}{{ eos_token }}{% endfor %}"
      "{% if add_generation_prompt %}a{% endif %}";
  const Tokenizer tokenizer = Tokenizer::from_json(kTokenizer, config, chat_template);
  const TextEncoder plain = make_text_encoder(tokenizer);
  EXPECT_FALSE(plain.encode_chat);
  const TextEncoder encoder = make_text_encoder(tokenizer, shared_template(chat_template, config));
  EXPECT_EQ(encoder.fingerprint, plain.fingerprint);
  const EncodedTurns turns =
      encoder.encode_chat({.messages = {{"user", "e"}, {"assistant", "bo"}, {"user", "o"}, {"assistant", ""}}});
  //                                             b  e  $  a  b  o  $  b  o  $  a  $
  EXPECT_EQ(turns.ids, (std::vector<int32_t>{1, 6, 5, 0, 1, 7, 5, 1, 7, 5, 0, 5}));
  EXPECT_EQ(turns.in_loss, (std::vector<bool>{0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1}));

  const Tokenizer other = Tokenizer::from_json(kTokenizer, config, std::string(chat_template) + " ");
  const TextEncoder changed = make_text_encoder(other, shared_template(other.chat_template_jinja(), config));
  EXPECT_NE(changed.chat_fingerprint, encoder.chat_fingerprint);
  EXPECT_EQ(changed.fingerprint, encoder.fingerprint);
}

TEST(TokenizerEncoder, VariablesOfTheRunAreGivenToTheTemplateUnlessAConversationSetsThem) {
  const std::string config = R"({"eos_token": "<eos>"})";
  const char* source =
      "{% for m in messages %}{{ style }}{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ "
      "style }}{% endif %}";
  const Tokenizer tokenizer = Tokenizer::from_json(kTokenizer, config, source);
  const auto encoder_of = [&](const std::string& variables) {
    return make_text_encoder(tokenizer, shared_template(source, config), variables);
  };
  const Conversation conversation{.messages = {{"user", "e"}, {"assistant", "o"}}};
  Conversation own = conversation;
  own.variables.set(jinja::Value("style"), jinja::Value("b"));
  const TextEncoder without = encoder_of("{}"), with = encoder_of(R"({"style": "a"})");
  EXPECT_EQ(without.encode_chat(conversation).ids, (std::vector<int32_t>{6, 5, 7, 5}));
  EXPECT_EQ(with.encode_chat(conversation).ids, (std::vector<int32_t>{0, 6, 5, 0, 7, 5}));
  EXPECT_EQ(with.encode_chat(own).ids, without.encode_chat(own).ids);
  EXPECT_NE(with.chat_fingerprint, without.chat_fingerprint);
  expect_usage_error(
      [&] { encoder_of(R"({"thinking": true})"); },
      "model.template_variables: the chat template reads no variable 'thinking', so it would change nothing; it "
      "reads add_generation_prompt, eos_token, messages, style");
}

}  // namespace
}  // namespace deeptitan
