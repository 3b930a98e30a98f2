#include "train/run_data.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "comm/rank_texts.h"
#include "core/file.h"
#include "data/packed_sampler.h"
#include "data/synthetic_source.h"
#include "data/tokenizer_encoder.h"
#include "train/run_tokenizer.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

void open_data(const RunConfig& config, RunData& data, ModelConfig& model, ModelExport& exported) {
  if (config.data.synthetic) {
    data.source = std::make_unique<SyntheticSource>(model.vocab_size, config.training.seq_len, config.training.seed);
    return;
  }
  data.tokenizer = load_tokenizer(config);
  data.encoder =
      make_text_encoder(*data.tokenizer, load_chat_template(config, *data.tokenizer), config.model.template_variables);
  // A checkpoint with its own tokenizer may stop at more tokens than that names.
  std::vector<int64_t>& ends = model.eos_token_ids;
  const bool own_tokenizer = !config.model.initial_checkpoint.empty() && config.model.tokenizer.empty();
  if (!own_tokenizer) ends.clear();
  if (std::find(ends.begin(), ends.end(), data.encoder->eos_token_id) == ends.end()) {
    ends.insert(ends.begin(), data.encoder->eos_token_id);
  }
  exported.tokenizer = &*data.tokenizer;
  const fs::path generation = fs::path(config.model.initial_checkpoint) / "generation_config.json";
  if (own_tokenizer && fs::exists(generation)) exported.generation_config = read_file(generation);
  model.bos_token_id = data.tokenizer->bos_token_id().value_or(-1);
  model.pad_token_id = data.tokenizer->pad_token_id().value_or(-1);
  data.datasets = open_datasets(config, *data.encoder, model.vocab_size);
  data.source =
      std::make_unique<PackedSampler>(data.datasets, config.training.seq_len, config.training.seed, *data.encoder,
                                      RunLength{config.training.steps, config.sequences_per_step()});
  for (const TokenDataset& dataset : data.datasets) {
    data.validation.emplace_back(dataset, config.training.seq_len, config.validation.max_tokens, *data.encoder);
  }
}

}  // namespace

// One rank tokenises what is not in the cache yet, the others wait.
void open_data_of_all(const RunConfig& config, const RunRanks& ranks, RunData& data, ModelConfig& model,
                      ModelExport& exported) {
  if (ranks.alone()) return open_data(config, data, model, exported);
  on_first_rank(ranks.host(), [&] {
    open_data(config, data, model, exported);
    return std::string();
  });
  if (!ranks.first()) open_data(config, data, model, exported);
  std::string fingerprints;
  for (const TokenDataset& dataset : data.datasets) {
    fingerprints += fmt::format("{} {}\n", dataset.name(), dataset.fingerprint());
  }
  check_alike(*ranks.host(), {{"the data", fingerprints}});
  ranks.host()->set_deadline(config.parallelism.deadline_seconds);
}

}  // namespace deeptitan
