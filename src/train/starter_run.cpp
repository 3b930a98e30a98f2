#include "train/starter_run.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "config/run_config_toml.h"
#include "core/error.h"
#include "core/file.h"
#include "model/model_cost.h"
#include "ops/linear.h"
#include "train/memory_advice.h"

namespace deeptitan {
namespace {

// What differs from one kind to the next.
struct Recipe {
  double passes;       // over the data, where it is little
  int64_t seq_len;     // at most
  int64_t batch;       // sequences of a step
  int64_t most_steps;  // where it is much
  double weight_decay;
};

Recipe recipe_of(StarterKind kind) {
  switch (kind) {
    case StarterKind::kPretrain:
      return {4, 256, 8, 2000, 0.1};
    case StarterKind::kFinetune:
      return {2, 512, 8, 1000, 0.0};
    case StarterKind::kChat:
      return {3, 512, 8, 1000, 0.0};
  }
  return {};
}

// A new model's rate falls with its width (hidden states of 256 learn well at 4.5e-3, those of 7,168 at 2.2e-4); one
// that is gone on with takes less the more it knows.
double learning_rate(const StarterFacts& facts) {
  if (facts.kind == StarterKind::kPretrain)
    return 4.5e-3 * std::pow(256.0 / static_cast<double>(facts.shape.hidden_size), 0.9);
  const auto parameters = static_cast<double>(count_parameters(facts.shape).parameters);
  struct Step {
    double below;
    double rate;
  };
  constexpr std::array kSteps = {Step{1e8, 5e-4}, Step{1e9, 1e-4}, Step{5e9, 5e-5}, Step{5e10, 2e-5}};
  for (const Step& step : kSteps) {
    if (parameters < step.below) return step.rate;
  }
  return 1e-5;
}

struct Sizes {
  int64_t seq_len = 0;
  int64_t local_batch = 0;
  int64_t global_batch = 0;
  int64_t steps = 0;
  bool recompute = false;
  int64_t bytes = 0;  // planned
};

std::string text(const StarterFacts& facts, const Recipe& recipe, const Sizes& sizes) {
  const bool chat = facts.kind == StarterKind::kChat, fresh = facts.kind == StarterKind::kPretrain;
  const double share = facts.data_tokens < 200000 ? 0.1 : 0.02;
  const auto tokens_per_step = static_cast<double>(sizes.seq_len * sizes.global_batch);
  std::string out = fmt::format(
      "# {}. Made for {} and {} of memory; every key is in docs/config.md.\n"
      "#   deeptitan plan FILE     says what it takes: {} here\n"
      "#   deeptitan train FILE    trains it; Ctrl-C saves, --resume auto goes on\n\n"
      "[job]\ndump_folder = \"{}\"\n\n[model]\n",
      fresh  ? "A new model on texts"
      : chat ? "A model learns conversations"
             : "A model goes on learning from texts",
      facts.machine, format_bytes(static_cast<uint64_t>(facts.memory)),
      format_bytes(static_cast<uint64_t>(sizes.bytes)), facts.folder);
  if (fresh) {
    out += fmt::format(
        "name = \"{}\"\ntokenizer = \"{}\"\n\n[model.shape]\n# The tokenizer's, rounded up: products in bf16 want an "
        "even number.\nvocab_size = {}\n"
        "# Wider than the 0.02 of large models: hidden states are small, and the run is short.\n"
        "initializer_range = 0.04\n",
        facts.shape_name, facts.tokenizer, facts.vocab_size);
  } else {
    out += fmt::format("initial_checkpoint = \"{}\"\n", facts.model);
    if (!facts.tokenizer.empty()) out += fmt::format("tokenizer = \"{}\"\n", facts.tokenizer);
    if (!facts.chat_template.empty()) out += fmt::format("chat_template = \"{}\"\n", facts.chat_template);
  }
  out += fmt::format(
      "\n[optimizer]\n# For a model of {:.3g} million parameters. Halve it where the loss jumps, double it where it "
      "hardly "
      "moves.\nlr = {:.2g}\nweight_decay = {}\n\n[lr_scheduler]\nwarmup_steps = {}\ndecay_type = \"{}\"\n",
      static_cast<double>(count_parameters(facts.shape).parameters) / 1e6, learning_rate(facts),
      recipe.weight_decay == 0 ? "0.0" : fmt::format("{}", recipe.weight_decay), std::max<int64_t>(1, sizes.steps / 15),
      fresh ? "linear" : "cosine");
  out += fmt::format(
      "\n[training]\nseed = 1\n# {:.1f} passes over about {} tokens, {:.0f} a step.\nsteps = {}\nseq_len = {}\n"
      "# Sequences in memory at once, and of a step.\nlocal_batch_size = {}\nglobal_batch_size = {}\n",
      static_cast<double>(sizes.steps) * tokens_per_step / static_cast<double>(std::max<int64_t>(1, facts.data_tokens)),
      facts.data_tokens, tokens_per_step, sizes.steps, sizes.seq_len, sizes.local_batch, sizes.global_batch);
  if (!facts.device.empty()) {
    out +=
        fmt::format("# \"cpu\" trains without the GPU, \"auto\" where one is found.\ndevice = \"{}\"\n", facts.device);
  }
  if (fresh) {
    out +=
        "# A short run: the router's bias has to find its balance in hundreds of steps.\n"
        "router_bias_update_speed = 0.01\n";
  } else if (facts.shape.num_moe_layers() > 0) {
    out += "# The experts that a token goes to stay as they were learnt.\nfreeze = [\"model.layers.*.mlp.gate.*\"]\n";
  }
  if (sizes.recompute)
    out += "\n[activation_checkpoint]\n# A quarter more time for much less memory.\nmode = \"layer\"\n";
  out += fmt::format("\n[checkpoint]\ninterval = {}\n\n[[data.sources]]\npath = \"{}\"\n",
                     std::max<int64_t>(1, sizes.steps / 2), facts.data);
  if (chat) out += "format = \"chat\"\n";
  out += fmt::format(
      "\n[validation]\n# The last part of the data is held out: what the model learns shows in the loss on that.\n"
      "fraction = {}\nfreq = {}\n",
      share, std::max<int64_t>(1, sizes.steps / 10));
  return out;
}

}  // namespace

std::string starter_run_file(const StarterFacts& facts) {
  const Recipe recipe = recipe_of(facts.kind);
  Sizes sizes;
  sizes.seq_len = std::min<int64_t>(recipe.seq_len, facts.shape.max_position_embeddings);
  // A quarter of the data in one sequence would leave nothing to hold out.
  while (sizes.seq_len > 16 && sizes.seq_len * 20 > facts.data_tokens) sizes.seq_len /= 2;
  DT_CHECK_USAGE(facts.data_tokens >= 8 * sizes.seq_len,
                 "{} holds about {} tokens, too few to learn from and to hold a part out; give more text", facts.data,
                 facts.data_tokens);
  sizes.global_batch = recipe.batch;
  const auto per_step = static_cast<double>(sizes.seq_len * sizes.global_batch);
  sizes.steps = std::clamp<int64_t>(std::llround(recipe.passes * static_cast<double>(facts.data_tokens) / per_step), 30,
                                    recipe.most_steps);
  int64_t least = 0;
  for (const bool recompute : {false, true}) {
    for (int64_t batch = sizes.global_batch; batch >= 1; batch /= 2) {
      sizes.local_batch = batch;
      sizes.recompute = recompute;
      const RunConfig config = parse_run_config(text(facts, recipe, sizes), "the new run file");
      ModelConfig shape = facts.shape;
      if (facts.vocab_size > 0 && facts.kind == StarterKind::kPretrain) shape.vocab_size = facts.vocab_size;
      sizes.bytes = TrainingEngine(shape, engine_options(config, bfloat16_is_native())).plan().total();
      if (sizes.bytes <= facts.memory) return text(facts, recipe, sizes);
      least = least == 0 ? sizes.bytes : std::min(least, sizes.bytes);
    }
  }
  fail_usage(
      "training this model takes at least {} of memory, and {} are available; take a smaller model or a larger machine",
      format_bytes(static_cast<uint64_t>(least)), format_bytes(static_cast<uint64_t>(facts.memory)));
}

}  // namespace deeptitan
