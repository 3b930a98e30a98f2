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
#include "kernels/cuda/latent_batch.h"
#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/router/router.h"
#include "kernels/cuda/test_sizes.h"
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
  const std::vector<MixtureCase> cases = {{1, 2048, 8, 6, 1408, 2816}, {16, 2048, 8, 6, 1408, 2816},
                                          {3, 72, 5, 2, 40, 0},        {7, 264, 16, 1, 8, 2056},
                                          {16, 512, 8, 6, 264, 512},   {5, 7168, 9, 8, 512, 512}};
  for (const auto& [tokens, hidden, experts, top_k, width, shared] : cases) {
    if (only_small_sizes() && hidden > 512) continue;
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

constexpr int64_t kLatent = LatentBatch::kLatent, kRope = LatentBatch::kRope, kWidth = LatentBatch::kWidth;
constexpr int64_t kNope = 128, kValue = 96, kHead = kNope + kRope;

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

/// Decoding's attention on the device, workspace included: rows that enter the cache at `slots` (negative: nowhere) and
/// lie at `places` of their sequences (negative: not rotated).
struct FewLatentBatch {
  static constexpr int64_t kPositions = 130;

  FewLatentBatch(LatentBatch& batch, const std::vector<int32_t>& slots, const std::vector<int32_t>& places,
                 bool halves = false)
      : capacity(batch.shape.capacity),
        query(random_elements<bfloat16>(batch.shape.tokens * batch.shape.heads * kHead, 81)),
        rows(random_elements<bfloat16>(batch.shape.tokens * kWidth, 85)),
        key(random_elements<bfloat16>(batch.shape.heads * kNope * kLatent, 83, 0.1f)),
        value(random_elements<bfloat16>(batch.shape.heads * kValue * kLatent, 84, 0.1f)),
        out(batch.shape.tokens * batch.shape.heads * kValue),
        norm(random_elements<float>(kLatent, 86)),
        cos(random_elements<float>(kPositions * kRope / 2, 87)),
        sin(random_elements<float>(kPositions * kRope / 2, 88)),
        workspace(std::max(latent_tiles_workspace(batch.shape.tokens, batch.shape.heads, kLatent, capacity),
                           sm90_latent_attention_workspace(batch.shape.tokens, batch.shape.heads, capacity))),
        slot(slots),
        positions(places),
        inputs{.out = out.get(),
               .query = query.get(),
               .ld_query = batch.shape.heads * kHead,
               .key_weight = key.get(),
               .value_weight = value.get(),
               .nope_dim = kNope,
               .value_dim = kValue,
               .latent_query = batch.query.get(),
               .entries = batch.rows(),
               .entered = {.cache = batch.cache.get(),
                           .entries = batch.shape.entries(),
                           .slot = slot.get(),
                           .kv_latent = rows.get(),
                           .ld_latent = kWidth,
                           .norm_weight = norm.get(),
                           .epsilon = 1e-6f,
                           .cos = cos.get(),
                           .sin = sin.get(),
                           .positions = positions.get(),
                           .halves = halves}} {
    inputs.by_warpgroups = capability_major(0) == 9 && sm90_latent_attention_fits(inputs.entries);
  }
  std::vector<bfloat16> attend() {
    few_latent_attention(inputs, capacity, workspace.get(), nullptr);
    return out.download();
  }

  int64_t capacity;
  DeviceBuffer<bfloat16> query, rows, key, value, out;
  DeviceBuffer<float> norm, cos, sin, workspace;
  DeviceBuffer<int32_t> slot, positions;
  FewLatentTokens inputs;
};

// Nothing is entered or rotated.
TEST(FewLatent, AreThePlainKernelsAndEachTokenItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [heads, capacity] : {std::pair<int64_t, int64_t>{16, 400}, {5, 9000}, {128, 400}, {64, 9000}}) {
    if (only_small_sizes() && heads > 16) continue;
    LatentBatch batch(ragged_latent_shape(heads, capacity), 80);
    const int64_t tokens = batch.shape.tokens;
    const std::vector<int32_t> none(tokens, -1);
    FewLatentBatch few(batch, none, none);
    if (!few_latent_fit(few.inputs)) GTEST_SKIP() << "this chip has too little shared memory";
    const std::vector<bfloat16> found = few.attend(), found_queries = batch.query.download();
    const std::vector<bfloat16> plain = attend_plainly(few.inputs, few.query.get());
    EXPECT_LT(relative_difference(found_queries, batch.query.download()), kOrderOfSums<bfloat16>);
    // Weights of the entries are rounded to bf16.
    EXPECT_LT(relative_difference(found, plain), 8e-3) << heads;
    for (int64_t i = 8 * heads * kValue; i < tokens * heads * kValue; ++i) EXPECT_EQ(found[i].bits, 0) << "padding";
    few.inputs.entries.tokens = 2;  // the second sequence's token beside fewer
    EXPECT_TRUE(same_first_rows(few.attend(), found, 2 * heads * kValue)) << heads;
  }
}

