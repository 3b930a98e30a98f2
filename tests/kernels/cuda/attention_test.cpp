#include "kernels/cuda/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/attention/sm90_attention_backward.h"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/latent_batch.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

// The CPU's fp32 kernels over the same values are the reference, also of bf16: what is left is the rounding of results.
template <typename T>
constexpr double kTolerance = std::is_same_v<T, float> ? 3e-6 : 4e-3;

template <typename T>
std::vector<float> widen(const std::vector<T>& x) {
  std::vector<float> wide(x.size());
  for (size_t i = 0; i < x.size(); ++i) wide[i] = to_float(x[i]);
  return wide;
}

template <typename T>
double relative_to_f32(const std::vector<T>& a, const std::vector<float>& b) {
  return relative_difference(widen(a), b);
}

struct Case {
  std::vector<int32_t> offset;
  int64_t heads, nope, rope, value;
};

template <typename T>
cpu::AttentionInputs<T> inputs_of(const Case& c, const T* query, const T* key_value, const T* key_rope,
                                  const int32_t* offset) {
  int64_t longest = 0;
  for (size_t d = 0; d + 1 < c.offset.size(); ++d) {
    longest = std::max<int64_t>(longest, c.offset[d + 1] - c.offset[d]);
  }
  return {query,   key_value, key_rope, c.rope + 8, offset,  static_cast<int64_t>(c.offset.size()) - 1,
          longest, c.heads,   c.nope,   c.rope,     c.value, 0.3f};
}

template <typename T>
class PlainAttention : public OverElementTypes<T> {};
TYPED_TEST_SUITE(PlainAttention, ElementTypes, ElementName);

/// Forward and backward of a case by `forward` and `backward`, beside the CPU's.
template <typename T, typename Forward, typename Backward>
void expect_the_cpus(const Case& c, const Forward& forward, const Backward& backward) {
  const int64_t tokens = c.offset.back();
  const int64_t key = c.nope + c.rope, ld_rope = c.rope + 8;
  const auto query = random_elements<T>(tokens * c.heads * key, 60);
  const auto key_value = random_elements<T>(tokens * c.heads * (c.nope + c.value), 61);
  const auto key_rope = random_elements<T>(tokens * ld_rope, 62);
  const auto d_out = random_elements<T>(tokens * c.heads * c.value, 63);

  const auto wide_query = widen(query), wide_key_value = widen(key_value), wide_key_rope = widen(key_rope);
  const auto wide_d_out = widen(d_out);
  const auto in = inputs_of(c, wide_query.data(), wide_key_value.data(), wide_key_rope.data(), c.offset.data());
  std::vector<float> out(d_out.size()), statistics(tokens * c.heads), d_query(query.size());
  std::vector<float> d_key_value(key_value.size()), d_key_rope(key_rope.size(), 0.0f);
  std::vector<char> scratch(
      std::max(cpu::attention_forward_workspace(in.longest, c.nope, c.rope, c.value, 4),
               cpu::attention_backward_workspace(tokens, in.longest, c.heads, c.nope, c.rope, c.value, 4)));
  cpu::attention_forward(out.data(), statistics.data(), in, scratch.data());
  cpu::attention_backward(
      cpu::AttentionGradients<float>{d_query.data(), d_key_value.data(), d_key_rope.data(), ld_rope}, wide_d_out.data(),
      out.data(), statistics.data(), in, scratch.data());

  DeviceBuffer<T> device_query(query), device_key_value(key_value), device_key_rope(key_rope), device_d_out(d_out);
  DeviceBuffer<T> device_out(d_out.size()), device_d_query(query.size()), device_d_key_value(key_value.size());
  DeviceBuffer<T> device_d_key_rope(std::vector<T>(key_rope.size(), T{}));
  DeviceBuffer<float> device_statistics(statistics.size());
  DeviceBuffer<int32_t> offset(c.offset);
  DeviceBuffer<char> workspace(std::max(attention_backward_workspace(tokens, c.heads, c.rope),
                                        sm90_attention_backward_workspace(tokens, c.heads)));
  const auto device_in =
      inputs_of<T>(c, device_query.get(), device_key_value.get(), device_key_rope.get(), offset.get());
  forward(device_out.get(), device_statistics.get(), device_in, tokens, nullptr);
  backward(cpu::AttentionGradients<T>{device_d_query.get(), device_d_key_value.get(), device_d_key_rope.get(), ld_rope},
           device_d_out.get(), device_out.get(), device_statistics.get(), device_in, tokens, workspace.get(), nullptr);
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << c.heads << " heads of " << key << " and " << c.value);
  EXPECT_LT(relative_to_f32(device_out.download(), out), kTolerance<T>);
  EXPECT_LT(relative_difference(device_statistics.download(), statistics), 3e-6);
  if (tokens > 1) {  // a single token's softmax is 1 whatever the query
    EXPECT_LT(relative_to_f32(device_d_query.download(), d_query), 3 * kTolerance<T>);
  }
  EXPECT_LT(relative_to_f32(device_d_key_value.download(), d_key_value), 3 * kTolerance<T>);
  if (tokens > 1) {
    EXPECT_LT(relative_to_f32(device_d_key_rope.download(), d_key_rope), 3 * kTolerance<T>);
  }
}

