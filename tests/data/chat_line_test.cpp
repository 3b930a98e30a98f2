#include "data/chat_line.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

void expect_refused(const std::string& line, const std::string& message, const std::string& field = "messages") {
  expect_usage_error([&] { parse_chat_line(line, field, "chats.jsonl:7"); }, "chats.jsonl:7: " + message);
}

TEST(ChatLine, RolesAndContentsInOrder) {
  const auto messages = parse_chat_line(
      R"({"id": 5, "messages": [{"role": "system", "content": "Be brief."}, {"content": "Hi\n", "role": "user", "name": "x"},
          {"role": "assistant", "content": ""}]})",
      "messages", "chats.jsonl:7");
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
  EXPECT_EQ(parse_chat_line(line, "conversation", "a:1").size(), 1u);
  expect_refused(line,
                 "no field 'conversations'; did you mean 'conversation'? (fields: conversation, source); set "
                 "messages_field of the source to the one that holds the messages",
                 "conversations");
}

TEST(ChatLine, WhatIsNoConversationIsNamed) {
  expect_refused("[1]", "expected a JSON object on each line of a chat file");
  expect_refused("{\"messages\": ", "expected a JSON object on each line of a chat file");
  expect_refused(R"({"messages": "Hi"})", "field 'messages' is string; expected a list of messages");
  expect_refused(R"({"messages": []})", "no message of the assistant, so there is nothing to learn; remove the line");
  expect_refused(R"({"messages": [{"role": "user", "content": "Hi"}]})",
                 "no message of the assistant, so there is nothing to learn; remove the line");
}

TEST(ChatLine, WhatIsNoMessageIsNamedByItsPlace) {
  const auto second = [](const std::string& message) {
    return R"({"messages": [{"role": "user", "content": "Hi"}, )" + message + "]}";
  };
  expect_refused(second("3"), "messages[1] is number; expected an object with a role and a content");
  expect_refused(second(R"({"from": "gpt", "value": "x"})"),
                 "messages[1] has no 'role' (keys: from, value); expected a role and a content");
  expect_refused(second(R"({"role": "assistant"})"),
                 "messages[1] has no 'content' (keys: role); expected a role and a content");
  expect_refused(second(R"({"role": "assistant", "content": null})"),
                 "messages[1]: 'content' is null; expected a text");
  expect_refused(second(R"({"role": "asistant", "content": "x"})"),
                 "messages[1] has role 'asistant'; did you mean 'assistant'? (roles: system, user, assistant)");
  expect_refused(
      second(R"({"role": "assistant", "content": "x", "tool_calls": []})"),
      "messages[1] has 'tool_calls', which is not supported: a message is trained on as its role and content "
      "alone, and every message of the assistant is; remove it");
}

}  // namespace
}  // namespace deeptitan
