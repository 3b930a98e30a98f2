#include "config/run_config_toml.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "config/config_keys.h"
#include "core/error.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

constexpr std::string_view kRun = R"(# a run
[job]
description = "a \"quoted\" word, \\ and\ttab"

[model]
name = "tiny-v3"
tokenizer = "tok"

[model.shape]
hidden_size = 128
rope_scaling = {rope_type = "linear", factor = 2.0}

[model.template_variables]
thinking = true
"two words" = {"a.b" = [1, "two"]}

[optimizer]
lr = 4e-3
eps = 1e-15

[training]
steps = 1_000
dtype = "bf16"
freeze = ["model.embed_tokens.weight", "model.layers.[01].*"]

[[data.sources]]
path = "a.txt"
weight = 3

[[data.sources]]
path = "b.jsonl"
text_field = "content"
document_separator = "\n\n"

[[data.sources]]
path = "c.jsonl"
format = "chat"
messages_field = "turns"
)";

RunConfig parse(std::string_view text, std::vector<std::string> arguments = {}) {
  return parse_run_config(text, "run.toml", parse_overrides(arguments));
}

TEST(RunConfigToml, ReadsEachKindOfValue) {
  const RunConfig c = parse(kRun);
  EXPECT_EQ(c.job.description, "a \"quoted\" word, \\ and\ttab");
  EXPECT_EQ(c.optimizer.lr, 4e-3);
  EXPECT_EQ(c.training.steps, 1000);
  EXPECT_TRUE(c.training.dtype == TrainingDtype::kBf16);
  EXPECT_EQ(c.training.freeze, (std::vector<std::string>{"model.embed_tokens.weight", "model.layers.[01].*"}));
  ASSERT_EQ(c.data.sources.size(), 3u);
  EXPECT_EQ(c.data.sources[0].weight, 3.0);
  EXPECT_TRUE(c.data.sources[0].format == SourceFormat::kText);
  EXPECT_TRUE(c.data.sources[2].format == SourceFormat::kChat);
  EXPECT_EQ(c.data.sources[2].messages_field, "turns");
  EXPECT_TRUE(c.data.has_chats());
  EXPECT_EQ(c.data.sources[1].document_separator, "\n\n");
  const ModelConfig m = resolve_model_config(c);
  EXPECT_EQ(m.hidden_size, 128);
  EXPECT_EQ(m.rope.factor, 2.0);
}

TEST(RunConfigToml, EchoReadsBackAsTheSameConfiguration) {
  const RunConfig c = parse(kRun, {"--training.loss_not_finite", "skip", "--optimizer.eps=3e-11"});
  const std::string echo = to_toml(c);
  EXPECT_TRUE(parse(echo) == c) << echo;
  EXPECT_EQ(to_toml(parse(echo)), echo);
}

TEST(RunConfigToml, EveryKeyOfTheTableIsEchoed) {
  const std::string echo = to_toml(parse(kRun));
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    const std::string line = fmt::format("\n{} = ", key.short_name());
    const bool found =
        echo.find(line) != std::string::npos || echo.find(fmt::format("[{}]", key.name)) != std::string::npos;
    EXPECT_TRUE(found) << key.name;
  }
}

TEST(RunConfigToml, CommandLineWinsOverTheFile) {
  const RunConfig c = parse(kRun, {"--training.steps", "7", "--job.description=", "--model.shape.hidden_size=64",
                                   "--model.shape.topk_group", "1", "--metrics.enable_tensorboard", "false",
                                   "--data.sources", "[{path = \"c.txt\"}]", "--model.template_variables", "{}",
                                   "--job.dump_folder", "123", "--training.freeze", "[\"lm_head.weight\"]"});
  EXPECT_EQ(c.training.steps, 7);
  EXPECT_EQ(c.job.description, "");
  EXPECT_EQ(c.job.dump_folder, "123");
  EXPECT_FALSE(c.metrics.enable_tensorboard);
  EXPECT_EQ(c.training.freeze, std::vector<std::string>{"lm_head.weight"});
  ASSERT_EQ(c.data.sources.size(), 1u);
  EXPECT_EQ(c.data.sources[0].path, "c.txt");
  EXPECT_EQ(resolve_model_config(c).hidden_size, 64);
  EXPECT_EQ(resolve_model_config(c).rope.factor, 2.0);
}

