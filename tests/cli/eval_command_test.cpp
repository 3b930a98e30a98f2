// eval on several texts, and as the back end of an evaluation harness.

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/trained_model.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;
using testing::Outcome;
using testing::run_program;

class EvalCommand : public testing::TrainedModelTest {
 protected:
  static Outcome eval(const std::vector<std::string>& more, const std::string& input = "") {
    return run_on_model("eval", more, input);
  }
};

TEST_F(EvalCommand, SeveralTextsGiveARowEachAndOneOfAll) {
  const std::string one = write("t/one.txt", "And the king saw the river.");
  const std::string two = write("t/two.jsonl", "{\"text\": \"a lion\"}\n{\"text\": \"the woman heard bread.\"}\n");
  write("t/three.so", std::string("\x7f"
                                  "ELF\0\0",
                                  6));
  const std::vector<Json> single = lines(eval({"--text", one, "--json"}));
  const std::vector<Json> each = lines(eval({"--text", one, two, "--json"}));
  ASSERT_EQ(each.size(), 3u);
  EXPECT_EQ(each[0]["logprobs"], single.at(0)["logprobs"]);
  EXPECT_EQ(each[0]["file"], one);
  EXPECT_EQ(each[2]["file"], two);
  // Of a document the braces are no part.
  EXPECT_EQ(each[1]["logprobs"], lines(eval({"--text", "-", "--json"}, "a lion")).at(0)["logprobs"]);
  const Outcome table = eval({"--text", (sample_->run("t")).string()});
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_NE(table.err.find("1 binary files are left out"), std::string::npos) << table.err;
  double nats = 0, tokens = 0;
  for (const Json& document : each) {
    nats -= document["logprob"].get<double>();
    tokens += static_cast<double>(document["token_ids"].size() - 1);
  }
  EXPECT_NE(table.out.find(fmt::format("{:>10.6f} {:>12.4f} ", nats / tokens, std::exp(nats / tokens))),
            std::string::npos)
      << table.out;
  EXPECT_NE(table.out.find("  all\n"), std::string::npos) << table.out;
}

TEST_F(EvalCommand, WhatHasNothingToPredictIsLeftOutBesideOthers) {
  const std::string full = write("some/full.txt", "And the king saw the river.");
  const std::string empty = write("some/empty.txt", "");
  const std::string folder = std::filesystem::path(full).parent_path().string();
  const Outcome outcome = run_on_model("eval", {"--text", folder}, "");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("warning: 1 of 2 texts have nothing to predict and are left out, the first in " + empty),
            0u)
      << outcome.err;
  EXPECT_EQ(outcome.out, run_on_model("eval", {"--text", full}, "").out);
  EXPECT_EQ(run_on_model("eval", {"--text", empty}, "").exit_code, 2);
}

TEST_F(EvalCommand, PairsMayShareContextsAndBeTokenIds) {
  const std::vector<Json> ids = lines(eval({"--requests", "-"},
                                           "{\"encode\": \"And the king\"}\n{\"encode\": \" saw\", "
                                           "\"add_special_tokens\": false}\n"));
  const std::string texts =
      "{\"context\": \"And the king\", \"continuation\": \" saw\"}\n{\"context\": \"a lion\", \"continuation\": \" "
      "heard\"}\n"
      "{\"context\": \"And the king\", \"continuation\": \" heard\"}\n{\"context\": \"And the king\", "
      "\"continuation\": \" saw\"}\n";
  const std::vector<Json> pairs = lines(eval({"--pairs", write("pairs.jsonl", texts)}));
  ASSERT_EQ(pairs.size(), 4u);
  EXPECT_NEAR(pairs[0]["logprob"], pairs[3]["logprob"], 1e-4);
  std::istringstream each(texts);
  std::string line;
  for (size_t i = 0; std::getline(each, line); ++i) {
    EXPECT_NEAR(lines(eval({"--pairs", "-"}, line + "\n")).at(0)["logprob"], pairs[i]["logprob"], 1e-4) << i;
  }
  const Json by_ids = {{"context", ids[0]["tokens"]}, {"continuation", ids[1]["tokens"]}};
  EXPECT_NEAR(lines(eval({"--pairs", "-"}, by_ids.dump() + "\n")).at(0)["logprob"], pairs[0]["logprob"], 1e-4);
}

TEST_F(EvalCommand, ThePrefixTokenMakesTheFirstTokenCount) {
  const std::string path = write("one.txt", "king");
  // The sample's tokenizer puts bos before a text: so the ids, which have none, show the difference.
  std::vector<int32_t> ids =
      lines(eval({"--requests", "-"}, "{\"encode\": \"And the king\", \"add_special_tokens\": false}\n"))
          .at(0)["tokens"];
  const std::string bare = write("ids.json", Json(ids).dump());
  const Json without = lines(eval({"--token-ids", bare, "--json"})).at(0);
  const Json with = lines(eval({"--token-ids", bare, "--json", "--prefix-token"})).at(0);
  EXPECT_EQ(with["token_ids"].size(), without["token_ids"].size() + 1);
  EXPECT_TRUE(with["logprobs"][1].is_number());
  const Json request = {{"text", ids}, {"prefix_token", true}};
  EXPECT_EQ(lines(eval({"--requests", "-"}, request.dump() + "\n")).at(0)["logprobs"], with["logprobs"]);
}

