// What decoding does to few tokens in few launches, against the kernels that do it one op after another.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/cuda_device.h"
#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/attention/few_latent.h"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/attention/sm90_latent_attention.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/experts/few_tokens.h"
#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/router/router.h"
#include "kernels/cuda/typed_elements.h"
#include "kernels/exact_math.h"

namespace deeptitan::cuda {
namespace {

struct MixtureCase {
  int64_t tokens, hidden, experts, top_k, width, shared_width;
};

/// y [rows, n] = x w^T with the sums of few rows.
std::vector<bfloat16> few(const bfloat16* x, const bfloat16* w, int64_t rows, int64_t n, int64_t k) {
  DeviceBuffer<bfloat16> y(rows * n);
  multiply_few_rows<bfloat16>({y.get(), n, x, k, w, rows, n, k}, nullptr);
  return y.download();
}

/// down(swiglu(gate_up(x))) of one token, each rounded.
std::vector<bfloat16> gated(const bfloat16* x, const bfloat16* gate_up, const bfloat16* down, int64_t hidden,
                            int64_t width) {
  DeviceBuffer<bfloat16> both(few(x, gate_up, 1, 2 * width, hidden)), activated(width);
  swiglu(activated.get(), both.get(), both.get() + width, 2 * width, 1, width, nullptr);
  return few(activated.get(), down, 1, hidden, width);
}

TEST(FewTokensMixture, HasTheBitsOfItsOpsAndEachTokenItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  const std::vector<MixtureCase> cases = {{1, 2048, 8, 6, 1408, 2816},
                                          {16, 2048, 8, 6, 1408, 2816},
                                          {3, 72, 5, 2, 40, 0},
                                          {7, 264, 16, 1, 8, 2056},
                                          {5, 7168, 9, 8, 512, 512}};
  for (const auto& [tokens, hidden, experts, top_k, width, shared] : cases) {
    // Drawing each would take longer than multiplying.
    const auto weights = [&](int64_t n, uint64_t key) {
      constexpr int64_t kDrawn = 1000003;
      std::vector<bfloat16> w = random_elements<bfloat16>(std::min(n, kDrawn), key, 0.05f);
      w.reserve(n);
      for (int64_t i = kDrawn; i < n; ++i) w.push_back(w[i - kDrawn]);
      return w;
    };
    DeviceBuffer<bfloat16> x(random_elements<bfloat16>(tokens * hidden, 1));
    DeviceBuffer<float> router(random_elements<float>(experts * hidden, 2, 0.1f)), wide(tokens * hidden);
    DeviceBuffer<bfloat16> gate_up(weights(experts * 2 * width * hidden, 3)),
        down(weights(experts * hidden * width, 4));
    DeviceBuffer<bfloat16> shared_gate_up(weights(2 * shared * hidden + 8, 5)),
        shared_down(weights(hidden * shared + 8, 6));
    std::vector<int32_t> index(tokens * top_k);
    for (size_t i = 0; i < index.size(); ++i) {
      index[i] = static_cast<int32_t>((random_bits(7, i / top_k) + (i % top_k) * 3) % experts);
    }
    const std::vector<float> weight = random_elements<float>(tokens * top_k, 8);
    DeviceBuffer<int32_t> device_index(index);
    DeviceBuffer<float> device_weight(weight), logits(tokens * experts), plain_logits(tokens * experts);
    DeviceBuffer<bfloat16> out(tokens * hidden), activated(tokens * top_k * width),
        shared_activated(tokens * shared + 8), shared_result(tokens * hidden);
    const std::vector<bfloat16> residual = random_elements<bfloat16>(tokens * hidden, 9);
    DeviceBuffer<bfloat16> device_residual(residual);
    FewTokensMixture m{.out = out.get(),
                       .residual = device_residual.get(),
                       .x = x.get(),
                       .tokens = tokens,
                       .hidden = hidden,
                       .router = router.get(),
                       .logits = logits.get(),
                       .experts = experts,
                       .expert_index = device_index.get(),
                       .expert_weight = device_weight.get(),
                       .top_k = top_k,
                       .gate_up = gate_up.get(),
                       .down = down.get(),
                       .width = width,
                       .shared_gate_up = shared_gate_up.get(),
                       .shared_down = shared_down.get(),
                       .shared_width = shared,
                       .activated = activated.get(),
                       .shared_activated = shared_activated.get(),
                       .shared_result = shared_result.get()};
    ASSERT_TRUE(few_tokens_mixture_fits(m));
    few_tokens_logits(m, nullptr);
    // The routing that stands between the two; the choices below are drawn, so that each expert is met.
    RouterOptions options;
    options.experts = static_cast<int>(experts), options.top_k = static_cast<int>(top_k);
    DeviceBuffer<int32_t> chosen(index.size()), counts(experts);
    DeviceBuffer<float> chosen_weight(index.size());
    route_tokens(chosen.get(), chosen_weight.get(), nullptr, counts.get(), logits.get(), nullptr, tokens, options,
                 nullptr, nullptr);
    few_tokens_experts(m, nullptr);
    const std::vector<bfloat16> found = out.download();

    convert(wide.get(), hidden, x.get(), hidden, tokens, hidden, nullptr);
    multiply_strided(StridedProduct<float, float>{.c = plain_logits.get(),
                                                  .c_row = experts,
                                                  .a = wide.get(),
                                                  .a_row = hidden,
                                                  .a_step = 1,
                                                  .b = router.get(),
                                                  .b_step = 1,
                                                  .b_column = hidden,
                                                  .rows = tokens,
                                                  .steps = hidden,
                                                  .columns = experts},
                     nullptr);
    EXPECT_TRUE(same_bytes(logits.download(), plain_logits.download())) << tokens << " x " << hidden;

    for (int64_t t = 0; t < tokens; ++t) {
      const bfloat16* row = x.get() + t * hidden;
      std::vector<float> sum(hidden, 0.0f);
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t e = index[t * top_k + k];
        const auto y =
            gated(row, gate_up.get() + e * 2 * width * hidden, down.get() + e * hidden * width, hidden, width);
        for (int64_t j = 0; j < hidden; ++j) sum[j] = exact_fma(weight[t * top_k + k], to_float(y[j]), sum[j]);
      }
      if (shared > 0) {
        const auto y = gated(row, shared_gate_up.get(), shared_down.get(), hidden, shared);
        for (int64_t j = 0; j < hidden; ++j) sum[j] = exact_add(sum[j], to_float(y[j]));
      }
      int64_t wrong = 0;
      for (int64_t j = 0; j < hidden; ++j) {
        const float onto = to_float(residual[t * hidden + j]) + to_float(to_bfloat16(sum[j]));
        wrong += found[t * hidden + j].bits != to_bfloat16(onto).bits;
      }
      EXPECT_EQ(wrong, 0) << "token " << t << " of " << tokens << ", hidden " << hidden;
    }
  }
}

TEST(FewTokensMixture, DoesNotTakeWhatItCannotRead) {
  const auto* aligned = reinterpret_cast<const bfloat16*>(uintptr_t{256});
  const FewTokensMixture m{
      .x = aligned, .tokens = 16, .hidden = 64, .top_k = 2, .gate_up = aligned, .down = aligned, .width = 32};
  EXPECT_TRUE(few_tokens_mixture_fits(m));
  FewTokensMixture other = m;
  other.tokens = 17;
  EXPECT_FALSE(few_tokens_mixture_fits(other));
  other = m;
  other.width = 36;
  EXPECT_FALSE(few_tokens_mixture_fits(other));
  other = m;
  other.x = aligned + 1;
  EXPECT_FALSE(few_tokens_mixture_fits(other));
}

constexpr int64_t kLatent = 512, kRope = 64, kWidth = kLatent + kRope, kNope = 128, kValue = 96, kHead = kNope + kRope;

/// By plain kernels, over queries that are rotated and entries that are written; `in.latent_query` is what it leaves.
std::vector<bfloat16> attend_plainly(const FewLatentTokens& in, const bfloat16* query) {
  const int64_t tokens = in.entries.tokens, heads = in.entries.heads;
  DeviceBuffer<bfloat16> latents(tokens * heads * kLatent), out(tokens * heads * kValue);
  multiply_strided(StridedProduct<bfloat16, bfloat16>{.c = in.latent_query,
                                                      .c_row = heads * kWidth,
                                                      .c_batch = kWidth,
                                                      .a = query,
                                                      .a_row = heads * kHead,
                                                      .a_step = 1,
                                                      .a_batch = kHead,
                                                      .b = in.key_weight,
                                                      .b_step = kLatent,
                                                      .b_column = 1,
                                                      .b_batch = kNope * kLatent,
                                                      .rows = tokens,
                                                      .steps = kNope,
                                                      .columns = kLatent,
                                                      .batches = heads},
                   nullptr);
  convert(in.latent_query + kLatent, kWidth, query + kNope, kHead, tokens * heads, kRope, nullptr);
  latent_attention(latents.get(), in.entries, nullptr);
  multiply_strided(StridedProduct<bfloat16, bfloat16>{.c = out.get(),
                                                      .c_row = heads * kValue,
                                                      .c_batch = kValue,
                                                      .a = latents.get(),
                                                      .a_row = heads * kLatent,
                                                      .a_step = 1,
                                                      .a_batch = kLatent,
                                                      .b = in.value_weight,
                                                      .b_step = 1,
                                                      .b_column = kLatent,
                                                      .b_batch = kValue * kLatent,
                                                      .rows = tokens,
                                                      .steps = kLatent,
                                                      .columns = kValue,
                                                      .batches = heads},
                   nullptr);
  return out.download();
}

// Sequences in one tile, at its end, behind several splits, without rows, and padding; nothing is entered or rotated.
TEST(FewLatent, AreThePlainKernelsAndEachTokenItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [heads, capacity] : {std::pair<int64_t, int64_t>{16, 400}, {5, 9000}, {128, 400}, {64, 9000}}) {
    constexpr int64_t kPageSize = 16, kPages = 50, kTokens = 9, kSequences = 6;
    const std::vector<int32_t> query_offset = {0, 1, 2, 2, 4, 7, 8}, cached_length = {0, 63, 9, 64, 301, 380};
    const int64_t table_width = (capacity + kPageSize - 1) / kPageSize;
    std::vector<int32_t> table(kSequences * table_width);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(random_bits(80, i) % kPages);
    DeviceBuffer<bfloat16> query(random_elements<bfloat16>(kTokens * heads * kHead, 81));
    DeviceBuffer<bfloat16> cache(random_elements<bfloat16>(kPages * kPageSize * kWidth, 82));
    DeviceBuffer<bfloat16> key(random_elements<bfloat16>(heads * kNope * kLatent, 83, 0.1f));
    DeviceBuffer<bfloat16> value(random_elements<bfloat16>(heads * kValue * kLatent, 84, 0.1f));
    DeviceBuffer<bfloat16> rows(random_elements<bfloat16>(kTokens * kWidth, 85));
    DeviceBuffer<float> norm(random_elements<float>(kLatent, 86));
    DeviceBuffer<int32_t> offset(query_offset), cached(cached_length), device_table(table);
    DeviceBuffer<int32_t> none(std::vector<int32_t>(kTokens, -1));
    DeviceBuffer<bfloat16> latent_query(kTokens * heads * kWidth), out(kTokens * heads * kValue);
    FewLatentTokens in{.out = out.get(),
                       .query = query.get(),
                       .ld_query = heads * kHead,
                       .key_weight = key.get(),
                       .value_weight = value.get(),
                       .nope_dim = kNope,
                       .value_dim = kValue,
                       .latent_query = latent_query.get(),
                       .entries = {.query = latent_query.get(),
                                   .cache = cache.get(),
                                   .rows = {offset.get(), kSequences, 0, 63},
                                   .cached_length = cached.get(),
                                   .page_table = device_table.get(),
                                   .page_table_stride = table_width,
                                   .page_size = kPageSize,
                                   .tokens = kTokens,
                                   .heads = heads,
                                   .latent_dim = kLatent,
                                   .rope_dim = kRope,
                                   .scale = 0.05f},
                       .entered = {.cache = cache.get(),
                                   .entries = kPages * kPageSize,
                                   .slot = none.get(),
                                   .kv_latent = rows.get(),
                                   .ld_latent = kWidth,
                                   .norm_weight = norm.get(),
                                   .epsilon = 1e-6f,
                                   .positions = none.get()}};
    if (!few_latent_fit(in)) GTEST_SKIP() << "this chip has too little shared memory";
    in.by_warpgroups = capability_major(0) == 9 && sm90_latent_attention_fits(in.entries);
    DeviceBuffer<float> workspace(std::max(latent_tiles_workspace(kTokens, heads, kLatent, capacity),
                                           sm90_latent_attention_workspace(kTokens, heads, capacity)));
    few_latent_attention(in, capacity, workspace.get(), nullptr);
    const std::vector<bfloat16> found = out.download(), found_queries = latent_query.download();
    const std::vector<bfloat16> plain = attend_plainly(in, query.get());
    EXPECT_LT(relative_difference(found_queries, latent_query.download()), kOrderOfSums<bfloat16>);
    // Weights of the entries are rounded to bf16.
    EXPECT_LT(relative_difference(found, plain), 8e-3) << heads;
    for (int64_t i = 8 * heads * kValue; i < kTokens * heads * kValue; ++i) EXPECT_EQ(found[i].bits, 0) << "padding";
    in.entries.tokens = 2;  // the second sequence's token beside fewer
    few_latent_attention(in, capacity, workspace.get(), nullptr);
    const std::vector<bfloat16> fewer = out.download();
    EXPECT_TRUE(std::equal(fewer.begin(), fewer.begin() + 2 * heads * kValue, found.begin(),
                           [](bfloat16 a, bfloat16 b) { return a.bits == b.bits; }));
  }
}

