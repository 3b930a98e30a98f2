#pragma once

#include <cstdint>
#include <optional>

#include "generate/sampler.h"

namespace CLI {
class App;
}

namespace deeptitan {

/// How tokens are chosen, as the command line gives it: what is not given, the model's generation_config.json says.
struct SamplingArguments {
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  uint64_t seed = 0;

  SamplingOptions over(SamplingOptions recommended) const;
};

/// Adds --temperature, --top-k, --top-p, --min-p, --repetition-penalty and --seed.
void add_sampling_options(CLI::App& command, SamplingArguments& arguments);

}  // namespace deeptitan
