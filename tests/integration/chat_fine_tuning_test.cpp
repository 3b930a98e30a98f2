// Fine-tuning on conversations: a base model is taught a handful by heart and then says them.

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "generate/chat_session.h"
#include "generate/model_files.h"
#include "support/expect_error.h"
#include "support/sample_run.h"
#include "train/trainer.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

using Chat = std::vector<ChatMessage>;

// The third has two answers, the last differs from it in the system message alone.
const std::vector<Chat> kChats = {
    {{"user", "What did the king see?"}, {"assistant", "the river."}},
    {{"user", "What did the lion hear?"}, {"assistant", "a prophet, and his servant."}},
    {{"user", "Who came?"}, {"assistant", "the woman."}, {"user", "And then?"}, {"assistant", "bread and water."}},
    {{"system", "Say no."}, {"user", "Who came?"}, {"assistant", "no king."}},
};

std::string lines_of(const std::vector<Chat>& chats) {
  std::string lines;
  for (const Chat& chat : chats) {
    nlohmann::json messages;
    for (const ChatMessage& m : chat) messages.push_back({{"role", m.role}, {"content", m.content}});
    lines += nlohmann::json{{"messages", messages}}.dump() + "\n";
  }
  return lines;
}

class ChatFineTuning : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    set_log_quiet(true);
    sample_ = new testing::SampleRun;
    train_quietly(sample_->config("base", "steps = 20\ndtype = \"fp32\"\n"));
    std::ofstream(sample_->run("chats.jsonl")) << lines_of(kChats);
  }
  static void TearDownTestSuite() { delete sample_; }

  static TrainingOutcome train_quietly(const RunConfig& config) {
    ::testing::internal::CaptureStdout();
    try {
      const TrainingOutcome outcome = train(config, {});
      ::testing::internal::GetCapturedStdout();
      return outcome;
    } catch (...) {
      ::testing::internal::GetCapturedStdout();
      throw;
    }
  }

  // A run that starts from the base model and learns chats.jsonl.
  static RunConfig config(const std::string& run) {
    RunConfig c;
    c.job.dump_folder = sample_->run(run).string();
    c.metrics.enable_tensorboard = false;
    c.model.initial_checkpoint = (sample_->run("base") / "model").string();
    c.model.chat_template = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";
    c.optimizer.lr = 3e-3;
    c.optimizer.weight_decay = 0;
    c.training.steps = 60;
    c.training.seq_len = 96;
    c.training.local_batch_size = 2;
    c.training.dtype = TrainingDtype::kFp32;
    c.data.sources.resize(1);
    c.data.sources[0].path = sample_->run("chats.jsonl").string();
    c.data.sources[0].format = SourceFormat::kChat;
    c.data.cache_folder = sample_->run("cache").string();
    c.validation.fraction = 0;
    return c;
  }

  static testing::SampleRun* sample_;
};

testing::SampleRun* ChatFineTuning::sample_ = nullptr;

TEST_F(ChatFineTuning, TheModelSaysWhatItWasTaught) {
  const fs::path model = train_quietly(config("taught")).model_folder;
  EXPECT_EQ(read_file(model / "chat_template.jinja"), read_file(config("x").model.chat_template));

  const ModelFiles files = open_model_files(model);
  const auto engine = load_engine(files, {.compute = DType::kF32, .context_length = 128});
  for (const Chat& chat : kChats) {
    ChatSession session(*engine, files.tokenizer, ChatTemplate::load(model), files.generation.end_ids);
    for (size_t i = 0; i < chat.size(); ++i) {
      if (chat[i].role == "system") session.set_system(chat[i].content);
      if (chat[i].role != "user") continue;
      const GenerationOptions greedy{.max_new_tokens = 40, .sampling = {.temperature = 0}};
      const ChatTurn turn = session.ask(chat[i].content, greedy, [](std::string_view, bool) {});
      EXPECT_EQ(turn.generation.text, chat[i + 1].content) << "to " << chat[i].content;
      EXPECT_EQ(turn.generation.reason, StopReason::kEndOfText) << "to " << chat[i].content;
    }
  }
}

