// Whole runs on a text of a few thousand sentences: what a folder holds, what resuming gives, what failing leaves.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "checkpoint/run_checkpoints.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/memory_plan.h"
#include "integration/quiet_runs.h"
#include "train/checkpoint_snapshot.h"
#include "train/memory_advice.h"
#include "train/model_to_train.h"
#include "train/trainer.h"

namespace deeptitan {
namespace {

struct Line {
  int64_t step;
  double loss;
  double gradient_norm;
  bool operator==(const Line&) const = default;
};

std::vector<Line> metrics(const std::string& run) {
  std::vector<Line> lines;
  std::ifstream file(sample().run(run) / "metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    const auto json = nlohmann::json::parse(text);
    lines.push_back({json["step"], json["loss"].is_null() ? NAN : json["loss"].get<double>(),
                     json["gradient_norm"].is_null() ? NAN : json["gradient_norm"].get<double>()});
  }
  return lines;
}

TEST(TrainingRun, LeavesAModelMetricsAndCheckpointsAndLearns) {
  const TrainingOutcome outcome = train_quietly(sample().config("whole", "steps = 60\ndtype = \"fp32\"\n"));
  EXPECT_EQ(outcome.step, 60);
  const std::filesystem::path folder = sample().run("whole");
  for (const char* name : {"config.toml", "metrics.jsonl", "loss.svg", "model/config.json", "model/model.safetensors",
                           "model/tokenizer.json", "model/generation_config.json"}) {
    EXPECT_TRUE(std::filesystem::exists(folder / name)) << name;
  }
  const auto checkpoints = list_checkpoints(folder / "checkpoints");
  ASSERT_EQ(checkpoints.size(), 5u);  // keep_latest_k
  EXPECT_EQ(checkpoints.back().step, 60);
  const auto lines = metrics("whole");
  ASSERT_EQ(lines.size(), 60u);
  EXPECT_LT(lines.back().loss, 0.75 * lines.front().loss);
}

TEST(TrainingRun, MetricsHaveTheDocumentedKeys) {
  train_quietly(sample().config("keys"));
  std::ifstream file(sample().run("keys") / "metrics.jsonl");
  std::string text;
  for (int i = 0; i < 6; ++i) std::getline(file, text);
  const auto line = nlohmann::json::parse(text);
  for (const char* key : {"step", "tokens", "loss", "learning_rate", "gradient_norm", "tokens_per_second",
                          "step_seconds", "moe_layers", "mtp_loss", "validation_loss", "validation_bits_per_byte"}) {
    EXPECT_TRUE(line.contains(key)) << key;
  }
  EXPECT_EQ(line["tokens"], 6 * 4 * 32);
}

TEST(TrainingRun, SameSeedSameBytes) {
  train_quietly(sample().config("once"));
  train_quietly(sample().config("twice"));
  EXPECT_EQ(metrics("once"), metrics("twice"));
  EXPECT_EQ(read_file(sample().run("once") / "model/model.safetensors"),
            read_file(sample().run("twice") / "model/model.safetensors"));
}

TEST(TrainingRun, ResumingGivesTheBitsOfARunThatNeverStopped) {
  for (const char* dtype : {"fp32", "bf16"}) {
    const auto training = [&](int steps) {
      return "steps = " + std::to_string(steps) + "\ndtype = \"" + dtype + "\"\n";
    };
    const std::string straight = std::string("straight-") + dtype;
    const std::string halves = std::string("halves-") + dtype;
    const auto constant = [](RunConfig config) {
      config.lr_scheduler.decay_type = DecayType::kConstant;  // so that the number of steps does not change the rate
      return config;
    };
    train_quietly(constant(sample().config(straight, training(12))));
    train_quietly(constant(sample().config(halves, training(7))));
    train_quietly(constant(sample().config(halves, training(12))), resume(ResumeMode::kAuto));
    EXPECT_EQ(metrics(straight), metrics(halves)) << dtype;
    EXPECT_EQ(read_file(sample().run(straight) / "model/model.safetensors"),
              read_file(sample().run(halves) / "model/model.safetensors"));

    TrainerOptions from_four = resume(ResumeMode::kStep);
    from_four.resume_step = 4;
    train_quietly(constant(sample().config(halves, training(12))), from_four);
    EXPECT_EQ(metrics(straight), metrics(halves)) << dtype;
  }
}

// Every file of a folder but `without`, by its path there.
std::map<std::string, std::string> files_of(const std::filesystem::path& folder, const std::string& without) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string name = std::filesystem::relative(entry.path(), folder).string();
    if (entry.is_regular_file() && name != without) files[name] = read_file(entry.path());
  }
  return files;
}

