// generate as scripts use it: JSON lines in and out, samples, log-probabilities.

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/trained_model.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;
using testing::Outcome;
using testing::run_program;

const std::string kAnsweringTemplate = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";

class GenerateCommand : public testing::TrainedModelTest {
 protected:
  static Outcome generate(const std::vector<std::string>& more, const std::string& input = "") {
    return run_on_model("generate", more, input);
  }
};

TEST_F(GenerateCommand, InputGivesALineForEachPromptInOrder) {
  const std::string input =
      write("in.jsonl", R"({"id": "first", "prompt": "And the king", "max_new_tokens": 5})"
                        "\n\n"
                        R"({"prompt": "a prophet", "temperature": 0.7, "top_k": 20, "seed": 3, "stop": [".\n"]})"
                        "\n"
                        R"({"id": {"n": 3}, "messages": [{"role": "user", "content": "Who came?"}]})"
                        "\n");
  const std::vector<std::string> shared = {"--temperature", "0", "--max-new-tokens", "12"};
  std::vector<std::string> all = shared;
  all.insert(all.end(), {"--input", input, "--chat-template", kAnsweringTemplate});
  const std::vector<Json> found = lines(generate(all));
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0]["id"], "first");
  EXPECT_EQ(found[1]["id"], 3);  // its line
  EXPECT_EQ(found[2]["id"], Json::parse(R"({"n": 3})"));
  // Each is what it would be alone.
  const auto alone = [&](const std::vector<std::string>& more) { return lines(generate(more)).at(0); };
  const std::vector<Json> expected = {
      alone({"--prompt", "And the king", "--temperature", "0", "--max-new-tokens", "5", "--json"}),
      alone({"--prompt", "a prophet", "--temperature", "0.7", "--top-k", "20", "--seed", "3", "--stop", ".\\n",
             "--max-new-tokens", "12", "--json"}),
      alone({"--prompt", "Who came?", "--chat", "--chat-template", kAnsweringTemplate, "--temperature", "0",
             "--max-new-tokens", "12", "--json"})};
  for (size_t i = 0; i < 3; ++i) {
    for (const char* field : {"text", "tokens", "stop_reason", "prompt_tokens"}) {
      EXPECT_EQ(found[i][field], expected[i][field]) << i << " " << field;
    }
    // What the cache shares is not run again: the same numbers, but for the order of sums.
    for (size_t j = 0; j < expected[i]["logprobs"].size(); ++j) {
      EXPECT_NEAR(found[i]["logprobs"][j], expected[i]["logprobs"][j], 1e-5) << i;
    }
    EXPECT_FALSE(expected[i].contains("id"));
  }
  EXPECT_EQ(found[0]["tokens"].size(), 5u);
  EXPECT_EQ(found[0]["stop_reason"], "max_new_tokens");
  EXPECT_GE(found[0]["prefill_seconds"], 0.0);
  // From a pipe too.
  all = shared;
  all.insert(all.end(), {"--input", "-"});
  EXPECT_EQ(lines(generate(all, "{\"prompt\": \"And the king\", \"max_new_tokens\": 5}\n")).at(0)["text"],
            found[0]["text"]);
}

