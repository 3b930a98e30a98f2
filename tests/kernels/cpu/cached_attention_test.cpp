#include "kernels/cpu/attention/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/cpu/matmul/packing.h"
#include "support/compare.h"
#include "support/expect_error.h"

namespace deeptitan::cpu {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::rounded;

constexpr int64_t kHeads = 3;
constexpr int64_t kNope = 8;
constexpr int64_t kRope = 4;
constexpr int64_t kValue = 6;
constexpr int64_t kLatent = 14;
constexpr int64_t kWidth = kLatent + kRope;
constexpr int64_t kPageSize = 16;
constexpr float kScale = 0.3f;

// A sequence: `cached` entries before its `rows` query rows.
struct Extent {
  int64_t cached, rows;
  int64_t length() const { return cached + rows; }
};

template <typename T>
struct Layer {
  std::vector<T> key = random_normal<T>(kHeads * kNope * kLatent, 1);     // W_key [H, Dn, L]
  std::vector<T> value = random_normal<T>(kHeads * kValue * kLatent, 2);  // W_value [H, Dv, L]
  std::vector<uint32_t> packed_key, packed_absorbed, packed_value;
  int64_t key_words, absorbed_words, value_words;

  Layer() {
    constexpr OperandType kType = sizeof(T) == 4 ? OperandType::kFloat : OperandType::kBfloat16;
    key_words = packed_words(kType, kLatent, kNope);
    absorbed_words = packed_words(kType, kNope, kLatent);
    value_words = packed_words(kType, kLatent, kValue);
    packed_key.resize(kHeads * key_words);
    packed_absorbed.resize(kHeads * absorbed_words);
    packed_value.resize(kHeads * value_words);
    for (int64_t h = 0; h < kHeads; ++h) {
      const T* k = key.data() + h * kNope * kLatent;
      pack_transposed(packed_key.data() + h * key_words, k, kLatent, kLatent, kNope, kType);
      pack_direct(packed_absorbed.data() + h * absorbed_words, k, kLatent, kNope, kLatent, kType);
      pack_transposed(packed_value.data() + h * value_words, value.data() + h * kValue * kLatent, kLatent, kLatent,
                      kValue, kType);
    }
  }
};

// A batch of sequences whose entries and queries depend on the sequence's name and place alone, in pages of any order.
template <typename T>
class Batch {
 public:
  Batch(const std::vector<std::pair<int, Extent>>& sequences, int64_t padding, bool shuffled) : sequences_(sequences) {
    for (const auto& [name, extent] : sequences)
      pages_ = std::max(pages_, (extent.length() + kPageSize - 1) / kPageSize);
    const auto count = static_cast<int64_t>(sequences.size());
    const int64_t all = count * pages_;
    cache_.assign(all * kPageSize * kWidth, rounded<T>(1e30f));  // what is not to be read
    offset_.push_back(0);
    for (int64_t s = 0; s < count; ++s) {
      const auto& [name, extent] = sequences[s];
      const auto entries = random_normal<T>(4096 * kWidth, 100 + name);
      const auto queries = random_normal<T>(4096 * kHeads * (kNope + kRope), 200 + name);
      for (int64_t p = 0; p < pages_; ++p) {
        // 13 is prime to the number of pages below.
        const int64_t page = shuffled ? (s * pages_ + p) * 13 % all : s * pages_ + p;
        page_table_.push_back(static_cast<int32_t>(page));
        for (int64_t i = p * kPageSize; i < std::min(extent.length(), (p + 1) * kPageSize); ++i) {
          std::copy_n(entries.begin() + i * kWidth, kWidth,
                      cache_.begin() + (page * kPageSize + i % kPageSize) * kWidth);
        }
      }
      const int64_t width = kHeads * (kNope + kRope);
      query_.insert(query_.end(), queries.begin() + extent.cached * width, queries.begin() + extent.length() * width);
      offset_.push_back(offset_.back() + static_cast<int32_t>(extent.rows));
      cached_.push_back(static_cast<int32_t>(extent.cached));
      most_rows_ = std::max(most_rows_, extent.rows);
      most_visible_ = std::max(most_visible_, extent.length());
    }
    tokens_ = offset_.back() + padding;
    query_.resize(tokens_ * kHeads * (kNope + kRope), rounded<T>(1e30f));
    EXPECT_TRUE(!shuffled || all % 13 != 0);
  }