TEST(TrainingRun, SavingBesideTrainingChangesNoBits) {
  for (const CheckpointSaving saving : {CheckpointSaving::kBlocking, CheckpointSaving::kBeside}) {
    RunConfig config = sample().config(saving == CheckpointSaving::kBeside ? "beside" : "waiting");
    config.checkpoint.interval = 1;
    config.checkpoint.saving = saving;
    train_quietly(config);
  }
  EXPECT_EQ(metrics("beside"), metrics("waiting"));
  const std::string state = "training_state/state.json";  // says how the run was saved, and where
  for (int step = 8; step <= 12; ++step) {
    const std::string checkpoint = "checkpoints/" + checkpoint_name(step);
    verify_checkpoint({step, sample().run("beside") / checkpoint});
    auto beside = files_of(sample().run("beside") / checkpoint, state);
    auto waiting = files_of(sample().run("waiting") / checkpoint, state);
    for (auto* files : {&beside, &waiting}) EXPECT_EQ(files->erase("manifest.json"), 1U);  // has state.json's digest
    EXPECT_TRUE(beside == waiting) << step;
  }
}

// Room for the run, and for half of what the copy takes.
TEST(TrainingRun, WhereMemoryForTheCopyIsShortTrainingWaitsAndSaysSo) {
  RunConfig config = sample().config("short", "steps = 4\ndtype = \"fp32\"\n");
  config.checkpoint.interval = 2;
  const ModelConfig model = model_to_train(config);
  const TrainingEngine engine(model, engine_options(config, false));
  const CheckpointSnapshot snapshot(engine);
  TrainerOptions options;
  options.host_place.ranks = static_cast<int>(available_memory() / (engine.plan().total() + snapshot.bytes() / 2));
  set_log_quiet(false);
  ::testing::internal::CaptureStderr();
  train_quietly(config, options);
  const std::string said = ::testing::internal::GetCapturedStderr();
  set_log_quiet(true);
  const std::string words =
      "checkpoint.saving: to write beside training takes " + format_bytes(snapshot.bytes()) + " of memory more and ";
  const size_t found = said.find(words);
  ASSERT_NE(found, std::string::npos) << said;
  EXPECT_EQ(said.find("checkpoint.saving", found + 1), std::string::npos) << said;
  EXPECT_EQ(list_checkpoints(sample().run("short") / "checkpoints").size(), 2U);
}

TEST(TrainingRun, AnInterruptFinishesTheStepAndSaves) {
  std::atomic<bool> interrupt{true};
  TrainerOptions options;
  options.interrupt = &interrupt;
  const TrainingOutcome outcome = train_quietly(sample().config("interrupted"), options);
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(outcome.step, 1);
  EXPECT_EQ(latest_checkpoint(sample().run("interrupted") / "checkpoints")->step, 1);
}

TEST(TrainingRun, AFolderThatHoldsARunIsRefusedUnlessAskedFor) {
  train_quietly(sample().config("taken"));
  const std::string folder = sample().run("taken").string();
  EXPECT_EQ(error_of(sample().config("taken")), folder +
                                                    " holds a run already; go on with it (--resume auto), replace it "
                                                    "(--overwrite), or name another folder (--job.dump_folder)");
  EXPECT_EQ(metrics("taken").size(), 12u);
  train_quietly(sample().config("taken", "steps = 3\ndtype = \"fp32\"\n"), resume(ResumeMode::kOverwrite));
  EXPECT_EQ(metrics("taken").size(), 3u);
}

