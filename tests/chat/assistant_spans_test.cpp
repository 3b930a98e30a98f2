#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "chat/chat_template.h"
#include "core/error.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "tokenizer/bpe_trainer.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using Messages = std::vector<ChatMessage>;

constexpr const char* kEos = "<｜end▁of▁sentence｜>";
constexpr const char* kMarker = "Qz7Qz";

// Answers that occur in headers, are empty, end in white space, or hold the text of special tokens.
const std::vector<std::string> kHardAnswers = {"A",
                                               "s",
                                               "t",
                                               "Assistant",
                                               "assistant",
                                               "<",
                                               "think",
                                               "",
                                               "ok \n",
                                               " led by a space",
                                               "\n",
                                               "｜",
                                               "user",
                                               "Be brief.",
                                               "<｜Assistant｜>",
                                               "<｜User｜>x",
                                               "<|im_end|>x",
                                               "a<｜end▁of▁sentence｜>b",
                                               "<｜end▁of▁sentence｜>",
                                               "question",
                                               "next"};

ChatTemplate with_eos(const std::string& source, const std::string& eos) {
  const nlohmann::json config = {{"bos_token", "<｜begin▁of▁sentence｜>"}, {"eos_token", eos}};
  return ChatTemplate::from_texts(source, config.dump());
}

std::string render(const ChatTemplate& chat, const Messages& messages, bool prompt) {
  return chat.render(messages, {.add_generation_prompt = prompt});
}

Messages joined(const Messages& before, const std::string& answer, const Messages& after) {
  Messages all = before;
  all.push_back({"assistant", answer});
  all.insert(all.end(), after.begin(), after.end());
  return all;
}

// Where the loss of the answer lies, from whole renderings alone: with a marker in the answer's place, what stands
// before it as the prompt has it is the header, and what stands behind its first end token is the rest; both stand in
// the rendering of the answer as well. Nothing where the template does other things with the answer than with the
// marker.
std::optional<TextSpan> expected_span(const ChatTemplate& chat, const std::string& eos, const Messages& before,
                                      const std::string& answer, const Messages& after) {
  const std::string prompt = render(chat, before, true);
  const std::string marked = render(chat, joined(before, kMarker, after), false);
  const std::string text = render(chat, joined(before, answer, after), false);
  const size_t marker = marked.find(kMarker);
  if (marker == std::string::npos || marked.find(kMarker, marker + 1) != std::string::npos) return std::nullopt;
  size_t begin = 0;
  while (begin < std::min(prompt.size(), marker) && prompt[begin] == marked[begin]) ++begin;
  if (begin < prompt.size() && begin < marker) {
    // Not inside of <...>, which both begin alike.
    const size_t open = marked.rfind('<', begin - 1);
    const size_t close = open == std::string::npos ? open : marked.find('>', open);
    if (close != std::string::npos && close >= begin && close < marker) begin = open;
  }
  // A template that puts the system's message elsewhere in a prompt than in a conversation parts before the question.
  if (marked.substr(begin, marker - begin).find(before.back().content) != std::string::npos) return std::nullopt;
  const size_t end = marked.find(eos, marker);
  if (end == std::string::npos) return std::nullopt;
  // Or ends an answer otherwise where another question follows.
  if (!after.empty() && marked.find(after.front().content, marker) < end) return std::nullopt;
  const std::string rest = marked.substr(end + eos.size());
  if (text.compare(0, begin, marked, 0, begin) != 0 || !text.ends_with(rest)) return std::nullopt;
  if (text.size() < begin + rest.size() + eos.size()) return std::nullopt;
  return TextSpan{begin, text.size() - rest.size()};
}

std::optional<TextSpan> comparable_span(const ChatTemplate& chat, const std::string& eos, const Messages& before,
                                        const std::string& answer, const Messages& after) {
  try {
    return expected_span(chat, eos, before, answer, after);
  } catch (const Error&) {
    return std::nullopt;  // not a conversation for this template
  }
}

struct Tally {
  int equal = 0;
  int different = 0;
  int refused = 0;
  int incomparable = 0;
};

// As encode_turns rounds with the tokens of the template's model, here with anything that looks like one.
TextSpan rounded(TextSpan span, const std::string& text) {
  static const std::regex token("<[^<>\\s]+>");
  for (auto found = std::sregex_iterator(text.begin(), text.end(), token); found != std::sregex_iterator(); ++found) {
    const auto begin = static_cast<size_t>(found->position());
    const size_t end = begin + static_cast<size_t>(found->length());
    if (span.begin_may_cut && begin < span.begin && span.begin < end) span.begin = begin;
    if (span.end_may_cut && begin < span.end && span.end < end) span.end = end;
  }
  return {span.begin, span.end};
}

