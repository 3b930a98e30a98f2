#include "data/chat_line.h"

#include <gtest/gtest.h>

#include "chat/chat_template.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

void expect_refused(const std::string& line, const std::string& message, const std::string& field = "messages") {
  expect_usage_error([&] { parse_chat_line(line, field, "chats.jsonl:7"); }, "chats.jsonl:7: " + message);
}

TEST(ChatLine, RolesAndContentsInOrder) {
  const std::vector<ChatMessage> messages =
      parse_chat_line(
          R"({"id": 5, "messages": [{"role": "system", "content": "Be brief."}, {"content": "Hi\n", "role": "user", "name": "x"},
          {"role": "assistant", "content": ""}]})",
          "messages", "chats.jsonl:7")
          .messages;
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[0].content, "Be brief.");
  EXPECT_EQ(messages[1].role, "user");
  EXPECT_EQ(messages[1].content, "Hi\n");
  EXPECT_EQ(messages[2].role, "assistant");
  EXPECT_EQ(messages[2].content, "");
}

TEST(ChatLine, TheFieldIsTheOneNamed) {
  const std::string line = R"({"conversation": [{"role": "assistant", "content": "a"}], "source": "x"})";
  EXPECT_EQ(parse_chat_line(line, "conversation", "a:1").messages.size(), 1u);
  expect_refused(
      line,
      "no field 'conversations'; did you mean 'conversation'? (fields: conversation, source); expected a list of "
      "messages, which messages_field of the source names, or conversations, instruction and output, or "
      "prompt and completion",
      "conversations");
}

TEST(ChatLine, WhatIsNoConversationIsNamed) {
  expect_refused("[1]", "messages[0] is a number; expected an object with a role and a content");
  expect_refused("3", "expected a JSON object with a list of messages, or such a list, found number");
  expect_refused("{\"messages\": ", "not valid JSON: it ends too early (byte 14, at messages)");
  expect_refused(R"({"messages": "Hi"})", "field 'messages' is a text; expected a list of messages");
  expect_refused(R"({"messages": []})", "no message of the assistant, so there is nothing to learn; remove the line");
  expect_refused(R"({"messages": [{"role": "user", "content": "Hi"}]})",
                 "no message of the assistant, so there is nothing to learn; remove the line");
}

TEST(ChatLine, WhatIsNoMessageIsNamedByItsPlace) {
  const auto second = [](const std::string& message) {
    return R"({"messages": [{"role": "user", "content": "Hi"}, )" + message + "]}";
  };
  expect_refused(second("3"), "messages[1] is a number; expected an object with a role and a content");
  expect_refused(second(R"({"who": "gpt", "value": "x"})"),
                 "messages[1] has no 'role' (keys: who, value); expected a role and a content");
  expect_refused(second(R"({"role": "assistant"})"),
                 "messages[1] has no 'content' (keys: role); expected a role and a content");
  expect_refused(second(R"({"role": "assistant", "content": null})"),
                 "messages[1]: 'content' is null; expected a text, a list of parts, or null beside tool_calls");
  expect_refused(second(R"({"role": "assistant", "content": 3})"),
                 "messages[1]: 'content' is a number; expected a text, a list of parts, or null beside tool_calls");
  expect_refused(second(R"({"role": "assistant", "content": [{"type": "image"}]})"),
                 "messages[1]: content[0] is a part of type 'image'; only parts of text can be read");
  expect_refused(second(R"({"role": "assistant", "content": [{"text": "a"}]})"),
                 "messages[1]: content[0] has no 'type'; a part of text is {\"type\": \"text\", \"text\": \"...\"}");
  expect_refused(
      second(R"({"role": "asistant", "content": "x"})"),
      "messages[1] has role 'asistant'; did you mean 'assistant'? (roles: system, developer, user, assistant, "
      "tool)");
  expect_refused(
      second(R"({"role": "assistant", "content": "x", "weight": 0})"),
      "messages[1] has 'weight', which is not supported: every message of the assistant is trained on alike, "
      "and its calls stand in tool_calls; remove it");
  expect_refused(second(R"({"role": "assistant", "content": "x", "tool_calls": "f"})"),
                 "messages[1]: 'tool_calls' is a text; expected a list of calls");
}

