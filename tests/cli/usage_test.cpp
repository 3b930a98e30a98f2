// What the program says about itself, and about a command line that it does not understand.

#include <array>
#include <cstdlib>
#include <filesystem>
#include <regex>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "cli/program.h"
#include "core/file.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::run_program;

// One line on stderr, nothing on stdout, exit code 2.
void expect_usage_error(const std::vector<std::string>& arguments, const std::string& message) {
  const Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.err, "deeptitan: " + message + "\n");
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.exit_code, 2) << message;
}

constexpr const char* kExpectedModel =
    " (expected a model's directory, OWNER/NAME on the hub, or one of: v2-lite-chat, v2-lite, v2, v3, v3-0324, "
    "moonlight, moonlight-chat, kimi-k2, gigachat3-10b)";

std::vector<std::vector<std::string>> all_commands() {
  return {{"init", "pretrain"},
          {"init", "finetune"},
          {"init", "chat"},
          {"train"},
          {"generate"},
          {"chat"},
          {"eval"},
          {"bench", "decode"},
          {"bench", "prefill"},
          {"inspect"},
          {"plan"},
          {"convert"},
          {"download"},
          {"tokenizer", "train"},
          {"tokenizer", "encode"},
          {"tokenizer", "decode"},
          {"tokenizer", "render"},
          {"bench", "train"}};
}