TYPED_TEST(PlainAttention, ForwardAndBackwardOfPackedDocuments) {
  using T = TypeParam;
  for (const Case& c : {Case{{0, 1}, 1, 2, 2, 2}, Case{{0, 5, 6, 6, 71}, 3, 8, 4, 6}, Case{{0, 64, 129}, 2, 16, 8, 32},
                        Case{{0, 200}, 1, 64, 32, 64}, Case{{0, 0, 90}, 2, 128, 64, 128}}) {
    expect_the_cpus<T>(c, cuda::attention_forward<T>, cuda::attention_backward<T>);
  }
}

// Documents that end inside tiles of 32, 64 and 128 and at their ends, empty ones behind the last, and one alone.
TEST(TensorCoreAttention, ForwardAndBackwardOfPackedDocuments) {
  DT_SKIP_WITHOUT_GPU();
  for (const Case& c : {Case{{0, 1}, 1, 128, 64, 128}, Case{{0, 5, 6, 6, 71, 300, 300}, 3, 128, 64, 128},
                        Case{{0, 128, 192, 511}, 2, 128, 64, 128}, Case{{0, 700}, 2, 64, 32, 64},
                        Case{{0, 90, 91, 257, 257}, 4, 64, 32, 64}}) {
    const auto in = inputs_of<bfloat16>(c, nullptr, nullptr, nullptr, nullptr);
    if (!tensor_core_attention_fits(in)) GTEST_SKIP() << "this chip has too little shared memory";
    expect_the_cpus<bfloat16>(c, cuda::tensor_core_attention_forward, cuda::tensor_core_attention_backward);
  }
}

TEST(TensorCoreAttention, TwoRunsHaveTheSameBits) {
  DT_SKIP_WITHOUT_GPU();
  const Case c{{0, 100, 400}, 2, 128, 64, 128};
  constexpr int64_t kTokens = 403;  // three rows of no document
  DeviceBuffer<bfloat16> query(random_elements<bfloat16>(kTokens * 2 * 192, 60));
  DeviceBuffer<bfloat16> key_value(random_elements<bfloat16>(kTokens * 2 * 256, 61));
  DeviceBuffer<bfloat16> key_rope(random_elements<bfloat16>(kTokens * 72, 62));
  DeviceBuffer<bfloat16> d_out(random_elements<bfloat16>(kTokens * 2 * 128, 63));
  DeviceBuffer<int32_t> offset(c.offset);
  const auto in = inputs_of<bfloat16>(c, query.get(), key_value.get(), key_rope.get(), offset.get());
  if (!tensor_core_attention_fits(in)) GTEST_SKIP() << "this chip has too little shared memory";
  std::vector<std::vector<bfloat16>> results;
  for (int run = 0; run < 2; ++run) {
    DeviceBuffer<bfloat16> out(kTokens * 2 * 128), d_query(query.size()), d_key_value(key_value.size());
    DeviceBuffer<bfloat16> d_key_rope(key_rope.size());
    DeviceBuffer<float> statistics(kTokens * 2);
    DeviceBuffer<char> workspace(attention_backward_workspace(kTokens, 2, 64));
    tensor_core_attention_forward(out.get(), statistics.get(), in, kTokens, nullptr);
    tensor_core_attention_backward({d_query.get(), d_key_value.get(), d_key_rope.get(), 72}, d_out.get(), out.get(),
                                   statistics.get(), in, kTokens, workspace.get(), nullptr);
    for (const auto* buffer : {&out, &d_query, &d_key_value, &d_key_rope}) results.push_back(buffer->download());
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bytes(results[i], results[i + 4])) << i;
  for (int64_t i = 400 * 2 * 128; i < kTokens * 2 * 128; ++i) EXPECT_EQ(results[0][i].bits, 0) << i;
  for (int64_t i = 400 * 2 * 192; i < kTokens * 2 * 192; ++i) EXPECT_EQ(results[1][i].bits & 0x7fff, 0) << i;
}

