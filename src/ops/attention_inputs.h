#pragma once

#include "kernels/cpu/attention/attention.h"
#include "ops/attention.h"

namespace deeptitan {

/// What the kernels of both devices take for documents in training.
template <typename T>
cpu::AttentionInputs<T> attention_inputs(const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                                         const Documents& documents, const AttentionShape& shape) {
  return {.query = query.raw<T>(),
          .key_value = key_value.raw<T>(),
          .key_rope = key_rope.raw<T>(),
          .ld_key_rope = key_rope.stride(),
          .document_offset = documents.offset.raw<int32_t>(),
          .documents = documents.offset.size(0) - 1,
          .longest = documents.longest,
          .heads = shape.heads,
          .nope_dim = shape.nope_dim,
          .rope_dim = shape.rope_dim,
          .value_dim = shape.value_dim,
          .scale = static_cast<float>(shape.scale)};
}

}  // namespace deeptitan
