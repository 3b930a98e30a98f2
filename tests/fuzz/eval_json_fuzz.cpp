// What eval is given, of any bytes: a line of --pairs and the ids of --token-ids.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "core/json_reader.h"
#include "eval_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  using Json = nlohmann::ordered_json;
  static const Tokenizer tokenizer = Tokenizer::from_json(
      R"({"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
          "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})",
      "", "");
  try {
    const Json json = read_json<Json>({reinterpret_cast<const char*>(data), size}, {.where = "input"});
    if (json.is_array()) {
      for (const int32_t id : parse_token_ids(json, "input")) {
        if (id < 0) std::abort();
      }
    } else {
      parse_pair(tokenizer, json, "input");
    }
  } catch (const Error&) {
  }
  return 0;
}