  std::vector<T> attend(const Layer<T>& layer) const {
    const CachedAttention<T> in{.query = query_.data(),
                                .cache = cache_.data(),
                                .sequences = {.query_offset = offset_.data(),
                                              .cached_length = cached_.data(),
                                              .page_table = page_table_.data(),
                                              .page_table_stride = pages_,
                                              .page_size = kPageSize,
                                              .sequences = static_cast<int64_t>(cached_.size()),
                                              .tokens = tokens_,
                                              .max_query = most_rows_,
                                              .max_visible = most_visible_},
                                .heads = kHeads,
                                .nope_dim = kNope,
                                .rope_dim = kRope,
                                .value_dim = kValue,
                                .latent_dim = kLatent,
                                .scale = kScale};
    std::vector<T> out(tokens_ * kHeads * kValue, rounded<T>(7.0f));
    std::vector<char> workspace(std::max(
        expanded_attention_workspace(ExpandedSize{most_rows_, most_visible_, kNope + kRope, kValue}, sizeof(T)),
        absorbed_attention_workspace(tokens_, in.sequences.sequences, most_visible_, kHeads, kLatent, kRope,
                                     sizeof(T))));
    const HeadWeights value{layer.packed_value.data(), layer.value_words};
    expanded_attention(out.data(), in, HeadWeights{layer.packed_key.data(), layer.key_words}, value, workspace.data());
    absorbed_attention(out.data(), in, HeadWeights{layer.packed_absorbed.data(), layer.absorbed_words}, value,
                       workspace.data());
    return out;
  }

  // The rows of sequence s.
  std::vector<T> rows_of(const std::vector<T>& out, size_t s) const {
    return {out.begin() + offset_[s] * kHeads * kValue, out.begin() + offset_[s + 1] * kHeads * kValue};
  }
  int64_t rows() const { return offset_.back(); }

 private:
  std::vector<std::pair<int, Extent>> sequences_;
  int64_t pages_ = 1, tokens_ = 0, most_rows_ = 0, most_visible_ = 0;
  std::vector<T> cache_, query_;
  std::vector<int32_t> offset_, cached_, page_table_;
};

// Keys and values in double, expanded from the same entries.
template <typename T>
std::vector<double> reference(const Layer<T>& layer, int name, const Extent& extent) {
  const auto entries = testing::to_double(random_normal<T>(4096 * kWidth, 100 + name));
  const auto queries = testing::to_double(random_normal<T>(4096 * kHeads * (kNope + kRope), 200 + name));
  std::vector<double> out;
  for (int64_t row = extent.cached; row < extent.length(); ++row) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const double* q = queries.data() + (row * kHeads + h) * (kNope + kRope);
      std::vector<double> p(row + 1);
      for (int64_t i = 0; i <= row; ++i) {
        const double* entry = entries.data() + i * kWidth;
        for (int64_t d = 0; d < kNope; ++d) {
          double key = 0;
          for (int64_t l = 0; l < kLatent; ++l) key += to_float(layer.key[(h * kNope + d) * kLatent + l]) * entry[l];
          p[i] += q[d] * key;
        }
        for (int64_t d = 0; d < kRope; ++d) p[i] += q[kNope + d] * entry[kLatent + d];
        p[i] *= kScale;
      }
      const double largest = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - largest);
      for (int64_t v = 0; v < kValue; ++v) {
        double result = 0;
        for (int64_t l = 0; l < kLatent; ++l) {
          double latent = 0;
          for (int64_t i = 0; i <= row; ++i) latent += p[i] / sum * entries[i * kWidth + l];
          result += to_float(layer.value[(h * kValue + v) * kLatent + l]) * latent;
        }
        out.push_back(result);
      }
    }
  }
  return out;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <typename T>