// Gradients of random rows under documents, everything on the GPU.
struct BackwardRun {
  std::vector<bfloat16> d_query, d_key_value, d_key_rope;
};
struct BackwardInputs {
  std::vector<bfloat16> query, key_value, key_rope, d_out;
  BackwardInputs(int64_t tokens, int64_t heads)
      : query(random_elements<bfloat16>(tokens * heads * 192, 60)),
        key_value(random_elements<bfloat16>(tokens * heads * 256, 61)),
        key_rope(random_elements<bfloat16>(tokens * 72, 62)),
        d_out(random_elements<bfloat16>(tokens * heads * 128, 63)) {}
  BackwardInputs(const BackwardInputs& of, int64_t heads, int64_t first, int64_t end) {
    const auto cut = [&](const std::vector<bfloat16>& rows, int64_t width) {
      return std::vector<bfloat16>(rows.begin() + first * width, rows.begin() + end * width);
    };
    query = cut(of.query, heads * 192), key_value = cut(of.key_value, heads * 256);
    key_rope = cut(of.key_rope, 72), d_out = cut(of.d_out, heads * 128);
  }
  int64_t tokens() const { return static_cast<int64_t>(key_rope.size()) / 72; }
};

/// By the Hopper kernel or by the plain one, after the plain forward.
BackwardRun run_backward(const BackwardInputs& inputs, const std::vector<int32_t>& documents, int64_t heads,
                         bool hopper) {
  const int64_t tokens = inputs.tokens();
  const Case c{documents, heads, 128, 64, 128};
  DeviceBuffer<bfloat16> query(inputs.query), key_value(inputs.key_value), key_rope(inputs.key_rope);
  DeviceBuffer<bfloat16> d_out(inputs.d_out), out(d_out.size());
  DeviceBuffer<bfloat16> d_query(query.size()), d_key_value(key_value.size());
  DeviceBuffer<bfloat16> d_key_rope(std::vector<bfloat16>(key_rope.size(), bfloat16{}));
  DeviceBuffer<float> statistics(tokens * heads);
  DeviceBuffer<int32_t> offset(c.offset);
  DeviceBuffer<char> workspace(
      std::max(attention_backward_workspace(tokens, heads, 64), sm90_attention_backward_workspace(tokens, heads)));
  const auto in = inputs_of<bfloat16>(c, query.get(), key_value.get(), key_rope.get(), offset.get());
  attention_forward(out.get(), statistics.get(), in, tokens, nullptr);  // a document's rows do not depend on the others
  const cpu::AttentionGradients<bfloat16> gradients{d_query.get(), d_key_value.get(), d_key_rope.get(), 72};
  if (hopper) {
    sm90_attention_backward(gradients, d_out.get(), out.get(), statistics.get(), in, tokens, workspace.get(), nullptr);
  } else {
    attention_backward(gradients, d_out.get(), out.get(), statistics.get(), in, tokens, workspace.get(), nullptr);
  }
  return {d_query.download(), d_key_value.download(), d_key_rope.download()};
}