std::string roles_and_texts(const Conversation& conversation) {
  std::string all;
  for (const ChatMessage& message : conversation.messages) all += message.role + ":" + message.content + "|";
  return all;
}

TEST(ChatLine, PartsToolCallsAndToolResultsReachTheTemplate) {
  const Conversation chat = parse_chat_line(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]},
          {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "b": 2}}}]},
          {"role": "tool", "content": "4", "tool_call_id": "c"}, {"role": "assistant", "content": "b", "reasoning_content": "r"}],
          "tools": [{"type": "function"}], "chat_template_kwargs": {"thinking": true}})",
      "messages", "a:1");
  EXPECT_EQ(roles_and_texts(chat), "user:|assistant:|tool:4|assistant:b|");
  const ChatTemplate chat_template = ChatTemplate::from_texts(
      "{{ thinking }}{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{% endfor %}", "");
  EXPECT_EQ(
      chat_template.render(chat.messages, {.tools = chat.tools, .variables = chat.variables}),
      R"(True[{"type": "function"}]{"role": "user", "content": [{"type": "text", "text": "a"}]})"
      R"({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "b": 2}}}]})"
      R"({"role": "tool", "content": "4", "tool_call_id": "c"})"
      R"({"role": "assistant", "content": "b", "reasoning_content": "r"})");
  const Conversation as_text =
      parse_chat_line(R"({"messages": [{"role": "assistant", "content": "a"}], "tools": "[{\"type\": \"function\"}]"})",
                      "messages", "a:1");
  EXPECT_TRUE(as_text.tools.truthy());
}

TEST(ChatLine, OtherShapesAreKnownByTheirKeys) {
  const auto read = [](const std::string& line) { return roles_and_texts(parse_chat_line(line, "messages", "a:1")); };
  EXPECT_EQ(
      read(R"({"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})"),
      "system:s|user:a|assistant:b|");
  EXPECT_EQ(read(R"({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"),
            "user:a|assistant:b|");
  EXPECT_EQ(read(R"({"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})"),
            "user:a|assistant:b|");
  EXPECT_EQ(read(R"({"instruction": "a", "input": "b", "output": "c"})"), "user:a\n\nb|assistant:c|");
  EXPECT_EQ(read(R"({"instruction": "a", "input": "", "output": "c", "system": "s", "history": [["q", "r"]]})"),
            "system:s|user:q|assistant:r|user:a|assistant:c|");
  EXPECT_EQ(read(R"({"prompt": "a", "completion": "b"})"), "user:a|assistant:b|");
  EXPECT_EQ(read(R"({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
                     "completion": [{"role": "assistant", "content": "b"}]})"),
            "system:s|user:a|assistant:b|");
  EXPECT_EQ(read(R"([{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}])"), "user:a|assistant:b|");
  expect_refused(R"({"conversations": [{"from": "narrator", "value": "a"}]})",
                 "conversations[0] is from 'narrator'; expected one of system, human, user, gpt, assistant, chatgpt, "
                 "model, tool, observation, function_response");
  expect_refused(R"({"prompt": "a", "chosen": "b", "rejected": "c"})",
                 "'chosen' belongs to pairs of answers for learning a preference, which there is no training for; give "
                 "conversations, or name the list to learn with messages_field");
  expect_refused(R"({"prompt": "a", "completion": "b", "label": false})",
                 "'label' says whether an answer is wanted, for learning a preference, which there is no training for; "
                 "keep the lines with true and remove their label");
  expect_refused(R"({"messages": [{"role": "assistant", "content": "a"}], "tools": 3})",
                 "'tools' is a number; expected a list of tools");
  expect_refused(R"({"messages": [{"role": "assistant", "content": "a"}], "chat_template_kwargs": [1]})",
                 "'chat_template_kwargs' must be an object of the template's variables");
}

}  // namespace
}  // namespace deeptitan