// What a person may have put into a run's folder, and that is still there after each way to begin a run was refused.
TEST(TrainingRun, WhatTheProgramDidNotWriteIsNeverRemoved) {
  const auto folder = [](const char* name) { return sample().run(name); };
  const auto expect_kept = [&](const RunConfig& config, const std::filesystem::path& precious,
                               std::initializer_list<ResumeMode> modes) {
    std::filesystem::create_directories(precious.parent_path());
    write_file(precious, "mine");
    for (const ResumeMode mode : modes) {
      EXPECT_NE(error_of(config, resume(mode)).find(precious.string()), std::string::npos)
          << error_of(config, resume(mode));
      EXPECT_EQ(read_file(precious), "mine");
    }
    std::filesystem::remove(precious);
  };
  const auto all = {ResumeMode::kNew, ResumeMode::kOverwrite, ResumeMode::kAuto};
  for (const char* name : {"model/precious.txt", "config.toml", "metrics.jsonl", "loss.svg", "loss.svg/inside",
                           "checkpoints", "tensorboard"}) {
    std::filesystem::remove_all(folder("foreign"));
    const std::filesystem::path precious = folder("foreign") / name;
    if (std::string(name) == "loss.svg/inside") {
      std::filesystem::create_directories(precious);
      EXPECT_NE(error_of(sample().config("foreign")).find("loss.svg is in the way"), std::string::npos);
      continue;
    }
    expect_kept(sample().config("foreign"), precious, all);
  }
  // A folder that holds something, but no run.
  std::filesystem::remove_all(folder("foreign"));
  expect_kept(sample().config("foreign"), folder("foreign") / "notes.txt", {ResumeMode::kOverwrite});
  // In what a run has written.
  train_quietly(sample().config("mixed"));
  for (const char* name :
       {"model/precious.txt", "model/below/precious.txt", "checkpoints/step-00000008/precious.txt"}) {
    const std::filesystem::path precious = folder("mixed") / name;
    expect_kept(sample().config("mixed"), precious, {ResumeMode::kOverwrite});
    if (precious.parent_path().filename() == "below") std::filesystem::remove(precious.parent_path());
  }
  const std::string config_json = read_file(folder("mixed") / "model/config.json");
  write_file(folder("mixed") / "model/config.json", config_json + " ");
  EXPECT_NE(error_of(sample().config("mixed"), resume(ResumeMode::kOverwrite)).find("model/config.json is in the way"),
            std::string::npos);
  write_file(folder("mixed") / "model/config.json", config_json);
  // Beside it nothing is in the way, and nothing of it is removed.
  write_file(folder("mixed") / "notes.txt", "mine");
  write_file(folder("mixed") / "checkpoints/notes.txt", "mine");
  train_quietly(sample().config("mixed"), resume(ResumeMode::kOverwrite));
  EXPECT_EQ(read_file(folder("mixed") / "notes.txt"), "mine");
  EXPECT_EQ(read_file(folder("mixed") / "checkpoints/notes.txt"), "mine");
}

TEST(TrainingRun, WhatARunReadsMayNotLieInWhatItReplaces) {
  train_quietly(sample().config("own-input"));
  RunConfig config = sample().config("own-input");
  config.model.name.clear();
  config.model.shape = "{}";
  config.model.initial_checkpoint = (sample().run("own-input") / "./model").string();
  EXPECT_EQ(error_of(config, resume(ResumeMode::kOverwrite)),
            "model.initial_checkpoint = " + config.model.initial_checkpoint + " lies in " +
                (sample().run("own-input") / "model").string() +
                ", which the run replaces; copy it to another place, or name another folder (--job.dump_folder)");
  EXPECT_TRUE(std::filesystem::exists(sample().run("own-input") / "model/model.safetensors"));
}