bool hopper_backward_fits() {
  return sm90_attention_backward_fits(
      inputs_of<bfloat16>({{0, 1}, 1, 128, 64, 128}, nullptr, nullptr, nullptr, nullptr));
}

// Documents that end inside tiles of 64 and 128 and at their ends, empty ones, and one alone.
TEST(Sm90AttentionBackward, IsTheCpus) {
  DT_SKIP_WITHOUT_GPU();
  if (!hopper_backward_fits()) GTEST_SKIP() << "no Hopper";
  for (const Case& c : {Case{{0, 1}, 1, 128, 64, 128}, Case{{0, 5, 6, 6, 71, 300, 300}, 3, 128, 64, 128},
                        Case{{0, 128, 192, 511}, 2, 128, 64, 128}, Case{{0, 63, 128, 449}, 2, 128, 64, 128},
                        Case{{0, 64, 192, 385}, 1, 128, 64, 128}, Case{{0, 700}, 2, 128, 64, 128}}) {
    expect_the_cpus<bfloat16>(c, cuda::tensor_core_attention_forward, cuda::sm90_attention_backward);
  }
}

// Long and short documents beside each other, as many heads as share a tile and more, against the plain kernel.
TEST(Sm90AttentionBackward, IsThePlainKernels) {
  DT_SKIP_WITHOUT_GPU();
  if (!hopper_backward_fits()) GTEST_SKIP() << "no Hopper";
  std::vector<int32_t> ragged = {0};
  for (int d = 0; ragged.back() < 2500; ++d)
    ragged.push_back(ragged.back() + static_cast<int32_t>(random_bits(90, d) % 400));
  std::vector<int32_t> tiny = {0};
  for (int d = 0; d < 2100; ++d) tiny.push_back(tiny.back() + 1 + static_cast<int32_t>(random_bits(91, d) % 2));
  for (const auto& [documents, heads] :
       {std::pair<std::vector<int32_t>, int64_t>{{0, 2048}, 3}, {ragged, 5}, {tiny, 16}}) {
    if (only_small_sizes() && heads > 3) continue;
    const BackwardInputs inputs(documents.back(), heads);
    const BackwardRun found = run_backward(inputs, documents, heads, true);
    const BackwardRun expected = run_backward(inputs, documents, heads, false);
    SCOPED_TRACE(testing::Message() << documents.size() - 1 << " documents, " << heads << " heads");
    EXPECT_LT(relative_difference(found.d_query, expected.d_query), 3 * kTolerance<bfloat16>);
    EXPECT_LT(relative_difference(found.d_key_value, expected.d_key_value), 3 * kTolerance<bfloat16>);
    EXPECT_LT(relative_difference(found.d_key_rope, expected.d_key_rope), 3 * kTolerance<bfloat16>);
  }
}

TEST(Sm90AttentionBackward, TwoRunsHaveTheSameBits) {
  DT_SKIP_WITHOUT_GPU();
  if (!hopper_backward_fits()) GTEST_SKIP() << "no Hopper";
  if (only_small_sizes()) GTEST_SKIP() << "4103 tokens are no small size";
  const BackwardInputs inputs(4103, 16);  // seven rows of no document
  const std::vector<int32_t> documents = {0, 2048, 2100, 4096};
  const BackwardRun first = run_backward(inputs, documents, 16, true);
  for (int run = 0; run < 3; ++run) {
    const BackwardRun again = run_backward(inputs, documents, 16, true);
    EXPECT_TRUE(same_bytes(first.d_query, again.d_query));
    EXPECT_TRUE(same_bytes(first.d_key_value, again.d_key_value));
    EXPECT_TRUE(same_bytes(first.d_key_rope, again.d_key_rope));
  }
  for (int64_t i = 4096 * 16 * 192; i < 4103 * 16 * 192; ++i) ASSERT_EQ(first.d_query[i].bits, 0) << i;
  for (int64_t i = 4096 * 16 * 256; i < 4103 * 16 * 256; ++i) ASSERT_EQ(first.d_key_value[i].bits, 0) << i;
  for (int64_t i = 4096 * 72; i < 4103 * 72; ++i) ASSERT_EQ(first.d_key_rope[i].bits & 0x7fff, 0) << i;
}