TEST(RunConfigToml, ShapeFieldsOnTheCommandLineMayBeWords) {
  const RunConfig c = parse("[model]\nname = \"tiny-v2\"\n[data]\nsynthetic = true\n",
                            {"--model.shape.topk_method", "group_limited_greedy"});
  EXPECT_TRUE(resolve_model_config(c).topk_method == TopkMethod::kGroupLimitedGreedy);
}

TEST(RunConfigToml, EachMistakeInAFileHasItsLine) {
  const auto expect = [](const char* text, const std::string& message) {
    expect_usage_error([&] { parse(text); }, message);
  };
  expect("[training]\nseed = 1\nstpes = 5\n",
         "run.toml:3: unknown key 'training.stpes'; did you mean 'training.steps'? (docs/config.md lists all keys)");
  expect("[training]\nlr = 5\n",
         "run.toml:2: unknown key 'training.lr'; did you mean 'optimizer.lr'? (docs/config.md lists all keys)");
  expect("[training]\nxyzzy_plugh = 5\n",
         "run.toml:2: unknown key 'training.xyzzy_plugh' (docs/config.md lists all keys)");
  expect("[training]\nepochs = 5\n",
         "run.toml:2: unknown key 'training.epochs'; a run's length is counted in training.steps; how often it passes "
         "over each source is said when it starts (docs/config.md lists all keys)");
  expect("[training]\nlora = true\n",
         "run.toml:2: unknown key 'training.lora'; adapters do not exist here: every weight is trained, but for those "
         "that training.freeze names (docs/config.md lists all keys)");
  expect("[lora]\nrank = 8\n",
         "run.toml:1: unknown section [lora]; adapters do not exist here: every weight is trained, but for those that "
         "training.freeze names (sections: job, metrics, model, optimizer, lr_scheduler, training, parallelism, "
         "checkpoint, "
         "activation_checkpoint, data, validation)");
  expect("\n[trainin]\nsteps = 5\n",
         "run.toml:2: unknown section [trainin]; did you mean 'training'? (sections: job, metrics, model, optimizer, "
         "lr_scheduler, training, parallelism, checkpoint, activation_checkpoint, data, validation)");
  expect("steps = 5\n",
         "run.toml:1: unknown key 'steps'; did you mean 'training.steps'? (docs/config.md lists all keys)");
  expect("training = 5\n", "run.toml:1: training = 5; expected a section [training]");
  expect("[training]\nsteps = \"many\"\n",
         "run.toml:2: training.steps = 'many'; expected a whole number of at least 1");
  expect("[training]\nsteps = 0\n", "run.toml:2: training.steps = 0; expected a whole number of at least 1");
  expect("[training]\nsteps = 1.5\n", "run.toml:2: training.steps = 1.5; expected a whole number of at least 1");
  expect("[optimizer]\nlr = -1\n", "run.toml:2: optimizer.lr = -1; expected a number of at least 0");
  expect("[optimizer]\nlr = nan\n", "run.toml:2: optimizer.lr = nan; expected a number of at least 0");
  expect("[optimizer]\nlr = inf\n", "run.toml:2: optimizer.lr = inf; expected a number of at least 0");
  expect("[optimizer]\neps = 0\n", "run.toml:2: optimizer.eps = 0; expected a number greater than 0");
  expect("[optimizer]\nbeta1 = 1\n", "run.toml:2: optimizer.beta1 = 1; expected a number from 0 to below 1");
  expect("[validation]\nfraction = 0.6\n", "run.toml:2: validation.fraction = 0.6; expected a number from 0 to 0.5");
  expect("[metrics]\nenable_tensorboard = 1\n", "run.toml:2: metrics.enable_tensorboard = 1; expected true or false");
  expect("[training]\ndtype = \"bf61\"\n",
         "run.toml:2: training.dtype = 'bf61'; expected one of auto, bf16, fp32; did you mean 'bf16'?");
  expect("[training]\nfreeze = \"lm_head.*\"\n",
         "run.toml:2: training.freeze = 'lm_head.*'; expected an array of texts in quotes");
  expect("[training]\nfreeze = [3]\n", "run.toml:2: training.freeze = [ 3 ]; expected an array of texts in quotes");
  expect("[job]\ndescription = 3\n", "run.toml:2: job.description = 3; expected a text in quotes");
  expect("[[data.sources]]\npath = \"a\"\nwieght = 2\n",
         "run.toml:3: data.sources: unknown key 'wieght'; did you mean 'weight'? (docs/config.md lists all keys)");
  expect("[[data.sources]]\npath = \"a\"\nweight = 0\n",
         "run.toml:3: data.sources: weight = 0; expected a number greater than 0");
  expect("[[data.sources]]\npath = \"a\"\nformat = \"chats\"\n",
         "run.toml:3: data.sources: format = 'chats'; expected one of text, chat, plain; did you mean 'chat'?");
  expect("[data]\nsources = [\"a.txt\"]\n",
         "run.toml:2: data.sources holds 'a.txt'; expected tables, each with a path");
  expect("[data]\nsources = \"a.txt\"\n", "run.toml:2: data.sources = 'a.txt'; expected an array of tables");
}

