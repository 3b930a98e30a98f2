// Token ids and rendered conversations through the program.

#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using testing::Outcome;
using testing::run_program;

class TokenizerCommand : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { sample_ = new testing::SampleRun; }
  static void TearDownTestSuite() { delete sample_; }

  static fs::path directory() { return sample_->path() / "tokenizer"; }
  static std::string write(const char* name, const std::string& text) {
    write_file(sample_->path() / name, text);
    return (sample_->path() / name).string();
  }
  // What encode should print of `lines`.
  static std::string expected(const std::vector<std::string>& lines, bool parse_special_tokens) {
    const Tokenizer tokenizer = Tokenizer::load(directory());
    std::string text;
    for (const std::string& line : lines) {
      std::string ids;
      const EncodeOptions options{.add_special_tokens = false, .parse_special_tokens = parse_special_tokens};
      for (const int32_t id : tokenizer.encode(line, options)) ids += (ids.empty() ? "" : ",") + std::to_string(id);
      text += "[" + ids + "]\n";
    }
    return text;
  }

  static const testing::SampleRun* sample_;
};

const testing::SampleRun* TokenizerCommand::sample_ = nullptr;

const std::vector<std::string> kLines = {"And the king saw the river.", "", "a  lion\t<｜User｜> né 中"};

TEST_F(TokenizerCommand, EncodesALineAtATimeAndDecodesItAgain) {
  const std::string text = kLines[0] + "\n" + kLines[1] + "\n" + kLines[2] + "\n";
  const std::string file = write("lines.txt", text);
  const Outcome encoded = run_program({"tokenizer", "encode", "--model", directory(), "--file", file});
  EXPECT_EQ(encoded.exit_code, 0) << encoded.err;
  EXPECT_EQ(encoded.err, "");
  EXPECT_EQ(encoded.out, expected(kLines, true));
  EXPECT_NE(encoded.out, expected(kLines, false));
  const std::vector<std::string> from_pipe = {"tokenizer", "encode", "--model", directory(), "--file", "-"};
  EXPECT_EQ(run_program(from_pipe, {.input = text, .largest_file_bytes = 0}).out, encoded.out);
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(run_program(from_pipe, {.input = mark + text, .largest_file_bytes = 0}).out, encoded.out);
  EXPECT_EQ(run_program({"tokenizer", "encode", "--model", directory(), "--file", file, "--plain"}).out,
            expected(kLines, false));
  const Outcome framed = run_program(
      {"tokenizer", "encode", "--model", directory(), "--file", write("empty.txt", "\n"), "--bos", "--eos"});
  EXPECT_EQ(framed.out, "[0,1]\n");

  const std::vector<std::string> decode = {"tokenizer", "decode", "--model", directory(), "--file", "-"};
  EXPECT_EQ(run_program(decode, {.input = encoded.out, .largest_file_bytes = 0}).out, text);
  EXPECT_EQ(run_program(decode, {.input = mark + encoded.out, .largest_file_bytes = 0}).out, text);
  const Outcome wrong = run_program(decode, {.input = "[1, 2]\n[1 2]\n", .largest_file_bytes = 0});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_EQ(wrong.err, "deeptitan: -:2: expected a JSON array of token ids, such as [1, 2, 3]\n");
}

TEST_F(TokenizerCommand, LearnsTheDocumentsOfJsonAndNotItsBraces) {
  const std::string text = testing::sample_text(200);
  const std::string json = nlohmann::json{{"text", text}}.dump();
  const auto learnt = [&](const std::string& file, const std::string& name) {
    const std::string out = (sample_->path() / name).string();
    const Outcome outcome = run_program({"tokenizer", "train", "--text", file, "--vocab-size", "300", "--out", out});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return read_file(fs::path(out) / "tokenizer.json");
  };
  const std::string plain = learnt(write("learn.txt", text), "learnt_text");
  EXPECT_EQ(learnt(write("learn.jsonl", json + "\n"), "learnt_lines"), plain);
  EXPECT_EQ(learnt(write("learn.json", "{\"data\": [" + json + "]}"), "learnt_list"), plain);
  const std::string empty = write("empty.txt", " \n");
  const Outcome outcome =
      run_program({"tokenizer", "train", "--text", empty, "--out", (sample_->path() / "none").string()});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err,
            "deeptitan: " + empty + " holds no text to learn from; expected UTF-8 text, or JSON with a field text\n");
}