TEST_F(GenerateCommand, LogProbabilitiesAreThoseThatEvalFinds) {
  const Json found =
      lines(generate({"And the king", "--json", "--max-new-tokens", "20", "--temperature", "0.5", "--top-p", "0.5"}))
          .at(0);
  const Outcome prompt = run_program({"tokenizer", "encode", "--model", (sample_->run("run") / "model").string(),
                                      "--file", write("king.txt", "And the king")});
  std::vector<int32_t> ids = Json::parse(prompt.out);
  if (static_cast<size_t>(found["prompt_tokens"]) > ids.size()) ids.insert(ids.begin(), 0);
  const size_t length = ids.size();
  for (const Json& id : found["tokens"]) ids.push_back(id);
  const Outcome outcome = run_program({"eval", "--model", (sample_->run("run") / "model").string(), "--token-ids",
                                       write("ids.json", Json(ids).dump()), "--json", "--dtype", "f32"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Json scored = Json::parse(outcome.out);
  for (size_t i = 0; i < found["tokens"].size(); ++i) {
    EXPECT_NEAR(found["logprobs"][i], scored["logprobs"][length + i], 1e-4) << i;
  }
}

TEST_F(GenerateCommand, SamplesHaveSeedsThatCountUp) {
  const std::vector<std::string> shared = {"--prompt", "And", "--max-new-tokens", "10", "--json"};
  std::vector<std::string> three = shared;
  three.insert(three.end(), {"--samples", "3", "--seed", "5"});
  const std::vector<Json> found = lines(generate(three));
  ASSERT_EQ(found.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    std::vector<std::string> one = shared;
    one.insert(one.end(), {"--seed", std::to_string(5 + i)});
    EXPECT_EQ(lines(generate(one)).at(0)["tokens"], found[i]["tokens"]);
  }
  EXPECT_NE(found[0]["tokens"], found[1]["tokens"]);
  const std::vector<Json> named =
      lines(generate({"--input", write("in.jsonl", "{\"prompt\": \"And\"}\n{\"prompt\": \"a\"}\n"), "--samples", "2"}));
  ASSERT_EQ(named.size(), 4u);
  EXPECT_EQ(named[1]["id"], 1);
  EXPECT_EQ(named[1]["sample"], 1);
  EXPECT_EQ(named[2]["id"], 2);
  const Outcome plain = generate({"And", "--samples", "2", "--max-new-tokens", "3"});
  EXPECT_TRUE(plain.out.starts_with("--- 1 of 2 ---\n")) << plain.out;
  EXPECT_NE(plain.out.find("\n--- 2 of 2 ---\n"), std::string::npos) << plain.out;
}

TEST_F(GenerateCommand, MessagesAreAnswered) {
  const std::vector<std::string> shared = {"--temperature",   "0", "--max-new-tokens", "8", "--chat-template",
                                           kAnsweringTemplate};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), shared.begin(), shared.end());
    return generate(more);
  };
  const std::string expected = with({"--prompt", "Who came?", "--chat", "--system", "Say no."}).out;
  const std::string list = R"([{"role": "system", "content": "Say no."}, {"role": "user", "content": "Who came?"}])";
  EXPECT_EQ(with({"--messages", write("m.json", list)}).out, expected);
  EXPECT_EQ(with({"--messages", write("m.json", "{\"messages\": " + list + "}")}).out, expected);
  std::vector<std::string> piped = {"--messages", "-"};
  piped.insert(piped.end(), shared.begin(), shared.end());
  EXPECT_EQ(generate(piped, list).out, expected);
  const Outcome without = with({"--messages", write("m.json", R"([{"content": "a"}])")});
  EXPECT_EQ(without.exit_code, 2);
  EXPECT_NE(without.err.find("message 0 has no role"), std::string::npos) << without.err;
}

TEST_F(GenerateCommand, AnOptionThatWouldBeIgnoredIsRefused) {
  const std::string messages = write("asked.json", R"([{"role": "user", "content": "Who?"}])");
  const Outcome outcome =
      generate({"--messages", messages, "--chat", "--system", "Be brief.", "--chat-template", kAnsweringTemplate});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("--chat makes a question of a prompt, and --messages has a conversation"),
            std::string::npos)
      << outcome.err;
}

TEST_F(GenerateCommand, MistakesInTheInputAreNamedWithTheirLine) {
  const auto expect = [&](const std::string& text, const std::string& message) {
    const std::string path = write("bad.jsonl", text);
    const Outcome outcome = generate({"--input", path});
    EXPECT_EQ(outcome.exit_code, 2) << message;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("deeptitan: " + path + message), std::string::npos) << outcome.err;
  };
  expect("", ": holds no prompts; expected a JSON object with prompt or messages a line");
  expect("\nnot json\n", ":2: not valid JSON (byte 2): ");
  expect("{\"prompt\": [1, 320]}\n", ":1: token id 320 is outside the model's vocabulary of 320");
  expect("{\"id\": 1}\n", ":1: expected one of prompt and messages, found neither");
  expect("{\"prompt\": \"a\", \"messages\": []}\n", ":1: expected one of prompt and messages, found both");
  expect("{\"prompt\": 3}\n", ":1: prompt is 3; expected a text");
  expect("{\"prompt\": \"a\", \"temprature\": 1}\n", ":1: unknown field 'temprature'; did you mean 'temperature'?");
  expect("{\"prompt\": \"a\", \"top_k\": 1.5}\n", ":1: top_k is 1.5; expected a whole number");
  expect("{\"prompt\": \"a\", \"top_p\": 2}\n", ":1: top-p = 2: expected more than 0 and at most 1");
  expect("{\"prompt\": \"a\", \"seed\": -1}\n", ":1: seed is -1; expected a whole number");
  expect("{\"prompt\": \"a\", \"stop\": [\"\"]}\n", ":1: stop is [\"\"]; expected a text or a list of texts");
  expect("{\"prompt\": \"a\", \"stop\": {\"a\": \"b\"}}\n", ":1: stop is {");
  expect("{\"prompt\": \"a\", \"max_new_tokens\": 0}\n", ":1: max_new_tokens = 0; expected at least 1");
}

