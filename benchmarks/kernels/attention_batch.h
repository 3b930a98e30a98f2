#pragma once

// What attention's benchmarks run on: heads of 192 and 128, 16 of them, causal over documents packed behind one
// another.

#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "harness.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {

struct PackedDocuments {
  std::string name;
  std::vector<int32_t> lengths;
};

inline std::vector<PackedDocuments> packed_documents() {
  std::vector<PackedDocuments> all = {{"4 x 4096", {4096, 4096, 4096, 4096}},
                                      {"8192 + 4680 + 3000 + 512", {8192, 4680, 3000, 512}},
                                      {"16384", {16384}},
                                      {"512", {512}},
                                      {"281 documents of about 58", {}}};
  std::mt19937 random(58);
  for (int i = 0; i < 281; ++i) all.back().lengths.push_back(8 + static_cast<int32_t>(random() % 102));
  return all;
}

/// Random inputs in the device's memory.
class AttentionBatch {
 public:
  static constexpr int64_t kHeads = 16, kNope = 128, kRope = 64, kValue = 128, kKey = kNope + kRope;

  AttentionBatch(const PackedDocuments& documents, cudaStream_t stream) {
    std::vector<int32_t> offsets = {0};
    for (const int32_t length : documents.lengths) {
      offsets.push_back(offsets.back() + length);
      pairs_ += 0.5 * length * (length + 1.0);
    }
    tokens_ = offsets.back();
    query_.emplace(queries() * 2);
    key_value_.emplace(keys() * 2);
    key_rope_.emplace(tokens_ * kRope * 2);
    offset_.emplace(offsets.size() * 4);
    fill_normal_bf16(query_->as<void>(), queries(), 1, stream);
    fill_normal_bf16(key_value_->as<void>(), keys(), 2, stream);
    fill_normal_bf16(key_rope_->as<void>(), tokens_ * kRope, 3, stream);
    DT_CUDA_CHECK(cudaMemcpy(offset_->as<void>(), offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice));
    documents_ = static_cast<int64_t>(documents.lengths.size());
  }

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  /// Pairs of a query and a key that it sees, of one head.
  double pairs() const { return pairs_; }
  /// Elements of all queries, keys and values (without the rope keys, which heads share), and results.
  int64_t queries() const { return tokens_ * kHeads * kKey; }
  int64_t keys() const { return tokens_ * kHeads * (kNope + kValue); }
  int64_t values() const { return tokens_ * kHeads * kValue; }
  int64_t elements() const { return queries() + keys() + values() + tokens_ * kRope; }
  cpu::AttentionInputs<bfloat16> inputs() const {
    return {.query = query_->as<bfloat16>(),
            .key_value = key_value_->as<bfloat16>(),
            .key_rope = key_rope_->as<bfloat16>(),
            .ld_key_rope = kRope,
            .document_offset = offset_->as<int32_t>(),
            .documents = documents_,
            .longest = 0,
            .heads = kHeads,
            .nope_dim = kNope,
            .rope_dim = kRope,
            .value_dim = kValue,
            .scale = 1.0f / std::sqrt(static_cast<float>(kKey))};
  }

 private:
  int64_t tokens_ = 0;
  int64_t documents_ = 0;
  double pairs_ = 0;
  std::optional<DeviceMemory> query_, key_value_, key_rope_, offset_;
};

}  // namespace deeptitan::benchmark