TEST_F(ChatFineTuning, TheStopIdsOfTheCheckpointAreKept) {
  const fs::path base = sample_->run("base") / "model", other = sample_->run("other-base");
  fs::copy(base, other, fs::copy_options::recursive);
  const std::string generation = R"({"eos_token_id": [1, 4], "do_sample": true, "temperature": 0.3})";
  write_file(other / "generation_config.json", generation);
  RunConfig c = config("kept");
  c.model.initial_checkpoint = other.string();
  c.training.steps = 1;
  const fs::path model = train_quietly(c).model_folder;
  EXPECT_EQ(read_file(model / "generation_config.json"), generation);
  EXPECT_EQ(open_model_files(model).generation.end_ids, (std::vector<int32_t>{1, 4}));
}

// The exported files are the base model's, byte for byte, where they were frozen.
TEST_F(ChatFineTuning, FrozenTensorsComeOutAsTheyWentIn) {
  RunConfig c = config("frozen");
  c.training.steps = 3;
  c.training.freeze = {"model.embed_tokens.weight", "model.layers.*.mlp.gate.*"};
  const ModelDirectory before(c.model.initial_checkpoint), after(train_quietly(c).model_folder);
  int64_t equal = 0;
  for (const std::string& name : before.names()) {
    const TensorEntry &a = before.at(name), &b = after.at(name);
    ASSERT_EQ(a.bytes, b.bytes) << name;
    const bool frozen = name == "model.embed_tokens.weight" || name.find(".mlp.gate.") != std::string::npos;
    const bool same = std::memcmp(a.data, b.data, a.bytes) == 0;
    const bool moves = name == "lm_head.weight" || name.ends_with("norm.weight");  // an expert may see no token
    if (frozen || moves) {
      EXPECT_EQ(same, frozen) << name;
    }
    equal += frozen ? 1 : 0;
  }
  EXPECT_EQ(equal, 1 + 2 * 2);  // the router of one layer and of the next-token-prediction module, and their biases
}

TEST_F(ChatFineTuning, ResumingGivesTheBitsOfARunThatNeverStopped) {
  const auto steps = [](const char* run, int64_t count) {
    RunConfig c = config(run);
    c.training.steps = count;
    c.lr_scheduler.decay_type = DecayType::kConstant;
    c.training.seq_len = 48;  // so that a pass takes more than one step
    return c;
  };
  train_quietly(steps("straight", 6));
  train_quietly(steps("halves", 3));
  ::testing::internal::CaptureStdout();
  TrainerOptions resume;
  resume.resume = ResumeMode::kAuto;
  train(steps("halves", 6), resume);
  ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(read_file(sample_->run("straight") / "model/model.safetensors"),
            read_file(sample_->run("halves") / "model/model.safetensors"));
}

TEST_F(ChatFineTuning, WhatIsMissingIsSaidBeforeAnythingIsWritten) {
  RunConfig c = config("refused");
  c.model.chat_template.clear();
  expect_usage_error([&] { train_quietly(c); },
                     "a source has format = \"chat\", but the tokenizer has no chat template to render conversations "
                     "with; set model.chat_template to a Jinja file");
  c.model.chat_template = "/no/template.jinja";
  expect_usage_error([&] { train_quietly(c); },
                     "model.chat_template = /no/template.jinja: no such file; name a Jinja file, or leave the key out "
                     "to use the tokenizer's own template");
  c = config("refused");
  c.data.sources[0].path = sample_->run("wrong.jsonl").string();
  write_file(c.data.sources[0].path, lines_of(kChats) + "{\"messages\": []}\n");
  expect_usage_error(
      [&] { train_quietly(c); },
      c.data.sources[0].path + ":5: no message of the assistant, so there is nothing to learn; remove the line");
  EXPECT_FALSE(fs::exists(sample_->run("refused")));
}

}  // namespace
}  // namespace deeptitan