void compare(const std::string& name, const ChatTemplate& chat, const std::string& eos, Tally& tally) {
  const std::vector<Messages> beginnings = {{{"user", "the question"}},
                                            {{"system", "Be brief."}, {"user", "the question"}}};
  const std::vector<Messages> endings = {{}, {{"user", "the next one"}, {"assistant", "B"}}};
  for (const Messages& before : beginnings) {
    for (const Messages& after : endings) {
      for (const std::string& answer : kHardAnswers) {
        SCOPED_TRACE(name + ", answer \"" + answer + "\", " + std::to_string(before.size()) + " before, " +
                     std::to_string(after.size()) + " after");
        const std::optional<TextSpan> expected = comparable_span(chat, eos, before, answer, after);
        if (!expected) {
          ++tally.incomparable;
          continue;
        }
        try {
          const RenderedTurns turns = chat.render_turns(joined(before, answer, after));
          const TextSpan span = rounded(turns.assistant.front(), turns.text);
          ++(span == *expected ? tally.equal : tally.different);
          const auto shown = [&](const TextSpan& s) {
            return turns.text.substr(0, s.begin) + "[[" + turns.text.substr(s.begin, s.end - s.begin) + "]]" +
                   turns.text.substr(s.end);
          };
          EXPECT_EQ(shown(span), shown(*expected));
        } catch (const Error& error) {
          ++tally.refused;
          std::cout << name << ", answer \"" << answer << "\": " << error.what() << "\n";
        }
      }
    }
  }
}

TEST(AssistantSpans, HardAnswersLieWhereAnIndependentComputationPutsThem) {
  Tally tally;
  for (const auto& entry : fs::directory_iterator(fs::path(DT_TEST_DATA_DIR) / "golden/chat_templates")) {
    if (entry.path().extension() != ".jinja") continue;
    compare(entry.path().stem(), with_eos(read_file(entry.path()), kEos), kEos, tally);
  }
  EXPECT_GT(tally.equal, 500);
  EXPECT_EQ(tally.refused, 0);
  EXPECT_LT(tally.incomparable, tally.equal / 5);
}

TEST(AssistantSpans, HardAnswersOfPublishedTemplates) {
  const char* folder = std::getenv("DEEPTITAN_PUBLISHED_TEMPLATES");
  if (folder == nullptr) GTEST_SKIP() << "set DEEPTITAN_PUBLISHED_TEMPLATES to a folder with chat templates (*.jinja)";
  Tally tally;
  int templates = 0, without_end = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    ++templates;
    const std::string source = read_file(entry.path());
    // The token that ends a turn: what looks like one behind the answer.
    std::string eos;
    try {
      const std::string marked = render(with_eos(source, "<eos>"), {{"user", "q"}, {"assistant", kMarker}}, false);
      const std::string behind = marked.substr(std::min(marked.size(), marked.rfind(kMarker)));
      std::smatch found;
      if (std::regex_search(behind, found, std::regex("<[^<>\\s]+>"))) eos = found.str();
    } catch (const Error& error) {
      std::cout << entry.path().filename() << ": " << error.what() << "\n";
    }
    if (eos.empty()) {
      ++without_end;
      std::cout << entry.path().filename() << ": no end of a turn to compare\n";
      continue;
    }
    compare(entry.path().filename(), with_eos(source, eos), eos, tally);
  }
  std::cout << templates << " templates, " << without_end << " without an end token; answers: " << tally.equal
            << " equal, " << tally.different << " different, " << tally.refused << " refused, " << tally.incomparable
            << " not comparable\n";
  EXPECT_GT(tally.equal, 0);
}

ChatTemplate of_family(const std::string& name) {
  return with_eos(read_file(fs::path(DT_TEST_DATA_DIR) / "golden/chat_templates" / (name + ".jinja")), kEos);
}

std::vector<std::string> answers_of(const RenderedTurns& turns) {
  std::vector<std::string> parts;
  for (const TextSpan& span : turns.assistant) parts.push_back(turns.text.substr(span.begin, span.end - span.begin));
  return parts;
}

TEST(AssistantSpans, TheHeaderKeepsItsSpecialTokenWhole) {
  const std::string_view text = "Assistant A s t think";
  const Tokenizer tokenizer = train_bpe(std::span(&text, 1), {.vocab_size = 270, .min_frequency = 1});
  const std::optional<int32_t> header = tokenizer.token_id("<｜Assistant｜>");
  for (const std::string answer : {"A", "s", "t", "Assistant", "<", "think", ""}) {
    SCOPED_TRACE(answer);
    const EncodedTurns turns =
        encode_turns(tokenizer, of_family("deepseek_r1").render_turns({{"user", "x"}, {"assistant", answer}}));
    std::vector<int32_t> learnt, before;
    for (size_t i = 0; i < turns.ids.size(); ++i) (turns.in_loss[i] ? learnt : before).push_back(turns.ids[i]);
    EXPECT_EQ(tokenizer.decode(learnt), answer + kEos);
    EXPECT_EQ(tokenizer.decode(before), "<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜>");
    ASSERT_TRUE(header.has_value());
    EXPECT_EQ(before.back(), *header);
  }
}