TEST(TrainingRun, AForeignFileInACheckpointOutlivesTheCheckpoint) {
  RunConfig config = sample().config("rotated");
  config.checkpoint.keep_latest_k = 1;
  config.training.steps = 4;
  train_quietly(config);
  const std::filesystem::path folder = sample().run("rotated") / "checkpoints";
  write_file(folder / "step-00000004/notes.txt", "mine");
  config.training.steps = 8;
  train_quietly(config, resume(ResumeMode::kAuto));
  EXPECT_EQ(read_file(folder / "set-aside-1-step-00000004/notes.txt"), "mine");
  EXPECT_EQ(list_checkpoints(folder).size(), 1u);
}

// Every byte of a checkpoint counts: what was altered is named, the last good one goes on, and its bits are those of a
// run that never stopped.
TEST(TrainingRun, DamageOfACheckpointIsFoundAndTheLastGoodOneGoesOn) {
  train_quietly(sample().config("sound"));
  const std::filesystem::path folder = sample().run("damaged");
  const std::string state = "training_state/state.json", slots = "training_state/optimizer-rank-00000.safetensors";
  const auto flip = [](std::string bytes, size_t at) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    return bytes;
  };
  const auto digit = [](std::string text) { return text.replace(text.find("\"step\": 12") + 8, 2, "13"); };
  const std::function<std::string(const std::string&)> flip_middle = [&](const std::string& b) {
    return flip(b, b.size() / 2);
  };
  const std::function<std::string(const std::string&)> half_zero = [](const std::string& b) {
    return b.substr(0, b.size() / 2) + std::string(b.size() - b.size() / 2, '\0');
  };
  const std::function<std::string(const std::string&)> cut = [](const std::string& b) {
    return b.substr(0, b.size() - 1);
  };
  const std::vector<std::pair<std::string, std::function<std::string(const std::string&)>>> damages = {
      {"model.safetensors", flip_middle},
      {slots, flip_middle},
      {slots, half_zero},
      {slots, cut},
      {state, digit},
      {"config.json", flip_middle},
      {"manifest.json", flip_middle}};
  for (const auto& [name, damage] : damages) {
    std::filesystem::remove_all(folder);
    std::filesystem::copy(sample().run("sound"), folder, std::filesystem::copy_options::recursive);
    const std::filesystem::path last = folder / "checkpoints/step-00000012";
    write_file(last / name, damage(read_file(last / name)));
    const std::string refusal = error_of(sample().config("damaged"), resume(ResumeMode::kLatest));
    EXPECT_EQ(refusal, "the checkpoint of step 12 is damaged; the last good one is " +
                           (folder / "checkpoints/step-00000008").string() + ": go on with --resume 8");
    EXPECT_TRUE(std::filesystem::exists(last));
    ::testing::internal::CaptureStderr();
    train_quietly(sample().config("damaged"), resume(ResumeMode::kAuto));
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(said.find("checkpoint of step 12: " + (last / name).string()), std::string::npos) << said;
    EXPECT_NE(said.find("going on from the last good one, step 8"), std::string::npos) << said;
    EXPECT_TRUE(std::filesystem::exists(folder / "checkpoints/set-aside-1-step-00000012"));
    EXPECT_EQ(metrics("damaged"), metrics("sound"));
    EXPECT_EQ(read_file(folder / "model/model.safetensors"),
              read_file(sample().run("sound") / "model/model.safetensors"));
  }
  // All of them: nothing is begun anew behind the user's back.
  for (const CheckpointEntry& checkpoint : list_checkpoints(folder / "checkpoints")) {
    write_file(checkpoint.path / state, "{}");
  }
  EXPECT_EQ(error_of(sample().config("damaged"), resume(ResumeMode::kAuto)),
            "no checkpoint in " + (folder / "checkpoints").string() +
                " is whole; begin anew with --overwrite, or in another folder (--job.dump_folder)");
  EXPECT_EQ(metrics("damaged").size(), 12u);
}