TEST(RunConfigToml, MistakesInTheShapeHaveTheirLine) {
  const auto expect = [](std::string_view model, const std::string& message) {
    expect_usage_error([&] { parse(std::string(model) + "[data]\nsynthetic = true\n"); }, message);
  };
  expect("[model]\nname = \"tiny-v4\"\n",
         "run.toml:2: unknown model 'tiny-v4'; did you mean 'tiny-v3'? (models: tiny-v3, tiny-v2, v2-lite, v2, v3, "
         "moonlight, kimi-k2, gigachat3-10b; or "
         "give the path of a config.json as model.config)");
  expect("[model]\nname = \"tiny-v3\"\n[model.shape]\nvocab_size = 300\nhiden_size = 3\n",
         "run.toml:5: model.shape: unknown field 'hiden_size' of a model; did you mean 'hidden_size'?");
  expect("[model]\nname = \"tiny-v3\"\n[model.shape]\nvocab_size = 300\nhidden_size = \"3\"\n",
         "run.toml:5: model.shape: hidden_size = \"3\"; expected a whole number");
  expect("[model]\nname = \"tiny-v3\"\n[model.shape]\nvocab_size = 0\nhidden_size = 64\n",
         "run.toml:4: model.shape: vocab_size = 0; expected a whole number from 1 to 2147483647");
  expect("[training]\nseq_len = 4096\n[model]\nname = \"tiny-v3\"\n",
         "run.toml: training.seq_len = 4096 is more than the model's max_position_embeddings = 2048; shorten it, or "
         "raise model.shape.max_position_embeddings");
  expect_usage_error(
      [] {
        parse(kRun, {"--model.shape.num_experts_per_tok", "99"});
      },
      "command line: model.shape: num_experts_per_tok = 99 is more than n_routed_experts = 16; choose at "
      "most as many as there are");
}

TEST(RunConfigToml, TextThatIsNotTomlNamesTheLine) {
  try {
    parse("[training]\nsteps = \n");
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("run.toml:2: not valid TOML: ")) << error.what();
    EXPECT_TRUE(error.kind() == ErrorKind::kUsage);
  }
}