TEST_F(TokenizerCommand, RendersTheTextOfAChatTemplate) {
  const std::string own = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";
  const std::string messages = write("messages.json", R"([{"role": "system", "content": "Be brief."},
      {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Bye\n"}])");
  const std::string text =
      "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>Yo<｜end▁of▁sentence｜><｜User｜>Bye\n";
  const std::vector<std::string> render = {"tokenizer", "render", "--model", directory(), "--messages", messages};

  const Outcome without = run_program(render);
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_EQ(without.out, "");
  EXPECT_TRUE(without.err.starts_with("deeptitan: " + directory().string() + " has no chat template: ")) << without.err;

  std::vector<std::string> with = render;
  with.insert(with.end(), {"--chat-template", own});
  EXPECT_EQ(run_program(with).out, text + "<｜Assistant｜>");
  with.emplace_back("--no-generation-prompt");
  EXPECT_EQ(run_program(with).out, text);

  const std::string reads_more = write(
      "more.jinja",
      "{{ thinking }} {{ style }} {{ tools | tojson }} {% for m in messages %}{{ m.content | upper }}{% endfor %}");
  std::vector<std::string> more = render;
  more.insert(more.end(), {"--chat-template", reads_more, "--template-var", "thinking=true", "--template-var",
                           "style=two words", "--tools", write("tools.json", R"([{"type": "function"}])")});
  EXPECT_EQ(run_program(more).out, "True two words [{\"type\": \"function\"}] BE BRIEF.HIYOBYE\n");
  const auto usage_error_of = [&](const std::vector<std::string>& options) {
    std::vector<std::string> command = render;
    command.insert(command.end(), {"--chat-template", reads_more});
    command.insert(command.end(), options.begin(), options.end());
    const Outcome outcome = run_program(command);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_EQ(usage_error_of({"--template-var", "thinkin=1"}),
            "deeptitan: the chat template reads no variable 'thinkin', so it would change nothing; it reads messages, "
            "style, thinking, tools\n");
  EXPECT_EQ(usage_error_of({"--template-var", "thinking"}),
            "deeptitan: --template-var thinking: expected NAME=VALUE, such as thinking=true\n");

  fs::copy_file(own, directory() / "chat_template.jinja");
  EXPECT_EQ(run_program(render).out, text + "<｜Assistant｜>");
  write_file(directory() / "chat_template.jinja", "{{ bos_token }}\n{{ raise_exception('no roles here') }}");
  const Outcome refused = run_program(render);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(refused.out, "");
  EXPECT_EQ(refused.err, "deeptitan: " + (directory() / "chat_template.jinja").string() + " line 2: no roles here\n");
  fs::remove(directory() / "chat_template.jinja");
}

TEST_F(TokenizerCommand, MessagesThatAreNoneAreNamed) {
  const std::string own = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";
  const auto error_of = [&](const std::string& json) {
    const Outcome outcome = run_program({"tokenizer", "render", "--model", directory(), "--chat-template", own,
                                         "--messages", write("wrong.json", json)});
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  const std::string file = (sample_->path() / "wrong.json").string();
  EXPECT_EQ(error_of("{}"), "deeptitan: " + file +
                                ": expected a list of messages, [{\"role\": \"user\", \"content\": \"...\"}], not "
                                "an object\n");
  EXPECT_EQ(error_of(R"([{"role": "user", "content": "a"}, {"content": "b"}])"),
            "deeptitan: " + file + ": message 1 has no 'role' (keys: content); expected a role and a content\n");
  EXPECT_TRUE(error_of("[").starts_with("deeptitan: " + file)) << error_of("[");
}

}  // namespace
}  // namespace deeptitan