TEST(TrainingRun, ACheckpointIsAModelInFp32) {
  RunConfig config = sample().config("checkpoint-model");
  config.checkpoint.export_dtype = ExportDtype::kBfloat16;
  train_quietly(config);
  const std::filesystem::path checkpoint = sample().run("checkpoint-model") / "checkpoints/step-00000012";
  const ModelDirectory masters(checkpoint), exported(sample().run("checkpoint-model") / "model");
  EXPECT_EQ(masters.names(), exported.names());
  EXPECT_EQ(masters.at("lm_head.weight").dtype, DType::kF32);
  EXPECT_EQ(exported.at("lm_head.weight").dtype, DType::kBF16);
  for (const char* name : {"config.json", "tokenizer.json", "generation_config.json"}) {
    EXPECT_TRUE(std::filesystem::exists(checkpoint / name)) << name;
  }
  // It is what another run can begin from.
  RunConfig next = sample().config("from-checkpoint");
  next.model.name.clear();
  next.model.shape = "{}";
  next.model.initial_checkpoint = checkpoint.string();
  EXPECT_EQ(train_quietly(next).step, 12);
}

TEST(TrainingRun, AFrozenWeightIsInACheckpointOnce) {
  RunConfig config = sample().config("frozen-once");
  config.training.freeze = {"model.embed_tokens.weight"};
  train_quietly(config);
  const std::filesystem::path checkpoint = sample().run("frozen-once") / "checkpoints/step-00000012";
  const SafetensorsFile slots(checkpoint / "training_state/optimizer-rank-00000.safetensors");
  int64_t trained = 0;
  for (const TensorEntry& slot : slots.tensors()) {
    EXPECT_EQ(slot.name.find("embed_tokens"), std::string::npos) << slot.name;
    trained += slot.name.starts_with("first_moment:") ? 1 : 0;
  }
  EXPECT_GT(trained, 10);
  config.training.steps = 14;
  EXPECT_EQ(train_quietly(config, resume(ResumeMode::kAuto)).step, 14);
}

TEST(TrainingRun, WhatOnlyReportsMayChangeOnResume) {
  train_quietly(sample().config("reports"));
  RunConfig config = sample().config("reports");
  config.training.steps = 14;
  config.metrics.log_freq = 2;
  config.checkpoint.interval = 3;
  config.checkpoint.keep_latest_k = 1;
  config.validation.freq = 0;
  config.data.cache_folder = sample().run("other-cache").string();
  EXPECT_EQ(train_quietly(config, resume(ResumeMode::kAuto)).step, 14);
  config.validation.fraction = 0.25;  // would change what is trained on
  EXPECT_NE(error_of(config, resume(ResumeMode::kAuto)).find("validation.fraction"), std::string::npos);
}

TEST(TrainingRun, TheDtypeThatRanIsWhatResumes) {
  train_quietly(sample().config("auto", "steps = 4\ndtype = \"auto\"\n"));
  const std::string saved = read_file(sample().run("auto") / "config.toml");
  EXPECT_EQ(saved.find("dtype = \"auto\""), std::string::npos) << saved;
  // As if it had run on a chip of the other kind.
  const bool bf16 = saved.find("dtype = \"bf16\"") != std::string::npos;
  train_quietly(sample().config("other", std::string("steps = 4\ndtype = \"") + (bf16 ? "fp32" : "bf16") + "\"\n"));
  train_quietly(sample().config("other", "steps = 6\ndtype = \"auto\"\n"), resume(ResumeMode::kAuto));
  EXPECT_NE(read_file(sample().run("other") / "config.toml").find(bf16 ? "\"fp32\"" : "\"bf16\""), std::string::npos);
}

// Names of the next-token-prediction module's tensors.
std::vector<std::string> module_tensors(const std::filesystem::path& model) {
  const ModelDirectory directory(model);
  std::vector<std::string> names;
  for (const std::string& name : directory.names()) {
    if (name.starts_with("model.layers.2.")) names.push_back(name);  // behind the two of the model
  }
  return names;
}

