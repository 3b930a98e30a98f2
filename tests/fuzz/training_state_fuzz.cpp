// The small files of a checkpoint, of any bytes: state.json and the position in the data.
#include <cstdint>
#include <string_view>

#include "checkpoint/training_state.h"
#include "core/error.h"
#include "data/batch_source.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    TrainingStateMetadata::parse(text, "input").dump();
  } catch (const Error&) {
  }
  try {
    DataPosition::from_json(text, "input").to_json();
  } catch (const Error&) {
  }
  return 0;
}