// toml++ 3.3 runs past a table of characters, or into an assertion, on some of these.
TEST(RunConfigToml, WhatCannotBeTomlIsRefusedBeforeItIsParsed) {
  const auto expect = [](std::string_view text, const std::string& message) {
    expect_usage_error([&] { parse(text); }, "run.toml:" + message);
  };
  const std::string outside = "stands outside of quotation marks and comments, where TOML has ASCII alone";
  expect("[training]\n\xef\xbb\xbb = 1\n", "2: not valid TOML: '\xef\xbb\xbb' (U+FEFB) " + outside);
  expect("[training]\nsteps = \xc3\xa9\n", "2: not valid TOML: '\xc3\xa9' (U+00E9) " + outside);
  expect("[training]\nsteps\xc2\xa0= 5\n", "2: not valid TOML: '\xc2\xa0' (U+00A0) " + outside);
  expect("[training]\n\n\xff", "3: not valid TOML: the byte 0xff is no UTF-8; save the file as UTF-8");
  expect("# \xff", "1: not valid TOML: the byte 0xff is no UTF-8; save the file as UTF-8");
  expect("a = \"\xc3\"", "1: not valid TOML: the byte 0xc3 is no UTF-8; save the file as UTF-8");
  expect(std::string_view("a = \"\0\"", 7),
         "1: not valid TOML: a control character (U+0000), which TOML does not have; in a text write \\u0000");
  expect("# a\rb",
         "1: not valid TOML: a control character (U+000D), which TOML does not have; in a text write \\u000d");
  expect("[job]\ndescription = \"a\nb\"\n", "2: not valid TOML: a text begins with \" and does not end");
  expect("[job]\ndescription = \"a\\\"\n", "2: not valid TOML: a text begins with \" and does not end");
  expect("[job]\ndescription = '", "2: not valid TOML: a text begins with ' and does not end");
  expect("[job]\ndescription = \"\"\"\na\n\"\"\n", "2: not valid TOML: a text begins with \"\"\" and does not end");
  std::string deep = "a", quoted = "\"a\"";
  for (int i = 0; i < 100'000; ++i) {
    deep += ".a";
    quoted += " . \"a\"";
  }
  expect(deep + " = 1\n", "1: not valid TOML: a key has more than 16 dots");
  expect("\n[" + deep + "]\n", "2: not valid TOML: a key has more than 16 dots");
  expect("a = {" + quoted + " = 1}\n", "1: not valid TOML: a key has more than 16 dots");
  expect_usage_error(
      [&] {
        parse(kRun, {"--model.shape.x", "{" + deep + " = 1}"});
      },
      "command line: model.shape: unknown field 'x' of a model");
  expect_usage_error(
      [] {
        parse(kRun, {"--job.description", "\xff"});
      },
      "command line: --job.description = \\xff: expected UTF-8; the run could not be resumed");
  expect_usage_error(
      [] {
        parse(kRun, {"--training.steps", "\xef\xbb\xbb"});
      },
      "command line: training.steps = '\xef\xbb\xbb'; expected a whole number of at least 1");
}

TEST(RunConfigToml, TextsAndCommentsHoldAnyCharacter) {
  const std::string rest = "[model]\nname = \"tiny-v3\"\n[data]\nsynthetic = true\n[job]\n";
  const auto description = [&](const std::string& value) {
    return parse(rest + "description = " + value).job.description;
  };
  EXPECT_EQ(description("\"\xef\xbb\xbb \xc3\xa9 # \\\" ' \" # \xef\xbb\xbb \"\r\n"), "\xef\xbb\xbb \xc3\xa9 # \" ' ");
  EXPECT_EQ(description("'\xc3\xa9\\'"), "\xc3\xa9\\");
  EXPECT_EQ(description("\"\"\"\na \"\" b\\\n  c\"\"\"\"\""), "a \"\" bc\"\"");
  EXPECT_EQ(description("'''it's \"\xc3\xa9\"\nb'''"), "it's \"\xc3\xa9\"\nb");
  EXPECT_EQ(parse("\xef\xbb\xbf" + rest).model.name, "tiny-v3");
  std::string numbers = "0.5";
  for (int i = 0; i < 100; ++i) numbers += ", 0.5";
  EXPECT_TRUE(message_of([&] {
                parse(rest + "description = [" + numbers + "]");
              }).starts_with("run.toml:6: job.description = ["));
}