RunConfig fine_tuning(const std::string& run, const std::filesystem::path& model) {
  RunConfig config = sample().config(run);
  config.model.name.clear();
  config.model.shape = "{}";
  config.model.initial_checkpoint = model.string();
  return config;
}

TEST(TrainingRun, AModuleThatIsNotTrainedIsCarriedAlong) {
  train_quietly(sample().config("with-module"));
  const std::filesystem::path model = sample().run("with-module") / "model";
  const std::vector<std::string> module = module_tensors(model);
  ASSERT_GT(module.size(), 10u);
  RunConfig config = fine_tuning("carried", model);
  config.training.mtp_loss_weight = 0;
  train_quietly(config);
  config.training.steps = 14;  // resumed: from a checkpoint that is then removed
  config.checkpoint.keep_latest_k = 1;
  config.checkpoint.interval = 1;
  train_quietly(config, resume(ResumeMode::kAuto));
  const std::filesystem::path carried = sample().run("carried") / "model";
  EXPECT_EQ(module_tensors(carried), module);
  const ModelDirectory before(model), after(carried);
  for (const std::string& name : module) {
    const TensorEntry &a = before.at(name), &b = after.at(name);
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(a.data), a.bytes),
              std::string_view(reinterpret_cast<const char*>(b.data), b.bytes))
        << name;
  }
  EXPECT_EQ(train_quietly(fine_tuning("from-carried", carried)).step, 12);
}

TEST(TrainingRun, AModelThatOnlyAnnouncesAModuleIsTrainedWithout) {
  RunConfig without = sample().config("no-module");
  without.training.mtp_loss_weight = 0;
  train_quietly(without);
  const std::filesystem::path model = sample().run("no-module") / "model";
  std::string json = read_file(model / "config.json");
  EXPECT_NE(json.find("\"num_nextn_predict_layers\": 0"), std::string::npos) << json;
  json.replace(json.find("\"num_nextn_predict_layers\": 0"), 29, "\"num_nextn_predict_layers\": 1");
  write_file(model / "config.json", json);
  ::testing::internal::CaptureStderr();
  RunConfig config = fine_tuning("announced", model);
  EXPECT_EQ(train_quietly(config).step, 12);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("announces next-token prediction but has no weights for it"), std::string::npos) << said;
  EXPECT_NE(read_file(sample().run("announced") / "model/config.json").find("\"num_nextn_predict_layers\": 0"),
            std::string::npos);
  config.training.steps = 14;
  EXPECT_EQ(train_quietly(config, resume(ResumeMode::kAuto)).step, 14);
}

TEST(TrainingRun, WhatMayNotChangeOnResumeIsRefused) {
  train_quietly(sample().config("changed"));
  RunConfig config = sample().config("changed");
  config.training.seq_len = 16;
  const std::string message = error_of(config, resume(ResumeMode::kLatest));
  EXPECT_NE(message.find("training.seq_len"), std::string::npos) << message;
  config = sample().config("changed");
  config.training.freeze = {"lm_head.weight"};
  EXPECT_EQ(error_of(config, resume(ResumeMode::kLatest)),
            "cannot resume: training.freeze is [] in the checkpoint and [\"lm_head.weight\"] now. Only the keys "
            "that docs/config.md marks with * may change; use the saved values, or start a new run in another "
            "job.dump_folder");
  EXPECT_EQ(error_of(sample().config("empty"), resume(ResumeMode::kLatest)),
            (sample().run("empty") / "checkpoints").string() + " holds no complete checkpoint to resume from");
}

TEST(TrainingRun, ReplayRepeatsAStepBitForBit) {
  train_quietly(sample().config("replayed"));
  TrainerOptions options;
  options.replay_step = 7;
  ::testing::internal::CaptureStdout();
  train(sample().config("replayed"), options);
  const std::string output = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(output.find("every op's output is finite; equal to the recorded loss, bit for bit"), std::string::npos)
      << output;
}