TEST(Sm90AttentionBackward, ADocumentsBitsAreItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  if (!hopper_backward_fits()) GTEST_SKIP() << "no Hopper";
  constexpr int64_t kHeads = 6;
  const std::vector<int32_t> documents = {0, 77, 77, 590, 650, 1500, 1501};
  const BackwardInputs inputs(1501, kHeads);
  const BackwardRun packed = run_backward(inputs, documents, kHeads, true);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    const int64_t first = documents[d], end = documents[d + 1];
    if (first == end) continue;
    const BackwardRun alone =
        run_backward(BackwardInputs(inputs, kHeads, first, end), {0, static_cast<int32_t>(end - first)}, kHeads, true);
    const auto same = [&](const std::vector<bfloat16>& own, const std::vector<bfloat16>& of, int64_t width) {
      return std::equal(own.begin(), own.end(), of.begin() + first * width,
                        [](bfloat16 a, bfloat16 b) { return a.bits == b.bits; });
    };
    EXPECT_TRUE(same(alone.d_query, packed.d_query, kHeads * 192)) << d;
    EXPECT_TRUE(same(alone.d_key_value, packed.d_key_value, kHeads * 256)) << d;
    EXPECT_TRUE(same(alone.d_key_rope, packed.d_key_rope, 72)) << d;
  }
}

TYPED_TEST(PlainAttention, RowsOfNoDocumentAreZeros) {
  using T = TypeParam;
  const Case c{{0, 3}, 2, 4, 2, 4};
  constexpr int64_t kTokens = 5;
  DeviceBuffer<T> query(kTokens * 2 * 6), key_value(kTokens * 2 * 8), key_rope(kTokens * 10), out(kTokens * 2 * 4);
  query.upload(random_elements<T>(3 * 2 * 6, 64));  // NaN behind the document
  key_value.upload(random_elements<T>(3 * 2 * 8, 65));
  key_rope.upload(random_elements<T>(3 * 10, 66));
  DeviceBuffer<int32_t> offset(c.offset);
  cuda::attention_forward(out.get(), static_cast<float*>(nullptr),
                          inputs_of<T>(c, query.get(), key_value.get(), key_rope.get(), offset.get()), kTokens,
                          nullptr);
  const std::vector<float> rows = widen(out.download());
  for (int64_t i = 0; i < kTokens * 8; ++i) {
    if (i < 3 * 8) {
      EXPECT_TRUE(std::isfinite(rows[i])) << i;
    } else {
      EXPECT_EQ(rows[i], 0.0f) << i;
    }
  }
}