TEST_F(EvalCommand, RequestsAreAnsweredOneByOneAsTheyCome) {
  const std::vector<Json> found =
      lines(eval({"--requests", "-"},
                 "{\"info\": true, \"id\": 7}\n\n{\"context\": \"And the king\", \"continuation\": \" saw\"}\n"
                 "{\"prompt\": \"And the king\", \"max_new_tokens\": 8, \"stop\": [\".\"]}\n{\"decode\": [69, 70]}\n"
                 "{\"encode\": \"a\", \"add_special_tokens\": false}\n"));
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0]["id"], 7);
  EXPECT_EQ(found[0]["context"], 128);
  EXPECT_EQ(found[0]["vocab_size"], 320);
  EXPECT_EQ(found[1]["tokens"], found[1]["tokens"].get<int64_t>());
  const Outcome pair = eval({"--pairs", "-"}, "{\"context\": \"And the king\", \"continuation\": \" saw\"}\n");
  EXPECT_NEAR(found[1]["logprob"], lines(pair).at(0)["logprob"], 1e-4);
  const Outcome text =
      run_program({"generate", "--model", (sample_->run("run") / "model").string(), "--dtype", "f32", "--prompt",
                   "And the king", "--max-new-tokens", "8", "--stop", ".", "--temperature", "0"});
  EXPECT_EQ(found[2]["text"].get<std::string>() + "\n", text.out);
}

TEST_F(EvalCommand, RequestsThatComeTogetherAreAnsweredInOrder) {
  std::string requests, alone;
  for (int i = 0; i < 30; ++i) {
    const Json request = i % 7 == 6 ? Json{{"id", i}, {"prompt", "a lion"}, {"max_new_tokens", 1 + i}}
                                    : Json{{"id", i},
                                           {"context", i % 3 == 0 ? "And the king" : "a lion"},
                                           {"continuation", i % 2 == 0 ? " saw" : " heard bread"}};
    requests += request.dump() + "\n";
  }
  const std::vector<Json> found = lines(eval({"--requests", "-"}, requests));
  ASSERT_EQ(found.size(), 30u);
  std::istringstream each(requests);
  std::string line;
  for (size_t i = 0; std::getline(each, line); ++i) {
    EXPECT_EQ(found[i]["id"], i);
    if (i > 8) continue;
    const Json expected = lines(eval({"--requests", "-"}, line + "\n")).at(0);
    if (i == 6) {
      EXPECT_EQ(found[i], expected);
    } else {
      EXPECT_NEAR(found[i]["logprob"], expected["logprob"], 1e-4) << i;
    }
  }
  // What stands before a mistake is answered.
  for (const char* mistake : {"{\"prompt\": [999]}", "{\"context\": [5], \"continuation\": [1, 320]}"}) {
    const Outcome outcome = eval({"--requests", "-"}, requests + mistake + "\n");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 30);
    EXPECT_NE(outcome.err.find("standard input:31: token id "), std::string::npos) << outcome.err;
  }
}

// --pairs took no notice of --experts, and --prefix-token none of its source.
TEST_F(EvalCommand, NoOptionIsIgnored) {
  const std::string ids = write("ids.json", "[1, 2]"), text = write("ids.txt", "And the king");
  const std::string pair = write("pair.jsonl", R"({"context": "And", "continuation": " the"})");
  for (const auto& [option, file] : std::map<std::string, std::string>{
           {"--token-ids", ids}, {"--text", text}, {"--pairs", pair}, {"--requests", pair}}) {
    const Outcome outcome = eval({option, file, "--experts", "loop"});
    EXPECT_EQ(outcome.exit_code, 2) << option;
    EXPECT_NE(outcome.err.find("experts' products by loop cannot run on the CPU"), std::string::npos) << outcome.err;
    if (option == "--token-ids" || option == "--text") continue;
    const Outcome prefix = eval({option, file, "--prefix-token"});
    EXPECT_EQ(prefix.exit_code, 2) << option;
    EXPECT_NE(prefix.err.find("--prefix-token counts with --text and --token-ids"), std::string::npos) << prefix.err;
  }
}

TEST_F(EvalCommand, MistakesInRequestsAreNamedWithTheirLine) {
  const auto expect = [&](const std::string& line, const std::string& message) {
    const Outcome outcome = eval({"--requests", "-"}, "\n" + line + "\n");
    EXPECT_EQ(outcome.exit_code, 2) << message;
    EXPECT_NE(outcome.err.find("deeptitan: standard input:2: " + message), std::string::npos) << outcome.err;
  };
  expect("[]", "expected a JSON object with one of continuation, text, prompt, encode, decode, render, info");
  expect("{\"continuation\": \"a\"}", "expected an object with the texts context and continuation");
  expect("{\"text\": \"a b\", \"prefix\": true}", "unknown field 'prefix'; did you mean 'prefix_token'?");
  expect("{\"encode\": 3}", "encode is 3; expected a text");
  expect("{\"decode\": \"a\"}", "decode: expected a JSON array of token ids");
  expect("{\"prompt\": []}", "prompt is an empty list of token ids");
}

}  // namespace
}  // namespace deeptitan