TEST_F(GenerateCommand, ABrokenLineLeavesTheOthersTheirAnswers) {
  const std::string path = write(
      "mixed.jsonl", R"({"prompt": "And the king", "max_new_tokens": 5})"
                     "\nnot json\n"
                     R"({"id": "long", "prompt": [)" +
                         [] {
                           std::string ids = "7";
                           for (int i = 0; i < 200; ++i) ids += ",7";
                           return ids;
                         }() +
                         "]}\n"
                         R"({"id": {"a": NaN}, "prompt": "a lion", "top_p": 2})"
                         "\n"
                         R"({"prompt": "a lion", "max_new_tokens": 3})"
                         "\n");
  const Outcome outcome = generate({"--input", path, "--samples", "2", "--temperature", "0"});
  EXPECT_EQ(outcome.exit_code, 1);
  std::vector<std::string> found;
  std::istringstream text(outcome.out);
  for (std::string line; std::getline(text, line);) found.push_back(line);
  ASSERT_EQ(found.size(), 7u) << outcome.out;
  EXPECT_EQ(Json::parse(found[0])["tokens"].size(), 5u);
  EXPECT_EQ(Json::parse(found[1])["sample"], 1);
  EXPECT_EQ(Json::parse(found[2]),
            (Json{{"id", 2}, {"error", path + ":2: not valid JSON (byte 2): invalid literal, found 'ot json'"}}));
  EXPECT_EQ(Json::parse(found[3])["id"], "long");
  EXPECT_EQ(Json::parse(found[3])["error"],
            path + ":3: the prompt has 201 tokens and the model's context 128; shorten it to leave room for an answer");
  EXPECT_TRUE(found[4].starts_with("{\"id\":{\"a\":NaN},\"error\":\"" + path + ":4: top-p = 2")) << found[4];
  EXPECT_EQ(Json::parse(found[5])["tokens"], Json::parse(found[6])["tokens"]);
  EXPECT_NE(outcome.err.find("warning: " + path + ":2: not valid JSON"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("deeptitan: 3 of 5 lines of " + path + " have no answer"), std::string::npos)
      << outcome.err;
}

TEST_F(GenerateCommand, TextsAreTheSameHoweverManyAreGeneratedAtOnce) {
  std::string prompts;
  for (int i = 0; i < 40; ++i) {
    Json line = {{"prompt", i % 3 == 0   ? "And the king saw"
                            : i % 3 == 1 ? "a lion"
                                         : "his servant heard the"},
                 {"max_new_tokens", 2 + i},
                 {"temperature", i % 2 == 0 ? 0.0 : 0.8},
                 {"seed", i}};
    prompts += line.dump() + "\n";
  }
  const std::string path = write("many.jsonl", prompts);
  const auto without_times = [](std::vector<Json> found) {
    for (Json& json : found) {
      for (const char* name : {"prefill_seconds", "decode_seconds", "cached_tokens"}) json.erase(name);
    }
    return found;
  };
  const std::vector<Json> expected = without_times(lines(generate({"--input", path, "--sequences", "1"})));
  ASSERT_EQ(expected.size(), 40u);
  for (const char* sequences : {"0", "3", "100"}) {
    EXPECT_EQ(without_times(lines(generate({"--input", path, "--sequences", sequences}))), expected) << sequences;
  }
}

}  // namespace
}  // namespace deeptitan