TEST(Usage, VersionIsOneLine) {
  const Outcome outcome = run_program({"--version"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(std::regex_match(
      outcome.out,
      std::regex("deeptitan [0-9]+\\.[0-9]+\\.[0-9]+ \\([^;]+; CPU kernels for avx2, avx512, "
                 "avx512_bf16, here avx[0-9a-z_]+; with(out)? CUDA; (Open MPI v[0-9.]+|[^;]*MPI[^;]+)\\)\n")))
      << outcome.out;
}

TEST(Usage, EveryCommandHasHelp) {
  const std::string overview = run_program({"--help"}).out;
  for (std::vector<std::string> command : all_commands()) {
    EXPECT_NE(overview.find("\n  " + command.front()), std::string::npos) << command.front();
    command.emplace_back("--help");
    const Outcome outcome = run_program(command);
    EXPECT_EQ(outcome.exit_code, 0) << command.front();
    EXPECT_EQ(outcome.err, "");
    EXPECT_NE(outcome.out.find("Usage: deeptitan " + command.front()), std::string::npos) << outcome.out;
  }
}

TEST(Usage, HelpShowsUnitsDefaultsAndChoices) {
  const auto expect_in = [](const std::vector<std::string>& command, const std::vector<std::string>& texts) {
    const std::string help = run_program(command).out;
    for (const std::string& text : texts) EXPECT_NE(help.find(text), std::string::npos) << text << "\n" << help;
  };
  expect_in({"train", "--help"},
            {"--resume auto|latest|STEP", "--replay-step STEP", "(required)", "--section.key value"});
  expect_in({"plan", "--help"}, {"--memory BYTES", "(default: what the system has available)"});
  expect_in({"inspect", "--help"}, {"--context TOKENS", "(default: 4096)"});
  expect_in({"convert", "--help"}, {"--dtype bf16|fp32|fp8", "--max-shard-size BYTES", "(default: 5000000000)"});
  expect_in({"tokenizer", "train", "--help"},
            {"--vocab-size TOKENS", "(default: 4096)", "deepseek-v3|gpt2", "(default: deepseek-v3)"});
}

TEST(Usage, AnUnknownCommandGetsTheNearestOne) {
  const Outcome outcome = run_program({"trian", "x.toml"});
  EXPECT_TRUE(outcome.err.starts_with("deeptitan: unknown command 'trian'; did you mean 'train'? (commands: train, "))
      << outcome.err;
  EXPECT_EQ(outcome.exit_code, 2);
  expect_usage_error(
      {"tokenizer", "encod"},
      "tokenizer: unknown command 'encod'; did you mean 'encode'? (commands: train, encode, decode, render) "
      "(see deeptitan tokenizer --help)");
  expect_usage_error({"tokenizer"},
                     "tokenizer: expected a command: train, encode, decode, render (see deeptitan tokenizer --help)");
}

TEST(Usage, AnUnknownOptionGetsTheNearestOne) {
  expect_usage_error({"--verson"}, "unknown option '--verson'; did you mean '--version'? (see deeptitan --help)");
  expect_usage_error({"train", "run.toml", "--overwrit"},
                     "train: unknown option '--overwrit'; did you mean '--overwrite'? (see deeptitan train --help)");
  expect_usage_error({"plan", "run.toml", "--memroy=4"},
                     "plan: unknown option '--memroy'; did you mean '--memory'? (see deeptitan plan --help)");
  expect_usage_error({"inspect", "v2", "--contxt", "4"},
                     "inspect: unknown option '--contxt'; did you mean '--context'? (see deeptitan inspect --help)");
  expect_usage_error({"inspect", "v2", "v3"}, "inspect: unexpected argument 'v3' (see deeptitan inspect --help)");
}

// Habits from other programs are answered in words, not by the nearest spelling.
TEST(Usage, WhatDoesNotExistIsSaid) {
  expect_usage_error({"train", "run.toml", "--lr", "1e-4"},
                     "train: unknown option '--lr'; the learning rate is optimizer.lr (see deeptitan train --help)");
  expect_usage_error(
      {"train", "run.toml", "--epochs=3"},
      "train: unknown option '--epochs'; a run's length is counted in training.steps; how often it passes "
      "over each source is said when it starts (see deeptitan train --help)");
  expect_usage_error({"train", "run.toml", "--use-lora"},
                     "train: unknown option '--use-lora'; adapters do not exist here: every weight is trained, but for "
                     "those that training.freeze names (see deeptitan train --help)");
  const std::string commands =
      " (commands: train, init, generate, chat, eval, tokenizer, inspect, plan, bench, convert, download) (see "
      "deeptitan --help)";
  expect_usage_error({"run"}, "unknown command 'run'; generate continues a text, chat talks" + commands);
  expect_usage_error({"pull", "v2"}, "unknown command 'pull'; download fetches a model" + commands);
  const auto says = [](const std::string& option, const std::string& words) {
    const Outcome outcome = run_program({"train", "run.toml", option, "1"});
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find("'" + option + "'; " + words), std::string::npos) << outcome.err;
  };
  says("--packing", "packing is always on");
  says("--sample-packing", "packing is always on");
  says("--flash-attention", "there is one implementation of attention");
  says("--deepspeed", "how ranks share a run is said in the section parallelism");
  says("--bf16", "the type of products is training.dtype");
  says("--dpo", "learning from preferences does not exist here");
  expect_usage_error({"inspect", "v2", "--lr", "4"}, "inspect: unknown option '--lr' (see deeptitan inspect --help)");
}

// Options of other programs that run models, short ones too, are named before what is missing.
TEST(Usage, OptionsOfOtherProgramsAreAnsweredByThoseHere) {
  const auto meant = [](const std::string& command, const std::string& option, const std::string& here) {
    expect_usage_error({command, option, "x"}, command + ": unknown option '" + option + "'; did you mean '" + here +
                                                   "'? (see deeptitan " + command + " --help)");
  };
  for (const char* command : {"generate", "chat"}) {
    meant(command, "-m", "--model");
    meant(command, "--temp", "--temperature");
    meant(command, "--n-predict", "--max-new-tokens");
    meant(command, "--max_tokens", "--max-new-tokens");
    meant(command, "--top_p", "--top-p");
    meant(command, "-t", "--threads");
  }
  meant("chat", "--ctx-size", "--context");
  meant("chat", "-c", "--context");
  meant("generate", "-p", "--prompt");
  meant("generate", "--num_return_sequences", "--samples");
  meant("download", "--local-dir", "--dir");
  expect_usage_error({"chat", "some/model"},
                     "chat: unexpected argument 'some/model'; --model is required (see deeptitan chat --help)");
  expect_usage_error({"train", "--training.steps=3"}, "train: CONFIG is required (see deeptitan train --help)");
  const auto says = [](const std::string& command, const std::string& words) {
    const Outcome outcome = run_program({command});
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(outcome.err.starts_with("deeptitan: unknown command '" + command + "'; " + words)) << outcome.err;
  };
  says("show", "inspect shows a model");
  says("ps", "nothing runs in the background");
  says("help", "--help lists the commands");
  const TemporaryFolder folder;
  const std::string gguf = folder.write("model.gguf", "GGUF");
  expect_usage_error({"generate", "--model", gguf, "--prompt", "a"},
                     gguf +
                         " is a file of weights in a form that is not read; expected a Hugging Face directory with "
                         "config.json and safetensors, such as deeptitan download fetches");
}

// A run's folder is not yet its model.
TEST(Usage, AFolderOfARunNamesItsModel) {
  const TemporaryFolder folder;
  folder.write("run/model/config.json", "{}");
  const std::string run = folder.path() / "run";
  expect_usage_error({"generate", "--model", run, "--prompt", "a"},
                     "cannot read " + run + "/config.json: expected a Hugging Face config.json, or a directory that " +
                         "holds one; the run's model is " + run + "/model");
}

TEST(Usage, EverySpellingOfADtypeIsRead) {
  for (const char* word : {"fp32", "f32", "float32", "bf16", "bfloat16"}) {
    const Outcome outcome = run_program({"convert", "/dev/null", "/no/out", "--dtype", word});
    EXPECT_TRUE(outcome.err.starts_with("deeptitan: /dev/null is a file, expected a model directory ")) << outcome.err;
  }
}

TEST(Usage, WhatIsMissingIsNamed) {
  expect_usage_error({"train"}, "train: CONFIG is required (see deeptitan train --help)");
  expect_usage_error({"tokenizer", "encode", "--file", "a"},
                     "tokenizer encode: --model is required (see deeptitan tokenizer encode --help)");
  expect_usage_error({"train", "run.toml", "--resume"}, "train: --resume needs a value (see deeptitan train --help)");
}

TEST(Usage, OfOptionsThatExcludeOneAnotherAllAreNamed) {
  const std::string texts = "eval: expected one of --text, --token-ids, --pairs, --requests";
  expect_usage_error({"eval", "--model", "/"}, texts + " (see deeptitan eval --help)");
  expect_usage_error({"eval", "--model", "/", "--text", "a", "--pairs", "b"},
                     texts + " alone (see deeptitan eval --help)");
  expect_usage_error({"generate", "--model", "/", "--prompt", "a", "--input", "b"},
                     "generate: expected one of --prompt, --prompt-file, --file, --messages, --input alone (see "
                     "deeptitan generate --help)");
}

TEST(Usage, AValueOutOfRangeOrOfTheWrongTypeIsNamed) {
  expect_usage_error({"inspect", "v2", "--context", "0"},
                     "inspect: --context: expected a whole number of at least 1, not 0 (see deeptitan inspect --help)");
  expect_usage_error({"train", "run.toml", "--replay-step", "x"},
                     "train: --replay-step: expected a whole number of at least 1, not x (see deeptitan train --help)");
  expect_usage_error({"generate", "--model", "/", "--prompt", "a", "--samples", "99999999999"},
                     "generate: --samples: expected a whole number from 1 to 100000, not 99999999999 (see deeptitan "
                     "generate --help)");
  expect_usage_error({"generate", "--model", "/", "--prompt", "a", "--top-k", ""},
                     "generate: --top-k: expected a whole number of at least 0, not an empty text (see deeptitan "
                     "generate --help)");
  expect_usage_error({"generate", "--model", "/", "--seed", "1", "--seed", "2"},
                     "generate: --seed is given 2 times; expected once (see deeptitan generate --help)");
  expect_usage_error({"train", "run.toml", "--threads", "4097"},
                     "train: --threads: expected a whole number from 1 to 4096, not 4097 (see deeptitan train --help)");
  expect_usage_error(
      {"download", "a/b", "--parallel", "65"},
      "download: --parallel: expected a whole number from 1 to 64, not 65 (see deeptitan download --help)");
  expect_usage_error({"plan", "run.toml", "--memory", "8XB"},
                     "plan: --memory: expected a number of bytes, such as 5000000000, 5GB or 4GiB, not 8XB (see "
                     "deeptitan plan --help)");
  expect_usage_error({"convert", "/", "b", "--dtype", "bf17"},
                     "convert: --dtype: expected one of bf16, fp32, fp8, not bf17; did you mean 'bf16'? (see deeptitan "
                     "convert --help)");
}

TEST(Usage, SamplingOptionsOutOfRangeAreNamedWithTheRange) {
  const std::vector<std::array<const char*, 3>> cases = {
      {"--temperature", "-0.1", "a number of at least 0"},
      {"--temperature", "nan", "a number of at least 0"},
      {"--temperature", "hot", "a number of at least 0"},
      {"--top-k", "-1", "a whole number of at least 0"},
      {"--top-k", "1.5", "a whole number of at least 0"},
      {"--top-p", "0", "a number greater than 0 and at most 1"},
      {"--top-p", "1.01", "a number greater than 0 and at most 1"},
      {"--min-p", "-0.5", "a number from 0 to 1"},
      {"--min-p", "2", "a number from 0 to 1"},
      {"--repetition-penalty", "0", "a number greater than 0"},
      {"--seed", "-1", "a whole number of at least 0"},
      {"--seed", "1.5", "a whole number of at least 0"},
      {"--repetition-penalty", "inf", "a number greater than 0"},
  };
  for (const auto& [flag, value, range] : cases) {
    for (const char* command : {"generate", "chat"}) {
      expect_usage_error(
          {command, "--model", "/", flag, value},
          fmt::format("{0}: {1}: expected {2}, not {3} (see deeptitan {0} --help)", command, flag, range, value));
    }
  }
}

TEST(Usage, AnUnknownModelGetsTheNearestOne) {
  expect_usage_error({"inspect", "v2-lit"},
                     "unknown model 'v2-lit'; did you mean 'v2-lite'? (models: tiny-v3, tiny-v2, v2-lite, v2, v3, "
                     "moonlight, kimi-k2, gigachat3-10b; or give the path of "
                     "a config.json as model.config)");
  const Outcome absent = run_program({"inspect", "no/such"});
  EXPECT_TRUE(
      absent.err.starts_with("deeptitan: there is no directory no/such, and the model no/such is not in the "
                             "cache "))
      << absent.err;
  EXPECT_TRUE(absent.err.ends_with("; fetch it with: deeptitan download no/such\n")) << absent.err;
  EXPECT_EQ(absent.exit_code, 2);
  expect_usage_error({"inspect", "./no/such"}, std::string("there is no directory ./no/such") + kExpectedModel);
  for (const char* command : {"generate", "chat"}) {
    expect_usage_error({command, "--model", "v2lite"},
                       fmt::format("{}: --model: there is no directory v2lite; did you mean 'v2-lite'?{} (see "
                                   "deeptitan {} --help)",
                                   command, kExpectedModel, command));
  }
  expect_usage_error({"download", "v2-lit"},
                     "unknown model 'v2-lit'; did you mean 'v2-lite'? (models: v2-lite-chat, v2-lite, v2, v3, v3-0324, "
                     "moonlight, moonlight-chat, kimi-k2, gigachat3-10b; "
                     "or OWNER/NAME on "
                     "the hub)");
}

// What is not on the disk can be planned by its shape, and the answer says how to fetch it.
TEST(Usage, AKnownModelIsPlannedBeforeItIsDownloaded) {
  const TemporaryFolder folder;
  const std::string start = "[data]\nsynthetic = true\n[training]\nseq_len = 128\n[model]\ninitial_checkpoint = ";
  const std::string file = folder.write("run.toml", start + "\"models/DeepSeek-V2-Lite\"\n");
  const std::string note =
      "models/DeepSeek-V2-Lite is not there: this is for the shape of v2-lite; fetch the weights with: deeptitan "
      "download v2-lite --dir models/DeepSeek-V2-Lite\n";
  const Outcome plan = run_program({"plan", file, "--memory", "400GB"});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_NE(plan.out.find("\n" + note + "fits into "), std::string::npos) << plan.out;
  const Outcome inspect = run_program({"inspect", file});
  EXPECT_TRUE(inspect.out.starts_with(note + "deepseek_v2: 27 layers")) << inspect.out << inspect.err;
  // By name, without any file.
  const std::string where =
      "weights of this shape: deepseek-ai/DeepSeek-V2-Lite-Chat: deeptitan download v2-lite-chat; "
      "deepseek-ai/DeepSeek-V2-Lite: deeptitan download v2-lite\n";
  EXPECT_TRUE(run_program({"inspect", "v2-lite"}).out.starts_with(where + "deepseek_v2: 27 layers"));
  EXPECT_NE(run_program({"plan", "v2-lite", "--memory", "400GB"}).out.find("\n" + where + "fits into "),
            std::string::npos);
  EXPECT_EQ(run_program({"inspect", "tiny-v3"}).out.find("weights of"), std::string::npos);
  for (const char* command : {"generate", "chat"}) {
    expect_usage_error({command, "--model", "models/DeepSeek-V2-Lite"},
                       std::string(command) +
                           ": --model: there is no directory models/DeepSeek-V2-Lite; fetch "
                           "deepseek-ai/DeepSeek-V2-Lite with: deeptitan download v2-lite --dir "
                           "models/DeepSeek-V2-Lite (see deeptitan " +
                           command + " --help)");
  }
  const std::string mine = folder.write("mine.toml", start + "\"models/mine\"\n");
  const Outcome unknown = run_program({"plan", mine});
  EXPECT_TRUE(
      unknown.err.starts_with("deeptitan: model.initial_checkpoint = models/mine is not there; fetch it with "
                              "deeptitan download, or name its shape with --model.name (one of tiny-v3, "))
      << unknown.err;
  EXPECT_EQ(unknown.exit_code, 2);
}

// Wherever a model is named, also in a run file, the name of a downloaded one is its directory in the cache.
TEST(Usage, ADownloadedModelIsFoundByItsName) {
  const TemporaryFolder cache, folder;
  const auto snapshot = cache.path() / "models--deepseek-ai--DeepSeek-V2-Lite-Chat" / "snapshots" / "aaaa";
  std::filesystem::create_directories(snapshot);
  write_file(snapshot / "config.json",
             read_file(std::filesystem::path(DT_TEST_DATA_DIR) / "golden" / "model" / "v2_lite" / "config.json"));
  ::setenv("HF_HUB_CACHE", cache.path().c_str(), 1);
  const std::string run = "[data]\nsynthetic = true\n[training]\nseq_len = 32\n[model]\n";
  const std::string by_config = folder.write("config.toml", run + "config = \"deepseek-ai/DeepSeek-V2-Lite-Chat\"\n");
  const std::string missing = folder.write("missing.toml", run + "initial_checkpoint = \"v2-lite\"\n");
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"inspect", "v2-lite-chat"},
                                                    {"inspect", by_config},
                                                    {"plan", "v2-lite-chat"},
                                                    {"plan", "deepseek-ai/DeepSeek-V2-Lite-Chat"},
                                                    {"plan", by_config},
                                                    {"plan", snapshot.string()}}) {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << arguments[0] << " " << arguments[1] << ": " << outcome.err;
  }
  const Outcome planned = run_program({"plan", missing});
  EXPECT_NE(
      planned.out.find("v2-lite is not there: this is for the shape of v2-lite; fetch the weights with: deeptitan "
                       "download v2-lite\n"),
      std::string::npos)
      << planned.out << planned.err;
  expect_usage_error({"train", missing, "--job.dump_folder", (folder.path() / "run").string()},
                     "model.initial_checkpoint = v2-lite: the model deepseek-ai/DeepSeek-V2-Lite is not in the cache " +
                         cache.path().string() + "; fetch it with: deeptitan download v2-lite");
  // What it holds is looked for in the directory of the cache.
  const Outcome init = run_program(
      {"init", "finetune", missing, "--model", "v2-lite-chat", "--out", (folder.path() / "x.toml").string()});
  EXPECT_NE(init.err.find(snapshot.string()), std::string::npos) << init.err;
  ::unsetenv("HF_HUB_CACHE");
}

