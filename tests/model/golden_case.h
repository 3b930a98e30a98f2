#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "config/model_config.h"
#include "core/device.h"
#include "core/dtype.h"
#include "model/sublayer.h"

// A case of tests/golden/model and what deeptitan computes with it. make.py there describes expected.safetensors.

namespace deeptitan::testing {

class GoldenCase {
 public:
  explicit GoldenCase(const std::string& name);

  /// The folders of tests/golden/model, sorted.
  static std::vector<std::string> names();

  const std::string& name() const { return name_; }
  const std::filesystem::path& folder() const { return folder_; }
  const ModelConfig& config() const { return config_; }
  const SafetensorsFile& expected() const { return expected_; }
  std::vector<float> floats(std::string_view tensor) const;
  std::vector<int32_t> integers(std::string_view tensor) const;
  std::vector<int32_t> tokens() const { return integers("tokens"); }
  float next_token_prediction_weight() const { return floats("weights")[0]; }
  float balance_weight() const { return floats("weights")[1]; }
  /// Of torch, transformers: what the fixture was made with.
  const std::string& version_of(const std::string& package) const { return expected_.metadata().at(package); }

 private:
  std::string name_;
  std::filesystem::path folder_;
  ModelConfig config_;
  SafetensorsFile expected_;
};

/// Logits [length, vocab] of a model that is run: load_weights, then a forward that saves nothing. `replay`: the
/// experts are those of the reference (length must then be that of all tokens).
std::vector<float> inference_logits(const GoldenCase& golden, DType compute, std::span<const int32_t> tokens,
                                    bool replay, Device device = {});

struct TrainingOutcome {
  double loss = 0;
  double mtp_loss = 0;
  std::map<std::string, std::vector<float>> gradients;   // by the names of the parameters
  std::map<int64_t, std::vector<int32_t>> expert_index;  // by layer: the chosen experts, [tokens, K]
};

/// One step over all tokens of the case, through a TrainingEngine: load_weights, then forward and backward.
TrainingOutcome train_once(const GoldenCase& golden, DType compute, bool replay, Device device = {},
                           Recomputation recomputation = Recomputation::kNothing);

}  // namespace deeptitan::testing
