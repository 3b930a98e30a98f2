#include "sampling_options.h"

#include <limits>

#include <CLI/CLI.hpp>

#include "option_checks.h"

namespace deeptitan {

SamplingOptions SamplingArguments::over(SamplingOptions recommended) const {
  recommended.temperature = temperature.value_or(recommended.temperature);
  recommended.top_k = top_k.value_or(recommended.top_k);
  recommended.top_p = top_p.value_or(recommended.top_p);
  recommended.min_p = min_p.value_or(recommended.min_p);
  recommended.repetition_penalty = repetition_penalty.value_or(recommended.repetition_penalty);
  recommended.seed = seed;
  check_sampling_options(recommended);
  return recommended;
}

void add_sampling_options(CLI::App& command, SamplingArguments& arguments) {
  number_in(command.add_option("--temperature", arguments.temperature,
                               "Divides the logits; 0: always the likeliest token (generation_config.json's, else 1)"),
            0);
  whole_number(command.add_option("--top-k", arguments.top_k,
                                  "Only the k likeliest tokens; 0: all (generation_config.json's, else 0)"),
               "TOKENS", 0);
  number_in(command.add_option(
                "--top-p", arguments.top_p,
                "Only the likeliest tokens until their probabilities sum to this (generation_config.json's, else 1)"),
            0, 1, LowerBound::kAbove);
  number_in(command.add_option(
                "--min-p", arguments.min_p,
                "Only tokens of at least this share of the likeliest's probability (generation_config.json's, else 0)"),
            0, 1);
  number_in(
      command.add_option("--repetition-penalty", arguments.repetition_penalty,
                         "Makes tokens that have appeared less likely; 1: none (generation_config.json's, else 1)"),
      0, std::numeric_limits<double>::infinity(), LowerBound::kAbove);
  whole_number(command.add_option("--seed", arguments.seed, "Of the random choices: the same seed gives the same text")
                   ->capture_default_str(),
               "NUMBER", 0);
}

}  // namespace deeptitan