TEST(TrainingRun, ALossThatIsNotFiniteStopsAndNamesTheFirstTensor) {
  const std::string message = error_of(exploding("exploded"));
  EXPECT_NE(message.find("not finite. First: "), std::string::npos) << message;
  EXPECT_NE(message.find("gave a value that is not finite in its output"), std::string::npos) << message;
  EXPECT_NE(message.find("--replay-step"), std::string::npos) << message;
}

TEST(TrainingRun, AValidationLossThatIsNotFiniteStopsAndNamesTheSource) {
  RunConfig config = exploding("unvalidated");
  config.optimizer.lr = 1e18;  // the first step is finite, and what it leaves is not
  config.lr_scheduler.warmup_steps = 0;
  config.training.loss_not_finite = LossNotFinite::kSkip;
  config.validation.freq = 1;
  const std::string message = error_of(config);
  EXPECT_TRUE(message.starts_with("step 1: the validation loss of ")) << message;
  EXPECT_NE(message.find(": not finite, though the step itself was. First: "), std::string::npos) << message;
  EXPECT_NE(message.find("gave a value that is not finite in its output fp32 ["), std::string::npos) << message;
}

// The next step would have found it; the last one and one that is saved have none.
TEST(TrainingRun, AModelThatIsNotFiniteIsNotWritten) {
  for (const bool beside : {true, false}) {
    RunConfig config = sample().config(beside ? "diverged" : "diverged_at_the_end");
    config.training.router_bias_update_speed = 1e300;
    config.validation.freq = 0;
    config.checkpoint.interval = beside ? 2 : 0;
    if (!beside) config.training.steps = 2;
    const std::string message = error_of(config);
    EXPECT_TRUE(message.starts_with("the model is not written to ")) << message;
    EXPECT_NE(message.find("e_score_correction_bias is not finite: nan at place 0, as fp32; training has diverged"),
              std::string::npos)
        << message;
    EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(config.job.dump_folder) / "model"));
  }
}

TEST(TrainingRun, SuchStepsAreSkippedWhereAskedFor) {
  RunConfig config = exploding("skipped");
  config.training.loss_not_finite = LossNotFinite::kSkip;
  EXPECT_EQ(train_quietly(config).step, 12);
  std::ifstream file(sample().run("skipped") / "metrics.jsonl");
  int64_t skipped = 0;
  for (std::string text; std::getline(file, text);)
    skipped += nlohmann::json::parse(text).value("skipped", false) ? 1 : 0;
  EXPECT_GT(skipped, 0);
}

TEST(TrainingRun, ARunThatDoesNotFitIsRefusedWithItsLargestArenas) {
  RunConfig config = sample().config("large");
  config.model.name = "v3";
  config.model.shape = "{}";
  config.training.seq_len = 4096;
  const std::string message = error_of(config);
  EXPECT_NE(message.find("are available; its largest arenas are"), std::string::npos) << message;
  EXPECT_FALSE(std::filesystem::exists(sample().run("large")));
}

// The losses of 20 steps in fp32: a change of numbers anywhere on the path shows here. Update the list only with the
// reason in the commit. fp32 sums differ between instruction sets in the last bits, which 20 steps amplify to about
// 1e-5.
TEST(TrainingRun, GoldenLossCurve) {
  RunConfig config = sample().config("golden", "steps = 20\ndtype = \"fp32\"\n");
  train_quietly(config);
  const std::vector<double> golden = {
#include "integration/golden_loss_curve.inc"
  };
  const auto lines = metrics("golden");
  std::string found;
  for (const Line& line : lines) found += fmt::format("{:.6f},\n", line.loss);
  ASSERT_EQ(lines.size(), golden.size()) << found;
  for (size_t i = 0; i < golden.size(); ++i)
    EXPECT_NEAR(lines[i].loss, golden[i], 1e-4) << "step " << i + 1 << "\n" << found;
}

}  // namespace
}  // namespace deeptitan
