#include "chat/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"
#include "tokenizer/bpe_trainer.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::vector<ChatMessage> kConversation = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello!"}, {"user", "Bye"}, {"assistant", "See you."}};
constexpr const char* kConfig =
    R"({"bos_token": {"content": "<｜begin▁of▁sentence｜>"}, "eos_token": "<｜end▁of▁sentence｜>", "pad_token": null})";

std::string template_text(const std::string& name) {
  return read_file(fs::path(DT_TEST_DATA_DIR) / "golden/chat_templates" / (name + ".jinja"));
}

ChatTemplate family(const std::string& name) {
  return ChatTemplate::from_texts(template_text(name), kConfig);
}

std::vector<std::string> assistant_parts(const RenderedTurns& turns) {
  std::vector<std::string> parts;
  for (const TextSpan& span : turns.assistant) parts.push_back(turns.text.substr(span.begin, span.end - span.begin));
  return parts;
}

TEST(ChatTemplate, RendersWithTheSpecialTokensOfTheConfig) {
  const ChatTemplate v2 = family("deepseek_v2");
  EXPECT_EQ(v2.render({{"user", "Hi"}}), "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant:");
  EXPECT_EQ(v2.render({{"user", "Hi"}, {"assistant", "Yo"}}, {.add_generation_prompt = false}),
            "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant: Yo<｜end▁of▁sentence｜>");
  EXPECT_EQ(ChatTemplate::from_texts("{{ bos_token is defined }}{{ pad_token is defined }}{{ tools is none }}", kConfig)
                .render({{"user", "Hi"}}),
            "TrueFalseTrue");
  EXPECT_EQ(ChatTemplate::from_texts("{{ bos_token }}|{{ messages | length }}", "").render({{"user", "Hi"}}), "|1");
}

TEST(ChatTemplate, FurtherVariablesAndMessagesOfAnyShapeReachTheTemplate) {
  ChatRenderOptions options;
  options.variables.set("thinking", true);
  EXPECT_EQ(family("deepseek_v3_1").render({{"user", "Hi"}}, options),
            "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>");
  const jinja::Value messages = jinja::value_from_json(R"([{"role": "tool", "content": "a", "id": 7}])", "messages");
  EXPECT_EQ(ChatTemplate::from_texts("{{ messages[0].id }}", "").render_messages(messages), "7");
}

// A template that joins contents as texts gets the text of a content of parts; one that looks at parts gets the parts.
TEST(ChatTemplate, PartsAreATextWhereTheTemplateTakesNone) {
  const jinja::Value parts = jinja::value_from_json(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "assistant", "content": [{"type": "text", "text": "c"}]}])",
      "x");
  const std::vector<ChatMessage> messages = messages_from_value(parts, "x");
  EXPECT_EQ(text_of(messages[0]), "a\nb");
  const std::vector<ChatMessage> texts = {{"user", "a\nb"}, {"assistant", "c"}};
  const std::string config = R"({"bos_token": "<s>", "eos_token": "</s>"})";
  for (const char* name : {"deepseek_v2", "deepseek_v2_5", "deepseek_v3", "deepseek_v3_1", "deepseek_r1"}) {
    const ChatTemplate joins = ChatTemplate::from_texts(template_text(name), config);
    EXPECT_EQ(joins.render(messages), joins.render(texts)) << name;
    EXPECT_EQ(joins.render_messages(parts), joins.render(texts)) << name;
    const RenderedTurns turns = joins.render_turns(messages);
    EXPECT_EQ(turns.text, joins.render_turns(texts).text) << name;
    EXPECT_EQ(turns.assistant.size(), 1u) << name;
  }
  const ChatTemplate prints = ChatTemplate::from_texts("{% for m in messages %}{{ m.content }};{% endfor %}", "");
  EXPECT_EQ(prints.render(messages), "a\nb;c;");
  const ChatTemplate looks = ChatTemplate::from_texts(
      "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
      "[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}",
      "");
  EXPECT_EQ(looks.render(messages), "[a][b][c]");
}