class CachedAttentionTest : public ::testing::Test {};
using Types = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(CachedAttentionTest, Types);

// Fresh and cached sequences, of few and of many rows, below and above a block of keys, one without rows.
const std::vector<std::pair<int, Extent>> kMixed = {{0, {0, 70}},    {1, {300, 5}}, {2, {1100, 64}}, {3, {9, 0}},
                                                    {4, {1000, 80}}, {5, {0, 1}},   {6, {40, 63}}};

TYPED_TEST(CachedAttentionTest, EverySequenceOfAMixedBatchEqualsTheReference) {
  // bf16 rounds keys, probabilities and results, or the latent query and its result, once each (2^-9).
  const double tolerance = sizeof(TypeParam) == 4 ? 5e-6 : 2e-2;
  const Layer<TypeParam> layer;
  const Batch<TypeParam> batch(kMixed, 0, true);
  const auto out = batch.attend(layer);
  for (size_t s = 0; s < kMixed.size(); ++s) {
    if (kMixed[s].second.rows == 0) continue;
    EXPECT_LT(relative_error(batch.rows_of(out, s), reference(layer, kMixed[s].first, kMixed[s].second)), tolerance)
        << "sequence " << s;
  }
}

TYPED_TEST(CachedAttentionTest, ASequencesBitsDependOnNoBatchNoPagesNoPaddingNoThreads) {
  const Layer<TypeParam> layer;
  const Batch<TypeParam> batch(kMixed, 5, true);
  const auto together = batch.attend(layer);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(3);
  for (size_t s = 0; s < kMixed.size(); ++s) {
    const Batch<TypeParam> alone({kMixed[s]}, 0, false);
    EXPECT_TRUE(same_bits(alone.attend(layer), batch.rows_of(together, s))) << "sequence " << s;
  }
  omp_set_num_threads(threads);
  for (size_t i = batch.rows() * kHeads * kValue; i < together.size(); ++i) EXPECT_EQ(to_float(together[i]), 0.0f);
}

TYPED_TEST(CachedAttentionTest, APromptInChunksHasTheBitsOfThePromptWhole) {
  const Layer<TypeParam> layer;
  const auto whole = Batch<TypeParam>({{0, {0, 1400}}}, 0, false).attend(layer);
  for (const std::vector<int64_t>& chunks : {std::vector<int64_t>{700, 700}, {64, 1200, 136}, {1100, 300}}) {
    std::vector<TypeParam> joined;
    int64_t done = 0;
    for (const int64_t rows : chunks) {
      const auto part = Batch<TypeParam>({{0, {done, rows}}}, 0, true).attend(layer);
      joined.insert(joined.end(), part.begin(), part.end());
      done += rows;
    }
    EXPECT_TRUE(same_bits(joined, whole)) << chunks.front() << " first";
  }
}

TEST(WriteLatentCache, SkipsSlotsOfNoneAndRefusesThoseOutside) {
  std::vector<float> cache(3 * 3, -1.0f);
  const std::vector<float> latent = {1, 2, 3, 4, 5, 6};
  const std::vector<float> rope = {7, 8, 9};
  const std::vector<int32_t> slots = {2, -1, 0};
  write_latent_cache(cache.data(), slots.data(), latent.data(), 2, rope.data(), 1, 3, 2, 1, 3);
  EXPECT_EQ(cache, (std::vector<float>{5, 6, 9, -1, -1, -1, 1, 2, 7}));
  const std::vector<int32_t> outside = {3};
  expect_runtime_error(
      [&] { write_latent_cache(cache.data(), outside.data(), latent.data(), 2, rope.data(), 1, 1, 2, 1, 3); },
      "cache slot 3 of token 0 is outside the 3 cached entries");
}

}  // namespace
}  // namespace deeptitan::cpu