// A sequence of three rows and three of one; one of them has no slot, and one is at the end of a tile.
TEST(FewLatent, EnterTheCacheAndAttendAsTheirOpsDo) {
  DT_SKIP_WITHOUT_GPU();
  for (const bool halves : {false, true}) {
    const LatentShape shape{.query_offset = {0, 3, 4, 5, 6},
                            .cached_length = {62, 0, 63, 100},
                            .tokens = 6,
                            .heads = 17,
                            .page_size = 64,
                            .pages = 8,
                            .capacity = 128};
    const int64_t tokens = shape.tokens, heads = shape.heads, page_size = shape.page_size;
    std::vector<int32_t> table(shape.pages), slots, places;
    for (int64_t i = 0; i < shape.pages; ++i) table[i] = static_cast<int32_t>(shape.pages - 1 - i);
    for (int64_t s = 0; s < shape.sequences(); ++s) {
      for (int32_t t = shape.query_offset[s]; t < shape.query_offset[s + 1]; ++t) {
        const int32_t place = shape.cached_length[s] + t - shape.query_offset[s];
        places.push_back(place);
        slots.push_back(
            static_cast<int32_t>(table[s * shape.table_width() + place / page_size] * page_size + place % page_size));
      }
    }
    slots[3] = -1;
    places[3] = -1;
    LatentBatch batch(shape, table, random_elements<bfloat16>(shape.entries() * kWidth, 1), 2);
    FewLatentBatch few(batch, slots, places, halves);
    DeviceBuffer<bfloat16> expected(batch.cache.download()), rotated(few.query.download()), normed(tokens * kLatent);
    if (!few_latent_fit(few.inputs)) GTEST_SKIP() << "this chip has too little shared memory";
    const std::vector<bfloat16> found = few.attend(), entered = batch.cache.download();

    const auto rotate = [&](bfloat16* x, int64_t ld, int64_t count, int64_t head) {
      rope_rotate(x, ld, count, head, kRope, few.cos.get(), few.sin.get(), few.positions.get(), tokens, false, halves,
                  nullptr);
    };
    rms_norm(normed.get(), kLatent, nullptr, few.rows.get(), kWidth, few.norm.get(), tokens, kLatent, 1e-6f, nullptr);
    rotate(rotated.get() + kNope, heads * kHead, heads, kHead);
    rotate(few.rows.get() + kLatent, kWidth, 1, kRope);
    write_latent_cache<bfloat16>(expected.get(), shape.entries(), few.slot.get(), normed.get(), kLatent, kLatent,
                                 few.rows.get() + kLatent, kWidth, kRope, tokens, nullptr);
    // The squares of the norm are added in another order.
    EXPECT_LT(relative_difference(entered, expected.download()), kOrderOfSums<bfloat16>);
    EXPECT_LT(relative_difference(found, attend_plainly(few.inputs, rotated.get())), 8e-3) << halves;
  }
}

}  // namespace
}  // namespace deeptitan::cuda