// None of these has ever a library's own words.
TEST(Usage, PathsOfTheWrongKindAreNamed) {
  const TemporaryFolder folder;
  const std::string weights = folder.write("model.safetensors", "x");
  expect_usage_error({"generate", "--model", weights, "--prompt", "a"},
                     weights + " holds weights; expected the model's directory, or its config.json");
  const std::string golden = std::string(DT_TEST_DATA_DIR) + "/golden/model/v2_lite/config.json";
  expect_usage_error({"generate", "--model", golden, "--prompt", "a"},
                     golden +
                         " is a file; expected a model's directory, which holds config.json, tokenizer.json and "
                         "weights");
  expect_usage_error({"generate", "--model", "", "--prompt", "a"},
                     fmt::format("generate: --model: there is no directory of an empty name{} (see deeptitan generate "
                                 "--help)",
                                 kExpectedModel));
  const std::string pipe = folder.path().string() + "/config.json";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"inspect", folder.path().string()},
        {"generate", "--model", folder.path().string(), "--prompt", "a"},
        {"convert", folder.path().string(), folder.path().string() + "-out", "--dtype", "bf16"}}) {
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_LT(outcome.err.size(), 400u) << outcome.err;
  }
  EXPECT_EQ(run_program({"inspect", folder.path().string()}).err,
            "deeptitan: cannot read " + pipe + ": it is a pipe, expected a regular file\n");
  const std::string file = folder.write("run.toml", "[model]\nname = \"tiny-v3\"\n[data]\nsynthetic = true\n");
  const Outcome proc = run_program({"train", file, "--job.dump_folder", "/proc/x"});
  EXPECT_NE(proc.exit_code, 0);
  EXPECT_EQ(proc.err.find("filesystem error"), std::string::npos) << proc.err;
  EXPECT_NE(proc.err.find("/proc/x"), std::string::npos) << proc.err;
}