TEST(ChatTemplate, ReadsADirectoryInTheOrderThatTransformersDoes) {
  const TemporaryFolder directory;
  const fs::path& path = directory.path();
  const auto load = [&](const std::string& name = "default") {
    return ChatTemplate::load(path, {}, name).render({{"user", "x"}});
  };
  write_file(path / "tokenizer_config.json",
             Json({{"bos_token", "B"}, {"chat_template", "config {{ bos_token }}"}}).dump());
  EXPECT_EQ(load(), "config B");
  write_file(
      path / "tokenizer_config.json",
      Json({{"bos_token", "B"},
            {"chat_template",
             {{{"name", "default"}, {"template", "list"}}, {{"name", "rag"}, {"template", "rag {{ bos_token }}"}}}}})
          .dump());
  EXPECT_EQ(load(), "list");
  EXPECT_EQ(load("rag"), "rag B");
  write_file(path / "chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(load(), "file B");
  fs::create_directory(path / "chat_templates");
  write_file(path / "chat_templates" / "tool_use.jinja", "tools");
  EXPECT_EQ(load("tool_use"), "tools");
  EXPECT_EQ(load("rag"), "rag B");
  write_file(path / "own.jinja", "own {{ bos_token }}");
  EXPECT_EQ(ChatTemplate::load(path, path / "own.jinja").render({{"user", "x"}}), "own B");
  EXPECT_EQ(message_of([&] { load("nosuch"); }),
            path.string() + " has no chat template named 'nosuch'; it has default, rag, tool_use");
}

TEST(ChatTemplate, SaysWhatIsMissingOrWrong) {
  const TemporaryFolder directory;
  const std::string path = directory.path().string();
  const auto load = [&] { ChatTemplate::load(directory.path()); };
  EXPECT_EQ(message_of(load),
            path +
                " has no chat template: a directory has one in chat_template.jinja, in chat_templates/ or as "
                "chat_template in tokenizer_config.json; give one with --chat-template FILE");
  EXPECT_EQ(message_of([&] { ChatTemplate::load(path + "/no"); }),
            path + "/no is not a directory; name a Hugging Face model directory");
  write_file(path + "/tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_EQ(message_of(load),
            path +
                "/tokenizer_config.json: chat_template must be a text or a list of names and templates, "
                "not a int");
  write_file(path + "/tokenizer_config.json", R"({"chat_template": [{"name": "x"}]})");
  EXPECT_EQ(message_of(load),
            path + "/tokenizer_config.json: each entry of chat_template must have a name and a template, both texts");
  write_file(path + "/chat_template.jinja", "{{ messages[0].content }}\n{% if %}");
  EXPECT_EQ(message_of(load), path + "/chat_template.jinja line 2: expected an expression, got '%}'");
  write_file(path + "/chat_template.jinja", "\n{{ raise_exception('no system role') }}");
  EXPECT_EQ(message_of([&] {
              ChatTemplate::load(directory.path()).render({{"user", "x"}});
            }),
            path + "/chat_template.jinja line 2: no system role");
}

TEST(ChatTemplate, TheLossStandsOnWhatTheAssistantAdds) {
  EXPECT_EQ(assistant_parts(family("deepseek_v2").render_turns(kConversation)),
            (std::vector<std::string>{" Hello!<｜end▁of▁sentence｜>", " See you.<｜end▁of▁sentence｜>"}));
  const std::vector<std::string> plain = {"Hello!<｜end▁of▁sentence｜>", "See you.<｜end▁of▁sentence｜>"};
  for (const char* name :
       {"deepseek_v2_5", "deepseek_v3", "deepseek_v3_0324", "deepseek_v3_1", "deepseek_r1", "deepseek_r1_distill"}) {
    SCOPED_TRACE(name);
    const ChatTemplate chat = family(name);
    const RenderedTurns turns = chat.render_turns(kConversation);
    EXPECT_EQ(turns.text, chat.render(kConversation, {.add_generation_prompt = false}));
    EXPECT_EQ(assistant_parts(turns), plain);
  }
}

TEST(ChatTemplate, TheLossEndsWithTheEosToken) {
  const ChatTemplate chat = ChatTemplate::from_texts(
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}E\n{% endfor %}{% if add_generation_prompt %}<assistant>{% "
      "endif %}",
      R"({"eos_token": "E"})");
  const RenderedTurns turns = chat.render_turns(kConversation);
  EXPECT_EQ(assistant_parts(turns), (std::vector<std::string>{"Hello!E", "See you.E"}));
  EXPECT_EQ(assistant_parts(chat.render_turns({{"assistant", "first"}})), std::vector<std::string>{"firstE"});
  EXPECT_EQ(assistant_parts(family("deepseek_r1").render_turns({{"user", "x"}, {"assistant", ""}})),
            std::vector<std::string>{"<｜end▁of▁sentence｜>"});
  EXPECT_TRUE(chat.render_turns({{"user", "x"}}).assistant.empty());
  EXPECT_EQ(chat.render_turns({}).text, "");
}

TEST(ChatTemplate, ALossThatCannotBePlacedIsAnError) {
  EXPECT_EQ(
      message_of([] {
        family("deepseek_r1").render_turns({{"user", "x"}, {"assistant", "<think>a</think>b"}});
      }),
      "the chat template alters the text of message 1 (assistant), so no loss can be placed on it; write the message "
      "as the template prints it (R1 templates drop what stands before </think>)");
  const ChatTemplate last_only = ChatTemplate::from_texts("{{ messages[-1].content }}", "");
  EXPECT_EQ(message_of([&] { last_only.render_turns(kConversation); }),
            "message 1 (user) changes how the chat template renders the messages before it; this template cannot be "
            "trained on turn by turn");
}

TEST(ChatTemplate, ExactlyOneBosWhoeverAddsIt) {
  const std::string_view text = "Be brief. Hi Hello! Bye See you.";
  const Tokenizer tokenizer = train_bpe(std::span(&text, 1), {.vocab_size = 280, .min_frequency = 1});
  const int32_t bos = *tokenizer.bos_token_id();
  const int32_t eos = *tokenizer.eos_token_id();
  const ChatTemplate with = family("deepseek_v3");
  const ChatTemplate without = ChatTemplate::from_texts("{% for m in messages %}{{ m.content }}{% endfor %}", "");
  for (const ChatTemplate* chat : {&with, &without}) {
    const std::vector<int32_t> ids = encode_rendered(tokenizer, chat->render(kConversation));
    EXPECT_EQ(ids[0], bos);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), bos), 1);
  }
  const EncodedTurns turns = encode_turns(tokenizer, with.render_turns(kConversation));
  ASSERT_EQ(turns.ids.size(), turns.in_loss.size());
  EXPECT_EQ(std::count(turns.ids.begin(), turns.ids.end(), bos), 1);
  std::vector<int32_t> learned;
  for (size_t i = 0; i < turns.ids.size(); ++i) {
    if (turns.in_loss[i]) learned.push_back(turns.ids[i]);
  }
  EXPECT_EQ(tokenizer.decode(learned), "Hello!<｜end▁of▁sentence｜>See you.<｜end▁of▁sentence｜>");
  EXPECT_EQ(std::count(learned.begin(), learned.end(), eos), 2);
  EXPECT_EQ(tokenizer.decode(turns.ids), with.render(kConversation, {.add_generation_prompt = false}));
  EXPECT_EQ(encode_rendered(tokenizer, ""), std::vector<int32_t>{bos});
}

}  // namespace
}  // namespace deeptitan
