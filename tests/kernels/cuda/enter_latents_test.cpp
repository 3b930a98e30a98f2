// What a prompt's tokens enter into the latent cache, against the kernels that do it one after another.

#include "kernels/cuda/attention/enter_latents.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

struct EnterCase {
  int64_t tokens, heads, nope, rope, latent;
  bool halves;
};

TEST(EnterLatents, HasTheBitsOfItsOps) {
  DT_SKIP_WITHOUT_GPU();
  const std::vector<EnterCase> cases = {{513, 16, 128, 64, 512, false}, {70, 16, 128, 64, 512, true},
                                        {1, 3, 40, 16, 256, false},     {37, 128, 128, 64, 512, false},
                                        {5, 1, 8, 8, 1024, true},       {129, 5, 64, 40, 256, false}};
  for (const auto& [tokens, heads, nope, rope, latent, halves] : cases) {
    constexpr int64_t kPositions = 700;
    const int64_t width = latent + rope, head = nope + rope, pairs = rope / 2, entries = tokens + 9;
    // Entries in an order of their own; some tokens have none, some no position, one lies outside.
    std::vector<int32_t> slots(tokens), places(tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      slots[t] = static_cast<int32_t>(t % 11 == 7 ? -1 : entries - 1 - t);
      places[t] = static_cast<int32_t>(t % 13 == 5 ? -1 : (t * 31) % kPositions);
    }
    if (tokens > 2) slots[2] = static_cast<int32_t>(entries);
    DeviceBuffer<bfloat16> cache(random_elements<bfloat16>(entries * width, 1)), expected(cache.download());
    DeviceBuffer<bfloat16> query(random_elements<bfloat16>(tokens * heads * head, 2)), rotated(query.download());
    DeviceBuffer<bfloat16> rows(random_elements<bfloat16>(tokens * width, 3)), normed(tokens * latent);
    DeviceBuffer<float> weight(random_elements<float>(latent, 4)), cos(random_elements<float>(kPositions * pairs, 5)),
        sin(random_elements<float>(kPositions * pairs, 6));
    DeviceBuffer<int32_t> slot(slots), positions(places);
    const EnteredPrompt in{.entered = {.cache = cache.get(),
                                       .entries = entries,
                                       .slot = slot.get(),
                                       .kv_latent = rows.get(),
                                       .ld_latent = width,
                                       .norm_weight = weight.get(),
                                       .epsilon = 1e-6f,
                                       .cos = cos.get(),
                                       .sin = sin.get(),
                                       .positions = positions.get(),
                                       .halves = halves},
                           .query = query.get(),
                           .ld_query = heads * head,
                           .tokens = tokens,
                           .heads = heads,
                           .nope_dim = nope,
                           .rope_dim = rope,
                           .latent_dim = latent};
    ASSERT_TRUE(enter_latents_fit(in)) << tokens;
    enter_latents(in, nullptr);
    rms_norm(normed.get(), latent, nullptr, rows.get(), width, weight.get(), tokens, latent, 1e-6f, nullptr);
    rope_rotate(rotated.get() + nope, heads * head, heads, head, rope, cos.get(), sin.get(), positions.get(), tokens,
                false, halves, nullptr);
    rope_rotate(rows.get() + latent, width, 1, rope, rope, cos.get(), sin.get(), positions.get(), tokens, false, halves,
                nullptr);
    write_latent_cache<bfloat16>(expected.get(), entries, slot.get(), normed.get(), latent, latent, rows.get() + latent,
                                 width, rope, tokens, nullptr);
    EXPECT_TRUE(same_bytes(query.download(), rotated.download())) << tokens << " tokens, " << heads << " heads";
    EXPECT_TRUE(same_bytes(cache.download(), expected.download())) << tokens << " tokens, latents of " << latent;
  }
}

TEST(EnterLatents, FitsOnlyWhereEightNeighboursLieTogether) {
  const EnteredPrompt whole{.entered = {.ld_latent = 576},
                            .ld_query = 192,
                            .tokens = 9,
                            .heads = 1,
                            .nope_dim = 128,
                            .rope_dim = 64,
                            .latent_dim = 512};
  EXPECT_TRUE(enter_latents_fit(whole));
  const auto fits_with = [&](auto change) {
    EnteredPrompt changed = whole;
    change(changed);
    return enter_latents_fit(changed);
  };
  EXPECT_FALSE(fits_with([](EnteredPrompt& e) { e.latent_dim = 500; }));
  EXPECT_FALSE(fits_with([](EnteredPrompt& e) { e.latent_dim = 768; }));
  EXPECT_FALSE(fits_with([](EnteredPrompt& e) { e.rope_dim = 12; }));
  EXPECT_FALSE(fits_with([](EnteredPrompt& e) { e.entered.ld_latent = 580; }));
  EXPECT_FALSE(fits_with([](EnteredPrompt& e) { e.entered.kv_latent = reinterpret_cast<const bfloat16*>(8); }));
}

}  // namespace
}  // namespace deeptitan::cuda