TEST(Usage, MistakesInARunFileAreNamedWithTheirLine) {
  const TemporaryFolder folder;
  const auto run_file = [&](const std::string& line) {
    return folder.write("run.toml",
                        "[model]\nname = \"tiny-v3\"\n[data]\nsynthetic = true\n[training]\n" + line + "\n");
  };
  const std::string file = run_file("stps = 3");
  expect_usage_error(
      {"train", file},
      file + ":6: unknown key 'training.stps'; did you mean 'training.steps'? (docs/config.md lists all keys)");
  run_file("steps = \"many\"");
  expect_usage_error({"train", file}, file + ":6: training.steps = 'many'; expected a whole number of at least 1");
  run_file("steps = 0");
  expect_usage_error({"plan", file}, file + ":6: training.steps = 0; expected a whole number of at least 1");
  run_file("dtype = \"bf61\"");
  expect_usage_error({"bench", "train", file},
                     file + ":6: training.dtype = 'bf61'; expected one of auto, bf16, fp32; did you mean 'bf16'?");
  run_file("steps = 3");
  expect_usage_error(
      {"train", file, "--training.seq_lem", "8"},
      "command line: unknown key 'training.seq_lem'; did you mean 'training.seq_len'? (docs/config.md lists all keys)");
  expect_usage_error({"train", file, "--training.seq_len=-8"},
                     "command line: training.seq_len = -8; expected a whole number of at least 1");
  expect_usage_error({"train", file, "--model.name", "tiny-v4"},
                     "command line: unknown model 'tiny-v4'; did you mean 'tiny-v3'? (models: tiny-v3, tiny-v2, "
                     "v2-lite, v2, v3, moonlight, kimi-k2, gigachat3-10b; or give the path of a "
                     "config.json as model.config)");
  expect_usage_error({"train", "missing.toml"},
                     "cannot read missing.toml: expected a run file in TOML, such as configs/tiny_v3.toml");
}

