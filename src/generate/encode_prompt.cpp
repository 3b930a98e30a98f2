#include "generate/encode_prompt.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = false});
  const std::vector<int32_t>& prefix = tokenizer.prefix_ids();
  const bool spelt_out = ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
  if (!spelt_out) ids.insert(ids.begin(), prefix.begin(), prefix.end());
  if (ids.empty()) {
    const auto start = tokenizer.bos_token_id() ? tokenizer.bos_token_id() : tokenizer.eos_token_id();
    DT_CHECK_USAGE(start,
                   "the prompt is empty, and the tokenizer names neither a bos_token nor an eos_token to start from");
    ids.push_back(*start);
  }
  return ids;
}

}  // namespace deeptitan
