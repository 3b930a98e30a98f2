#include "config/run_config.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "config/config_keys.h"
#include "config/model_config_json.h"
#include "core/device_choice.h"
#include "core/error.h"

namespace deeptitan {

std::string TextSource::display_name() const {
  if (!name.empty()) return name;
  std::filesystem::path whole = std::filesystem::path(path).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // "texts/" names texts
  return whole.stem().string();
}

bool RunConfig::Data::has_chats() const {
  return std::any_of(sources.begin(), sources.end(),
                     [](const TextSource& source) { return source.format == SourceFormat::kChat; });
}

namespace {

/// Seventy times what DeepSeek-V3 was trained on; counts of tokens and sequences stay far within 64 bits.
constexpr double kMostTokens = 1e15;

/// A key of the other format would be ignored: say so.
void check_format_keys(const TextSource& source, std::string_view where) {
  const TextSource defaults;
  const bool chat = source.format == SourceFormat::kChat;
  const char* format = chat ? "chat" : source.format == SourceFormat::kPlain ? "plain" : "text";
  const char* stray = nullptr;
  if (chat && source.text_field != defaults.text_field) stray = "text_field";
  if (source.format == SourceFormat::kPlain && source.text_field != defaults.text_field) stray = "text_field";
  if (chat && source.document_separator != defaults.document_separator) stray = "document_separator";
  if (!chat && source.messages_field != defaults.messages_field) stray = "messages_field";
  DT_CHECK_USAGE(stray == nullptr, "{}: source '{}' has format = \"{}\", which has no {}; remove it or change format",
                 where, source.display_name(), format, stray);
}

}  // namespace

void validate(const RunConfig& c, std::string_view where) {
  const auto& t = c.training;
  DT_CHECK_USAGE(!c.job.dump_folder.empty(), "{}: job.dump_folder is empty; name the folder of the run", where);
  DT_CHECK_USAGE(is_device_word(t.device), "{}: training.device = '{}'; expected {}", where, t.device, kDeviceWords);
  const int shapes_named = !c.model.name.empty() + !c.model.config.empty();
  DT_CHECK_USAGE(shapes_named < 2, "{}: model.name = '{}' and model.config = '{}' both name a shape; leave one of them",
                 where, c.model.name, c.model.config);
  DT_CHECK_USAGE(shapes_named == 1 || !c.model.initial_checkpoint.empty(),
                 "{}: no model; set model.name (one of {}), model.config or model.initial_checkpoint", where,
                 fmt::join(model_config_names(), ", "));
  DT_CHECK_USAGE(
      t.global_batch_size % t.local_batch_size == 0,
      "{}: training.global_batch_size = {} is not a multiple of training.local_batch_size = {}; use {} or {}", where,
      t.global_batch_size, t.local_batch_size,
      std::max<int64_t>(1, t.global_batch_size / t.local_batch_size) * t.local_batch_size,
      (t.global_batch_size / t.local_batch_size + 1) * t.local_batch_size);
  const double tokens = static_cast<double>(t.steps) * static_cast<double>(t.seq_len) *
                        static_cast<double>(std::max(t.local_batch_size, t.global_batch_size));
  DT_CHECK_USAGE(tokens <= kMostTokens,
                 "{}: training.steps = {} of {} tokens each are more than the {} tokens that a run may have; lower "
                 "training.steps",
                 where, t.steps, tokens / static_cast<double>(t.steps), kMostTokens);
  DT_CHECK_USAGE(c.parallelism.data_parallel_shard_degree != 0,
                 "{}: parallelism.data_parallel_shard_degree = 0; use the number of ranks, or -1 for what the other "
                 "degrees leave",
                 where);
  DT_CHECK_USAGE(!c.data.synthetic || c.data.sources.empty(),
                 "{}: data.synthetic = true leaves no room for data.sources; remove one of them", where);
  DT_CHECK_USAGE(c.data.synthetic || !c.data.sources.empty(),
                 "{}: nothing to train on; add a [[data.sources]] table with a path, or set data.synthetic = true",
                 where);
  DT_CHECK_USAGE(c.data.synthetic || !c.model.tokenizer.empty() || !c.model.initial_checkpoint.empty(),
                 "{}: text needs a tokenizer; set model.tokenizer to a directory that holds a tokenizer.json", where);
  DT_CHECK_USAGE(
      c.model.template_variables == "{}" || c.data.has_chats(),
      "{}: model.template_variables is set, but no source has format = \"chat\": nothing is rendered with them", where);
  std::set<std::string> names;
  for (const TextSource& source : c.data.sources) {
    DT_CHECK_USAGE(!source.path.empty(), "{}: a table of data.sources has no path; name its text", where);
    DT_CHECK_USAGE(names.insert(source.display_name()).second,
                   "{}: two of data.sources are called '{}'; give each a name of its own", where,
                   source.display_name());
    check_format_keys(source, where);
  }
}

ModelConfig resolve_model_config(const RunConfig& config) {
  const auto& m = config.model;
  const ModelConfig shape = !m.name.empty()     ? named_model_config(m.name)
                            : !m.config.empty() ? load_model_config(m.config)
                                                : load_model_config(m.initial_checkpoint);
  ModelConfig result = with_overrides(shape, m.shape, "model.shape");
  DT_CHECK_USAGE(config.training.seq_len <= result.max_position_embeddings,
                 "training.seq_len = {} is more than the model's max_position_embeddings = {}; shorten it, or raise "
                 "model.shape.max_position_embeddings",
                 config.training.seq_len, result.max_position_embeddings);
  return result;
}

std::vector<ConfigDifference> differences(const RunConfig& before, const RunConfig& after) {
  RunConfig old_config = before, new_config = after;
  std::vector<ConfigDifference> result;
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    std::string old_value = value_as_toml(key.member(old_config));
    std::string new_value = value_as_toml(key.member(new_config));
    if (old_value == new_value) continue;
    result.push_back({std::string(key.name), std::move(old_value), std::move(new_value), key.allowed_on_resume});
  }
  return result;
}

std::vector<ConfigDifference> check_resumable(const RunConfig& saved, const RunConfig& current) {
  std::vector<ConfigDifference> allowed;
  std::string refused;
  // Another microbatch on other ranks is welcome; another step is another run.
  const bool same_step = saved.sequences_per_step() == current.sequences_per_step();
  for (ConfigDifference& difference : differences(saved, current)) {
    const bool batch = difference.key == "training.local_batch_size" || difference.key == "training.global_batch_size";
    if (batch ? same_step : difference.allowed_on_resume) {
      allowed.push_back(std::move(difference));
    } else {
      refused += fmt::format("{}{} is {} in the checkpoint and {} now", refused.empty() ? "" : "; ", difference.key,
                             difference.before, difference.after);
    }
  }
  DT_CHECK_USAGE(
      refused.empty(),
      "cannot resume: {}. Only the keys that docs/config.md marks with * may change; use the saved values, or "
      "start a new run in another job.dump_folder",
      refused);
  return allowed;
}

}  // namespace deeptitan