// A sequence of three rows and three of one; one of them has no slot, and one is at the end of a tile.
TEST(FewLatent, EnterTheCacheAndAttendAsTheirOpsDo) {
  DT_SKIP_WITHOUT_GPU();
  for (const bool halves : {false, true}) {
    constexpr int64_t kTokens = 6, kHeads = 17, kSequences = 4, kPageSize = 64, kTable = 2,
                      kPages = kSequences * kTable;
    constexpr int64_t kEntries = kPages * kPageSize, kPositions = 130, kPairs = kRope / 2;
    const std::vector<int32_t> query_offset = {0, 3, 4, 5, 6}, cached_length = {62, 0, 63, 100};
    std::vector<int32_t> table(kPages), slots, places;
    for (int64_t i = 0; i < kPages; ++i) table[i] = static_cast<int32_t>(kPages - 1 - i);
    for (int64_t s = 0; s < kSequences; ++s) {
      for (int32_t t = query_offset[s]; t < query_offset[s + 1]; ++t) {
        const int32_t place = cached_length[s] + t - query_offset[s];
        places.push_back(place);
        slots.push_back(table[s * kTable + place / kPageSize] * static_cast<int32_t>(kPageSize) + place % kPageSize);
      }
    }
    slots[3] = -1;
    places[3] = -1;
    DeviceBuffer<bfloat16> cache(random_elements<bfloat16>(kEntries * kWidth, 1)), expected(cache.download());
    DeviceBuffer<bfloat16> query(random_elements<bfloat16>(kTokens * kHeads * kHead, 2)), rotated(query.download());
    DeviceBuffer<bfloat16> rows(random_elements<bfloat16>(kTokens * kWidth, 3)), normed(kTokens * kLatent);
    DeviceBuffer<bfloat16> key(random_elements<bfloat16>(kHeads * kNope * kLatent, 4, 0.1f));
    DeviceBuffer<bfloat16> value(random_elements<bfloat16>(kHeads * kValue * kLatent, 5, 0.1f));
    DeviceBuffer<float> norm(random_elements<float>(kLatent, 6)), cos(random_elements<float>(kPositions * kPairs, 7)),
        sin(random_elements<float>(kPositions * kPairs, 8));
    DeviceBuffer<int32_t> slot(slots), positions(places), offset(query_offset), cached(cached_length),
        device_table(table);
    DeviceBuffer<bfloat16> latent_query(kTokens * kHeads * kWidth), out(kTokens * kHeads * kValue);
    FewLatentTokens in{.out = out.get(),
                       .query = query.get(),
                       .ld_query = kHeads * kHead,
                       .key_weight = key.get(),
                       .value_weight = value.get(),
                       .nope_dim = kNope,
                       .value_dim = kValue,
                       .latent_query = latent_query.get(),
                       .entries = {.query = latent_query.get(),
                                   .cache = cache.get(),
                                   .rows = {offset.get(), kSequences, 0, 63},
                                   .cached_length = cached.get(),
                                   .page_table = device_table.get(),
                                   .page_table_stride = kTable,
                                   .page_size = kPageSize,
                                   .tokens = kTokens,
                                   .heads = kHeads,
                                   .latent_dim = kLatent,
                                   .rope_dim = kRope,
                                   .scale = 0.05f},
                       .entered = {.cache = cache.get(),
                                   .entries = kEntries,
                                   .slot = slot.get(),
                                   .kv_latent = rows.get(),
                                   .ld_latent = kWidth,
                                   .norm_weight = norm.get(),
                                   .epsilon = 1e-6f,
                                   .cos = cos.get(),
                                   .sin = sin.get(),
                                   .positions = positions.get(),
                                   .halves = halves}};
    if (!few_latent_fit(in)) GTEST_SKIP() << "this chip has too little shared memory";
    DeviceBuffer<float> workspace(latent_tiles_workspace(kTokens, kHeads, kLatent, kTable * kPageSize));
    few_latent_attention(in, kTable * kPageSize, workspace.get(), nullptr);
    const std::vector<bfloat16> found = out.download(), entered = cache.download();

    rms_norm(normed.get(), kLatent, nullptr, rows.get(), kWidth, norm.get(), kTokens, kLatent, 1e-6f, nullptr);
    rope_rotate(rotated.get() + kNope, kHeads * kHead, kHeads, kHead, kRope, cos.get(), sin.get(), positions.get(),
                kTokens, false, halves, nullptr);
    rope_rotate(rows.get() + kLatent, kWidth, 1, kRope, kRope, cos.get(), sin.get(), positions.get(), kTokens, false,
                halves, nullptr);
    write_latent_cache<bfloat16>(expected.get(), kEntries, slot.get(), normed.get(), kLatent, kLatent,
                                 rows.get() + kLatent, kWidth, kRope, kTokens, nullptr);
    // The squares of the norm are added in another order.
    EXPECT_LT(relative_difference(entered, expected.download()), kOrderOfSums<bfloat16>);
    EXPECT_LT(relative_difference(found, attend_plainly(in, rotated.get())), 8e-3) << halves;
  }
}

}  // namespace
}  // namespace deeptitan::cuda
