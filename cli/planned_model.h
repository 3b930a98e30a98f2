#pragma once

#include <string>

#include "config/run_config.h"

namespace deeptitan {

/// The model of a run file, for commands that need its shape alone.
struct PlannedModel {
  ModelConfig config;
  std::string
      note;  // what is not on the disk and how to fetch it, or how its weights are widened; empty: nothing to say
};

/// Where weights of a shape by name come from; empty where none are known.
std::string weights_note(const std::string& shape);

/// Whether `target` is a word that is neither a path nor a model that `download` knows by this name alone: the name of
/// a shape, or a slip of one, for which named_model_config lists them.
bool is_shape_word(const std::string& target);

/// As resolve_model_config; where model.initial_checkpoint is not on the disk but is named as a model that `download`
/// knows, the shape is that model's.
PlannedModel planned_model(RunConfig config);

}  // namespace deeptitan