TYPED_TEST(PlainAttention, LatentOverPages) {
  using T = TypeParam;
  constexpr int64_t kHeads = 3, kLatent = 70, kRope = 12, kWidth = kLatent + kRope, kPageSize = 7, kPages = 60;
  // A fresh sequence, one token behind many, one without rows, several rows behind some; then two rows of padding.
  const std::vector<int32_t> query_offset = {0, 40, 41, 41, 50}, cached_length = {0, 300, 5, 33};
  constexpr int64_t kTokens = 52, kTable = 45, kSequences = 4;
  std::vector<int32_t> table(kSequences * kTable);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(random_bits(67, i) % kPages);
  const auto query = random_elements<T>(kTokens * kHeads * kWidth, 68);
  const auto cache = random_elements<T>(kPages * kPageSize * kWidth, 69);
  std::vector<float> expected(kTokens * kHeads * kLatent, 0.0f);
  for (int64_t s = 0; s < kSequences; ++s) {
    for (int64_t t = query_offset[s]; t < query_offset[s + 1]; ++t) {
      const int64_t visible = cached_length[s] + t - query_offset[s] + 1;
      const auto entry = [&](int64_t i) {
        return &cache[(table[s * kTable + i / kPageSize] * kPageSize + i % kPageSize) * kWidth];
      };
      for (int64_t h = 0; h < kHeads; ++h) {
        std::vector<double> weight(visible), out(kLatent);
        double sum = 0;
        for (int64_t i = 0; i < visible; ++i) {
          double score = 0;
          for (int64_t j = 0; j < kWidth; ++j) {
            score += static_cast<double>(to_float(query[(t * kHeads + h) * kWidth + j])) * to_float(entry(i)[j]);
          }
          sum += weight[i] = std::exp(0.1 * score);
        }
        for (int64_t i = 0; i < visible; ++i) {
          for (int64_t j = 0; j < kLatent; ++j) out[j] += weight[i] / sum * to_float(entry(i)[j]);
        }
        for (int64_t j = 0; j < kLatent; ++j) {
          expected[(t * kHeads + h) * kLatent + j] = static_cast<float>(out[j]);
        }
      }
    }
  }
  DeviceBuffer<T> device_query(query), device_cache(cache), out(kTokens * kHeads * kLatent);
  DeviceBuffer<int32_t> offset(query_offset), cached(cached_length), device_table(table);
  cuda::latent_attention(out.get(),
                         LatentRows<T>{.query = device_query.get(),
                                       .cache = device_cache.get(),
                                       .rows = {offset.get(), kSequences, 0, kTokens},
                                       .cached_length = cached.get(),
                                       .page_table = device_table.get(),
                                       .page_table_stride = kTable,
                                       .page_size = kPageSize,
                                       .tokens = kTokens,
                                       .heads = kHeads,
                                       .latent_dim = kLatent,
                                       .rope_dim = kRope,
                                       .scale = 0.1f},
                         nullptr);
  EXPECT_LT(relative_to_f32(out.download(), expected), kTolerance<T>);

  // Of sequences with 9 to 39 rows there is one, the last; padding is cleared, the others are left alone.
  const std::vector<T> rows = random_elements<T>(kTokens * 7, 72);
  std::vector<T> chosen = random_elements<T>(kTokens * 7, 73);
  DeviceBuffer<T> device_rows(rows), device_chosen(chosen);
  cuda::copy_sequence_rows(device_chosen.get(), device_rows.get(), 7, kTokens, {offset.get(), kSequences, 9, 39},
                           nullptr);
  std::copy(rows.begin() + 41 * 7, rows.begin() + 50 * 7, chosen.begin() + 41 * 7);
  std::fill(chosen.begin() + 50 * 7, chosen.end(), T{});
  EXPECT_TRUE(same_bytes(device_chosen.download(), chosen));
}

TEST(LatentTiles, AreThePlainKernelsAndEachTokenItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [heads, capacity] : {std::pair<int64_t, int64_t>{16, 400}, {5, 400}, {20, 9000}}) {
    LatentBatch batch(ragged_latent_shape(heads, capacity), 80);
    LatentRows<bfloat16> rows = batch.rows();
    if (!latent_tiles_fit(rows)) GTEST_SKIP() << "this chip has too little shared memory";
    const int64_t of_token = heads * LatentBatch::kLatent;
    DeviceBuffer<bfloat16> plain(rows.tokens * of_token), tiles(rows.tokens * of_token);
    DeviceBuffer<float> workspace(latent_tiles_workspace(rows.tokens, heads, rows.latent_dim, capacity));
    latent_attention(plain.get(), rows, nullptr);
    latent_attention_by_tiles(tiles.get(), rows, capacity, workspace.get(), nullptr);
    const std::vector<bfloat16> found = tiles.download();
    EXPECT_LT(relative_difference(found, plain.download()), 6e-3) << heads;  // weights are rounded to bf16
    for (int64_t i = 8 * of_token; i < rows.tokens * of_token; ++i) EXPECT_EQ(found[i].bits, 0) << "padding";
    rows.tokens = 2;  // the second sequence's token beside fewer
    latent_attention_by_tiles(tiles.get(), rows, capacity, workspace.get(), nullptr);
    EXPECT_TRUE(same_first_rows(tiles.download(), found, 2 * of_token)) << heads;
  }
}

