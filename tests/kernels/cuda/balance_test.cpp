#include "kernels/cuda/router/balance.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/router/balance.h"
#include "kernels/cpu/router/router.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

TEST(RouterBalance, CountsAndBiasHaveTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 6, 300, 384}) {
    std::vector<int32_t> load(experts), counts(experts);
    for (int64_t e = 0; e < experts; ++e) {
      load[e] = static_cast<int32_t>(random_bits(80, e) % 1000);
      counts[e] = static_cast<int32_t>(random_bits(81, e) % 3) * 500;
    }
    auto bias = random_elements<float>(experts, 82, 0.01f);
    DeviceBuffer<int32_t> device_load(load), device_counts(counts);
    DeviceBuffer<float> device_bias(bias);
    accumulate_counts(device_load.get(), device_counts.get(), experts, nullptr);
    DeviceBuffer<int32_t> valid(std::vector<int32_t>{1, 0});
    update_router_bias(device_bias.get(), device_load.get(), experts, 1e-3f, valid.get(), nullptr);
    update_router_bias(device_bias.get(), device_load.get(), experts, 1e-3f, valid.get() + 1, nullptr);  // does nothing
    cpu::accumulate_counts(load.data(), counts.data(), experts);
    cpu::update_router_bias(bias.data(), load.data(), experts, 1e-3f);
    EXPECT_TRUE(same_bytes(device_load.download(), load)) << experts;
    EXPECT_TRUE(same_bytes(device_bias.download(), bias)) << experts;
    for (const bool biased : {false, true}) {
      const cpu::LoadRange range = cpu::load_range(load.data(), biased ? bias.data() : nullptr, experts);
      DeviceBuffer<double> summary(5);
      summarise_load(summary.get(), device_load.get(), biased ? device_bias.get() : nullptr, experts, nullptr);
      EXPECT_EQ(summary.download(),
                (std::vector<double>{static_cast<double>(range.largest), static_cast<double>(range.whole),
                                     static_cast<double>(range.idle), range.lowest_bias, range.highest_bias}));
    }
  }
}

TEST(RouterBalance, SequenceAuxiliaryLossHasTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    for (const int experts : {5, 64, 160, 256, 384}) {
      const std::vector<int32_t> offsets = {0, 40, 40, 41, 300, 4500};
      constexpr int64_t kTokens = 4500;
      RouterOptions options;
      options.scoring = scoring, options.experts = experts, options.top_k = 4;
      const auto logits = random_elements<float>(kTokens * experts, 83);
      std::vector<float> scores(kTokens * experts), weight(kTokens * 4);
      std::vector<int32_t> index(kTokens * 4), counts(experts);
      cpu::route_tokens(index.data(), weight.data(), scores.data(), counts.data(), logits.data(), nullptr, kTokens,
                        options);
      auto d_scores = random_elements<float>(kTokens * experts, 84, 1e-3f);
      double loss = 0.25;
      DeviceBuffer<float> device_scores(scores), device_d_scores(d_scores);
      DeviceBuffer<int32_t> device_index(index), device_offsets(offsets);
      DeviceBuffer<double> device_loss(std::vector<double>{loss}), scale(std::vector<double>{0.5});
      DeviceBuffer<char> workspace(sequence_auxiliary_loss_workspace(5, kTokens, experts));
      sequence_auxiliary_loss(device_loss.get(), device_d_scores.get(), device_scores.get(), device_index.get(),
                              {device_offsets.get(), 5}, kTokens, options, 0.01f, scale.get(), workspace.get(),
                              nullptr);
      cpu::sequence_auxiliary_loss(&loss, d_scores.data(), scores.data(), index.data(), {offsets.data(), 5}, options,
                                   {0.01f, 0.5f});
      EXPECT_EQ(device_loss.download()[0], loss) << experts;
      EXPECT_TRUE(same_bytes(device_d_scores.download(), d_scores)) << experts;
    }
  }
}

}  // namespace
}  // namespace deeptitan::cuda
