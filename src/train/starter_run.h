#pragma once

#include <cstdint>
#include <string>

#include "config/model_config.h"

namespace deeptitan {

/// What a first run file is for.
enum class StarterKind {
  kPretrain,  // a new small model on texts
  kFinetune,  // a model that exists, on more texts
  kChat,      // a model that exists, on conversations
};

/// What a run file is to fit: the data, the model and the machine.
struct StarterFacts {
  StarterKind kind = StarterKind::kPretrain;
  std::string data;           // path of the source
  int64_t data_tokens = 0;    // in it, roughly
  std::string folder;         // of the run
  std::string model;          // directory of the model that is gone on with; empty for a new one
  std::string shape_name;     // of a new model
  ModelConfig shape;          // of either
  std::string tokenizer;      // directory; empty: the model's own
  int32_t vocab_size = 0;     // of the tokenizer, for a new model
  std::string chat_template;  // file; empty: the model's own
  int64_t memory = 0;         // bytes that a run may take
  std::string device;         // that the file names; empty: the CPU, and none is named
  std::string machine;        // what it is made for: "2 cores", a GPU's name
};

/// A commented run file: the largest microbatch that fits, as many steps as a few passes over the data take, and a rate
/// that suits the model's size. Throws a usage error that says what would be needed where even the smallest microbatch
/// does not fit, and where the data is too little for one sequence.
std::string starter_run_file(const StarterFacts& facts);

}  // namespace deeptitan