// Batches of decoding, whose tokens have fewer splits: against the plain kernel, and within a class each token its own.
TEST(LatentTiles, OfABatchArePlainAndEachTokenItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kMost = 300;
  LatentShape shape{.query_offset = {},
                    .cached_length = {},
                    .tokens = kMost,
                    .heads = 0,
                    .page_size = 32,
                    .pages = 60,
                    .capacity = 700};
  for (int32_t t = 0; t <= kMost; ++t) shape.query_offset.push_back(t);
  for (int64_t t = 0; t < kMost; ++t) {
    shape.cached_length.push_back(static_cast<int32_t>(random_bits(84, t) % shape.capacity));
  }
  for (const int64_t heads : {16, 19}) {
    shape.heads = heads;
    const int64_t of_token = heads * LatentBatch::kLatent;
    LatentBatch batch(shape, 83);
    LatentRows<bfloat16> rows = batch.rows();
    if (!latent_tiles_fit(rows)) GTEST_SKIP() << "this chip has too little shared memory";
    DeviceBuffer<bfloat16> plain(kMost * of_token), tiles(kMost * of_token);
    DeviceBuffer<float> workspace(latent_tiles_workspace(kMost, heads, rows.latent_dim, shape.capacity));
    latent_attention(plain.get(), rows, nullptr);
    const std::vector<bfloat16> expected = plain.download();
    std::vector<bfloat16> least;  // the first tokens of the smallest batch of a class
    for (const int64_t tokens : {17, 40, 256, 257, 300}) {
      if (only_small_sizes() && tokens > 17) continue;
      rows.tokens = rows.rows.sequences = tokens;
      latent_attention_by_tiles(tiles.get(), rows, shape.capacity, workspace.get(), nullptr);
      std::vector<bfloat16> found = tiles.download();
      found.resize(tokens * of_token);
      EXPECT_LT(
          relative_difference(found, std::vector<bfloat16>(expected.begin(), expected.begin() + tokens * of_token)),
          6e-3)  // weights are rounded to bf16
          << tokens << " tokens, " << heads << " heads";
      found.resize(17 * of_token);
      if (tokens == 17 || tokens == 257) least = found;
      EXPECT_TRUE(same_bytes(found, least)) << tokens << " tokens, " << heads << " heads";
    }
  }
}

TYPED_TEST(PlainAttention, WritesTheCacheAndSkipsPadding) {
  using T = TypeParam;
  constexpr int64_t kEntries = 12, kLatent = 9, kRope = 4, kWidth = kLatent + kRope, kTokens = 5, kLd = 17;
  const auto rows = random_elements<T>(kTokens * kLd, 70);
  auto expected = random_elements<T>(kEntries * kWidth, 71);
  const std::vector<int32_t> slots = {3, -1, 11, 0, kEntries};
  DeviceBuffer<T> cache(expected), device_rows(rows);
  DeviceBuffer<int32_t> device_slots(slots);
  for (int64_t t = 0; t < kTokens; ++t) {
    if (slots[t] >= 0 && slots[t] < kEntries) std::copy_n(&rows[t * kLd], kWidth, &expected[slots[t] * kWidth]);
  }
  write_latent_cache<T>(cache.get(), kEntries, device_slots.get(), device_rows.get(), kLd, kLatent,
                        device_rows.get() + kLatent, kLd, kRope, kTokens, nullptr);
  EXPECT_TRUE(same_bytes(cache.download(), expected));
}

TEST(PlainAttentionErrors, NameAHeadThatIsTooWide) {
  DT_SKIP_WITHOUT_GPU();
  cpu::AttentionInputs<float> in{};
  in.heads = 1, in.nope_dim = 4000, in.value_dim = 4000;
  try {
    cuda::attention_forward(static_cast<float*>(nullptr), nullptr, in, 1, nullptr);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "attention: a head of these widths needs 128000 bytes of shared memory a block, and 49152 are there");
  }
}

}  // namespace
}  // namespace deeptitan::cuda
