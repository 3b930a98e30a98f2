#include "generate/chat_session.h"

#include <string>

#include <gtest/gtest.h>

#include "generate/model_fixture.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;

constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}";

class ChatSessionTest : public ::testing::Test {
 protected:
  const ModelConfig config_ = testing::with_tokenizer(testing::tiny_v3());
  const Tokenizer tokenizer_ = testing::tiny_tokenizer();
  std::unique_ptr<InferenceEngine> engine_ = drawn_engine(config_);

  ChatSession session(const std::string& chat_template = kTemplate) {
    return ChatSession(*engine_, tokenizer_,
                       ChatTemplate::from_texts(chat_template, tokenizer_.tokenizer_config_json()), {1});
  }
  // Thinking in brackets.
  std::string ask(ChatSession& s, const std::string& question, GenerationOptions options = {.max_new_tokens = 5}) {
    std::string out;
    last_ = s.ask(question, options, [&](std::string_view piece, bool thinking) {
      out += thinking ? "[" + std::string(piece) + "]" : std::string(piece);
    });
    return out;
  }
  ChatTurn last_;
};

TEST_F(ChatSessionTest, EachQuestionSeesTheWholeConversationAndRunsOnlyWhatIsNew) {
  ChatSession chat = session();
  chat.set_system("be kind");
  const std::string first = ask(chat, "the day");
  EXPECT_EQ(last_.generation.cached_tokens, 0);
  const int64_t first_prompt = last_.generation.prompt_tokens;
  const std::vector<int32_t> expected =
      tokenizer_.encode("be kind<｜User｜>the day<｜Assistant｜>");  // one bos, though the template writes it too
  EXPECT_EQ(first_prompt, static_cast<int64_t>(expected.size()));

  const std::string second = ask(chat, "and the night");
  EXPECT_GE(last_.generation.cached_tokens, first_prompt);
  const std::vector<ChatMessage> messages = chat.messages();
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[1].content, "the day");
  EXPECT_EQ(messages[2].role, "assistant");
  EXPECT_EQ(messages[2].content, first);
  EXPECT_EQ(messages[3].content, "and the night");
  EXPECT_EQ(messages[4].content, second);

  // The same answers as without a cache.
  const auto fresh_engine = drawn_engine(config_);
  TextGenerator fresh(*fresh_engine, tokenizer_, {1});
  const std::string text =
      "be kind<｜User｜>the day<｜Assistant｜>" + first + "<｜end▁of▁sentence｜><｜User｜>and the night<｜Assistant｜>";
  EXPECT_EQ(fresh.generate(tokenizer_.encode(text), {.max_new_tokens = 5}, [](std::string_view) {}).text, second);

  chat.reset();
  EXPECT_EQ(chat.messages().size(), 1u);
}

TEST_F(ChatSessionTest, AQuestionCanBeTakenBackAndAConversationGoneOnWith) {
  ChatSession chat = session();
  EXPECT_FALSE(chat.undo());
  chat.set_system("be kind");
  ask(chat, "the day");
  const std::string second = ask(chat, "and the night");
  const std::vector<ChatMessage> whole = chat.messages();
  EXPECT_EQ(chat.undo(), "and the night");
  EXPECT_EQ(chat.messages().size(), 3u);
  EXPECT_EQ(ask(chat, "and the night"), second);
  ChatSession other = session();
  other.load(whole);
  EXPECT_EQ(other.system(), "be kind");
  EXPECT_EQ(other.undo(), "and the night");
  EXPECT_EQ(ask(other, "and the night"), second);
  expect_usage_error(
      [&] {
        other.load({{"user", "a"}, {"tool", "b"}});
      },
      "message 1 has role 'tool'; a conversation has user, assistant, and system at its beginning");
  EXPECT_EQ(other.messages().size(), 5u);
}

TEST_F(ChatSessionTest, TheOldestQuestionsFallOutOfAFullContext) {
  engine_ = drawn_engine(config_, {.context_length = 40});
  ChatSession chat = session();
  chat.set_system("so");
  int64_t forgotten = 0;
  for (int i = 0; i < 6; ++i) {
    ask(chat, "the light", {.max_new_tokens = 6});
    forgotten += last_.forgotten_messages;
    EXPECT_LE(engine_->length(), 40);
    EXPECT_EQ(chat.messages().front().role, "system");
    EXPECT_EQ(chat.messages()[1].role, "user");
  }
  EXPECT_GT(forgotten, 0);
  EXPECT_EQ(forgotten % 2, 0);  // a question goes with its answer
  EXPECT_EQ(static_cast<int64_t>(chat.messages().size()), 1 + 12 - forgotten);
  // What is saved has all of them, in order.
  const std::vector<ChatMessage> all = chat.transcript();
  ASSERT_EQ(all.size(), 1u + 12u);
  EXPECT_EQ(all[0].role, "system");
  for (size_t i = 1; i < all.size(); ++i) EXPECT_EQ(all[i].role, i % 2 == 1 ? "user" : "assistant");
}

TEST_F(ChatSessionTest, AQuestionThatDoesNotFitLeavesTheConversationAsItWas) {
  engine_ = drawn_engine(config_, {.context_length = 16});
  ChatSession chat = session();
  ask(chat, "a", {.max_new_tokens = 2});
  EXPECT_THROW(ask(chat, std::string(100, 'x')), Error);
  EXPECT_EQ(chat.messages().size(), 2u);
}

TEST_F(ChatSessionTest, ThinkingThatTheTemplateOpensIsToldApart) {
  ChatSession chat = session(std::string(kTemplate) + "{% if add_generation_prompt %}<think>\n{% endif %}");
  const std::string out = ask(chat, "the day");
  EXPECT_TRUE(out.starts_with("[")) << out;
  EXPECT_TRUE(chat.messages().back().content.starts_with("<think>\n"));
}

}  // namespace
}  // namespace deeptitan