TEST(AssistantSpans, APromptThatPartsInsideATokenLeavesTheTokenWhole) {
  const ChatTemplate chat = with_eos(
      "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else "
      "%}<｜Assistant｜></think>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<｜Assistant｜><think>{% endif %}",
      kEos);
  const RenderedTurns turns = chat.render_turns({{"user", "x"}, {"assistant", "A"}});
  EXPECT_EQ(turns.assistant.front().begin_may_cut, true);
  const std::string_view text = "A x";
  const std::string json = train_bpe(std::span(&text, 1), {.vocab_size = 262, .min_frequency = 1}).tokenizer_json();
  nlohmann::json extended = nlohmann::json::parse(json);
  const auto add = [&](const char* content, int id) {
    nlohmann::json token = extended["added_tokens"][0];
    token["content"] = content;
    token["id"] = id;
    extended["added_tokens"].push_back(token);
  };
  const int first = Tokenizer::from_json(json).vocab_size();
  add("<think>", first);
  add("</think>", first + 1);
  const Tokenizer tokenizer = Tokenizer::from_json(extended.dump());
  const EncodedTurns encoded = encode_turns(tokenizer, turns);
  std::vector<int32_t> learnt;
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    if (encoded.in_loss[i]) learnt.push_back(encoded.ids[i]);
  }
  EXPECT_EQ(tokenizer.decode(learnt), std::string("</think>A") + kEos);
  EXPECT_EQ(learnt.front(), first + 1);
}

// Leaves the reasoning out of answers that are followed by a question, as the models' own templates do.
constexpr const char* kForgetful =
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' and not loop.last and '</think>' in m.content %}{{ "
    "m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content | trim }}{% endif %}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif "
    "%}";

TEST(AssistantSpans, ReasoningThatIsLeftOutOfEarlierAnswersIsNotLearnt) {
  const ChatTemplate chat = with_eos(kForgetful, "<end>");
  EXPECT_EQ(
      answers_of(chat.render_turns(
          {{"user", "x"}, {"assistant", "<think>a</think>\nb"}, {"user", "y"}, {"assistant", "<think>c</think> d "}})),
      (std::vector<std::string>{"b<end>", "<think>c</think> d<end>"}));
}

TEST(AssistantSpans, ReasoningAndToolCallsCount) {
  const ChatTemplate chat = with_eos(
      "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% "
      "endif %}"
      "{% if m.content is string %}{{ m.content }}{% elif m.content %}{% for p in m.content %}{{ p.text }}{% endfor "
      "%}{% endif %}"
      "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor "
      "%}<end>"
      "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
      "<end>");
  const jinja::Value list = jinja::value_from_json(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "assistant", "reasoning_content": "r", "content": null,
           "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": "user"}}}]},
          {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."}])",
      "m");
  const RenderedTurns turns = chat.render_turns(messages_from_value(list, "m"));
  EXPECT_EQ(turns.text.substr(0, 15), "<user>ab<end><a");
  EXPECT_EQ(answers_of(turns),
            (std::vector<std::string>{"<think>r</think><call>f({\"x\": \"user\"})<end>", "It is 42.<end>"}));
}

TEST(AssistantSpans, ReasoningThatTheTemplateDoesNotKnowIsAnError) {
  const ChatTemplate chat = with_eos("{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}", "<end>");
  ChatMessage answer{"assistant", "b"};
  answer.fields.set("reasoning_content", "because");
  EXPECT_TRUE(message_of([&] {
                chat.render_turns({{"user", "a"}, answer});
              }).starts_with("the chat template alters the text of message 1 (assistant)"));
}

TEST(AssistantSpans, AConversationOfThousandsOfTurnsRendersShortPromptsOnly) {
  const ChatTemplate chat = with_eos(
      "{% if messages | length > 40 and (add_generation_prompt or messages | length < 4000) %}"
      "{{ raise_exception('a long prompt') }}{% endif %}"
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}",
      "<end>");
  Messages messages = {{"system", "Be brief."}};
  for (int i = 0; i < 2000; ++i) {
    messages.push_back({"user", std::to_string(i)});
    messages.push_back({"assistant", "user " + std::to_string(i)});
  }
  const std::vector<std::string> parts = answers_of(chat.render_turns(messages));
  ASSERT_EQ(parts.size(), 2000U);
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(parts[static_cast<size_t>(i)], "user " + std::to_string(i) + "<end>");
}

TEST(AssistantSpans, WhatTheTemplateDoesNotReadIsRefused) {
  const ChatTemplate chat = with_eos("{% for m in messages %}{{ m.content }}{{ style }}{% endfor %}", "<end>");
  ChatRenderOptions tools;
  tools.tools = jinja::value_from_json(R"([{"type": "function"}])", "tools");
  EXPECT_EQ(message_of([&] {
              chat.render({{"user", "x"}}, tools);
            }),
            "the chat template takes no tools, so the model would not see them; leave them out, or use a template that "
            "reads `tools`");
  ChatRenderOptions variables;
  variables.variables.set("thinking", true);
  EXPECT_EQ(message_of([&] {
              chat.render({{"user", "x"}}, variables);
            }),
            "the chat template reads no variable 'thinking', so it would change nothing; it reads messages, style");
  ChatRenderOptions own;
  own.variables.set("add_generation_prompt", true);
  EXPECT_EQ(message_of([&] {
              chat.render({{"user", "x"}}, own);
            }),
            "'add_generation_prompt' is no variable to set: the template is given it with the conversation");
}

}  // namespace
}  // namespace deeptitan