TEST(Usage, ARunThatDoesNotFitIsRefusedWithAdvice) {
  const TemporaryFolder folder;
  const std::string file = folder.write("run.toml", "[job]\ndump_folder = \"" + (folder.path() / "run").string() +
                                                        "\"\n[model]\nname = \"tiny-v3\"\n[data]\nsynthetic = true\n");
  const Outcome fits = run_program({"plan", file, "--memory", "100GB"});
  EXPECT_EQ(fits.exit_code, 0);
  EXPECT_NE(fits.out.find("fits into 100000000000 bytes (100.0 GB)"), std::string::npos) << fits.out;
  EXPECT_NE(fits.out.find("  with activation_checkpoint.mode = \"layer\"\n"), std::string::npos) << fits.out;
  EXPECT_NE(fits.out.find("  with training.freeze = [\"model.layers.*.mlp.experts.*\"]\n"), std::string::npos)
      << fits.out;
  EXPECT_EQ(run_program({"plan", "tiny-v3", "--memory", "100GB"}).exit_code, 0);
  const Outcome plan = run_program({"plan", file, "--memory", "300MB"});
  EXPECT_EQ(plan.exit_code, 1);
  EXPECT_EQ(plan.err, "");
  EXPECT_NE(
      plan.out.find(
          "does not fit into 300000000 bytes (300.0 MB); nearest changes that would:\n  training.local_batch_size = 4"),
      std::string::npos)
      << plan.out;
  const Outcome train = run_program({"train", file, "--model.name", "v3", "--training.seq_len", "4096"});
  EXPECT_EQ(train.exit_code, 2);
  EXPECT_EQ(train.out, "");
  EXPECT_TRUE(train.err.starts_with("deeptitan: the run needs ")) << train.err;
  EXPECT_NE(train.err.find(" are available; its largest arenas are "), std::string::npos) << train.err;
  EXPECT_EQ(train.err.find('\n'), train.err.size() - 1);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "run"));
}

TEST(Usage, ResultsThatCannotBeWrittenAreAFailure) {
  const Outcome outcome =
      run_program({"plan", std::string(DT_TEST_DATA_DIR) + "/../configs/tiny_v3.toml"}, {.output_file = "/dev/full"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_TRUE(outcome.err.starts_with("deeptitan: cannot write to standard output: No space left")) << outcome.err;
  for (const char* question : {"--help", "--version"}) {
    const Outcome help = run_program({question}, {.output_file = "/dev/full"});
    EXPECT_EQ(help.exit_code, 1) << question;
    EXPECT_TRUE(help.err.starts_with("deeptitan: cannot write to standard output: No space left")) << help.err;
  }
}

}  // namespace
}  // namespace deeptitan