TEST(RunConfigToml, VariablesOfTheChatTemplateNeedAConversation) {
  EXPECT_EQ(parse(kRun).model.template_variables, R"({"thinking" : true,"two words" : {"a.b" : [1,"two"]}})");
  EXPECT_EQ(parse(kRun, {"--model.template_variables.thinking", "low"}).model.template_variables.find("true"),
            std::string::npos);
  expect_usage_error(
      [] { parse("[model]\nname = \"tiny-v3\"\ntemplate_variables = {thinking = true}\n[data]\nsynthetic = true\n"); },
      "run.toml: model.template_variables is set, but no source has format = \"chat\": nothing is rendered with them");
}

TEST(RunConfigToml, MistakesOnTheCommandLineSaySo) {
  const auto expect = [](std::vector<std::string> arguments, const std::string& message) {
    expect_usage_error([&] { parse(kRun, arguments); }, message);
  };
  expect({"--training.stepz", "1"},
         "command line: unknown key 'training.stepz'; did you mean 'training.steps'? (docs/config.md lists all keys)");
  expect({"--training.steps", "many"}, "command line: training.steps = 'many'; expected a whole number of at least 1");
  expect({"--training.steps", "0"}, "command line: training.steps = 0; expected a whole number of at least 1");
  for (const char* key : {"--training.local_batch_size", "--training.global_batch_size"}) {
    EXPECT_THROW(parse(kRun, {key, "1048577"}), Error) << key;
  }
  expect({"--training.threads", "4097"},
         "command line: training.threads = 4097; expected a whole number from 0 to 4096");
  EXPECT_EQ(parse(kRun, {"--optimizer.eps", "9223372036854775807"}).optimizer.eps, 0x1p63);
  expect({"--training.dtype", "fp16"}, "command line: training.dtype = 'fp16'; expected one of auto, bf16, fp32");
  expect({"--training.steps"}, "--training.steps needs a value: --training.steps VALUE");
  expect({"steps"}, "unexpected argument 'steps'; a key of the run file is set as --section.key value");
  expect({"--steps", "3"}, "unexpected argument '--steps'; a key of the run file is set as --section.key value");
}

TEST(RunConfigToml, MissingFileIsNamed) {
  expect_usage_error([] { load_run_config("/nowhere/run.toml"); },
                     "cannot read /nowhere/run.toml: expected a run file in TOML, such as configs/tiny_v3.toml");
  const TemporaryFolder folder;
  const std::string path = folder.path().string();
  const auto refused = [](const std::string& file, const std::string& why) {
    expect_usage_error([&] { load_run_config(file, {}); },
                       "cannot read " + file + ": expected a run file in TOML, such as configs/tiny_v3.toml; " + why);
  };
  refused(path, "it is a directory");
  folder.write("config.toml", "");
  refused(path, "it is a directory, of a run whose file is " + path + "/config.toml");
  refused("/dev/null", "it is no regular file");
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  refused(path + "/loop", "Too many levels of symbolic links");
}

TEST(ConfigReference, PageInDocsIsWhatTheTableSays) {
  const std::string path = std::string(DT_TEST_DATA_DIR) + "/../docs/config.md";
  if (std::getenv("DT_UPDATE_DOCS") != nullptr) std::ofstream(path) << config_reference_markdown();
  std::ifstream stream(path);
  const std::string page((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  EXPECT_EQ(page, config_reference_markdown()) << "write it anew with DT_UPDATE_DOCS=1 config_test";
}

}  // namespace
}  // namespace deeptitan
