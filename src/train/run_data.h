#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "config/model_config.h"
#include "config/run_config.h"
#include "data/batch_source.h"
#include "data/token_dataset.h"
#include "data/validation_batches.h"
#include "tokenizer/tokenizer.h"
#include "train/run_ranks.h"
#include "train/training_checkpoint.h"

namespace deeptitan {

/// What a run learns from and is measured on. Its members refer to each other: it stays where it is.
struct RunData {
  RunData() = default;
  RunData(const RunData&) = delete;
  RunData& operator=(const RunData&) = delete;

  std::optional<Tokenizer> tokenizer;  // none of synthetic data
  std::optional<TextEncoder> encoder;
  std::vector<TokenDataset> datasets;
  std::vector<ValidationBatches> validation;  // of each dataset
  std::unique_ptr<BatchSource> source;
};

/// Opens what `config` names; one rank tokenises what is not in the cache yet, the others wait, and all compare what
/// they read. What a tokenizer says of a model (its ends, for one) goes to `model` and `exported`, which refers to
/// `data`.
void open_data_of_all(const RunConfig& config, const RunRanks& ranks, RunData& data, ModelConfig& model,
                      ModelExport& exported);

}  // namespace deeptitan
