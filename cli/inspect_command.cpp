#include "inspect_command.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "config/model_config_json.h"
#include "config/run_config_toml.h"
#include "core/file.h"
#include "hub/cached_model.h"
#include "model/deepseek/deepseek_model.h"
#include "model/model_cost.h"
#include "option_checks.h"
#include "planned_model.h"
#include "run_file.h"
#include "train/memory_advice.h"

namespace deeptitan {
namespace {

struct InspectArguments {
  std::string target;
  int64_t context = 4096;
};

// A model directory or config.json, a run file, a model in the hub's cache, or a name such as v2-lite.
PlannedModel model_of(const std::string& target) {
  if (target.ends_with(".toml")) return planned_model(load_run_file(target, {}, MissingModel::kLeft));
  if (is_shape_word(target)) return {named_model_config(target), weights_note(target)};
  return {load_model_config(model_directory_of(target)), ""};
}

std::string millions(double count) {
  return count >= 1e9 ? fmt::format("{:.2f} B", count / 1e9) : fmt::format("{:.2f} M", count / 1e6);
}

void print_shapes(const ModelConfig& config) {
  const DeepseekModel model(config, {.max_positions = 1});
  fmt::print("\n{:<58} {:>20} {:>12}\n", "parameter", "shape", "elements");
  for (const Parameter& p : model.parameters().all()) {
    for (const ParameterPiece& piece : p.spec.pieces) {
      std::vector<int64_t> extents = p.spec.shape;
      int64_t& rows = extents[p.stacked() ? 1 : 0];
      const int64_t elements = p.numel() / rows * piece.rows;
      rows = piece.rows;
      fmt::print("{:<58} {:>20} {:>12}\n", piece.name, fmt::format("{}", fmt::join(extents, " x ")), elements);
    }
  }
}

void run_inspect(const InspectArguments& a) {
  const auto [c, note] = model_of(a.target);
  if (!note.empty()) fmt::print("{}\n", note);
  const ModelSize size = count_parameters(c);
  const int64_t context = std::min(a.context, c.max_position_embeddings);
  fmt::print("{}: {} layers ({} with experts), hidden {}, {} heads, vocabulary {}, context {}\n",
             name_of(c.architecture), c.num_hidden_layers, c.num_moe_layers(), c.hidden_size, c.num_attention_heads,
             c.vocab_size, c.max_position_embeddings);
  if (c.n_routed_experts > 0) {
    fmt::print("experts: {} routed, {} a token, {} shared, width {}; router {} {}\n", c.n_routed_experts,
               c.num_experts_per_tok, c.n_shared_experts, c.moe_intermediate_size, name_of(c.scoring_func),
               name_of(c.topk_method));
  }
  fmt::print("parameters: {} total, {} active a token", millions(static_cast<double>(size.parameters)),
             millions(static_cast<double>(size.active_parameters)));
  if (size.mtp_parameters > 0)
    fmt::print("; next-token prediction {} more", millions(static_cast<double>(size.mtp_parameters)));
  fmt::print("\nFLOPs a token (mean over a context of {}): forward {:.3g}, training {:.3g}, decode {:.3g}\n", context,
             forward_flops_per_token(c, context), training_flops_per_token(c, context),
             decode_flops_per_token(c, context / 2));
  const auto parameters = static_cast<uint64_t>(size.parameters);
  fmt::print("memory for decoding: weights {} in bf16, cache {} a token ({} for {} tokens)\n",
             format_bytes(2 * parameters), format_bytes(cache_bytes_per_token(c, DType::kBF16)),
             format_bytes(cache_bytes_per_token(c, DType::kBF16) * context), context);
  fmt::print(
      "memory for training: weights, gradients and AdamW's moments {} in fp32, plus what `plan` says of activations\n",
      format_bytes(16 * (parameters + static_cast<uint64_t>(size.mtp_parameters))));
  print_shapes(c);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Print a model's shapes, parameters, FLOPs a token and memory");
  auto arguments = std::make_shared<InspectArguments>();
  command
      ->add_option("MODEL", arguments->target,
                   fmt::format("Model directory, config.json, run file (.toml), OWNER/NAME in the cache, or a name: {}",
                               fmt::join(model_config_names(), ", ")))
      ->required();
  whole_number(
      command->add_option("--context", arguments->context, "Context that costs are given for")->capture_default_str(),
      "TOKENS", 1);
  command->callback([arguments] { run_inspect(*arguments); });
}

}  // namespace deeptitan
