#include "kernels/cuda/loss/cross_entropy.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/loss/cross_entropy.h"
#include "kernels/cpu/optimizer/adamw.h"
#include "kernels/cpu/optimizer/gradient_norm.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "kernels/cuda/optimizer/step_state.h"
#include "kernels/cuda/typed_elements.h"
#include "kernels/step_math.h"

namespace deeptitan::cuda {
namespace {

/// Targets of which every fifth bears no loss.
std::vector<int32_t> draw_targets(int64_t rows, int64_t vocab) {
  std::vector<int32_t> targets(rows);
  for (int64_t r = 0; r < rows; ++r) {
    targets[r] = r % 5 == 3 ? cpu::kIgnoredTarget : static_cast<int32_t>(random_bits(40, r) % vocab);
  }
  return targets;
}

template <typename T>
class CrossEntropy : public OverElementTypes<T> {};
TYPED_TEST_SUITE(CrossEntropy, ElementTypes, ElementName);

TYPED_TEST(CrossEntropy, LossAndGradient) {
  using T = TypeParam;
  struct Rows {
    int64_t rows, vocab, gap;
  };
  // The last ones are long rows of whole words, which a cluster holds, and such a row that is not.
  for (const auto& [rows, vocab, gap] : {Rows{1, 1, 3},
                                         {40, 77, 3},
                                         {33, 9001, 3},
                                         {4, 32'772, 4},
                                         {21, 102'400, 0},
                                         {2, 129'280, 8},
                                         {4, 102'400, 3}}) {
    const int64_t ld = vocab + gap;
    const auto logits = random_elements<float>(rows * ld, 41, 4.0f);
    const std::vector<int32_t> targets = draw_targets(rows, vocab);
    std::vector<float> loss(rows);
    std::vector<T> d_logits(rows * vocab);
    cpu::softmax_cross_entropy(loss.data(), d_logits.data(), vocab, logits.data(), ld, targets.data(), 0.25f, rows,
                               vocab);
    DeviceBuffer<float> device_logits(logits), device_loss(rows);
    DeviceBuffer<double> scale(std::vector<double>{0.25});
    DeviceBuffer<T> device_d_logits(rows * vocab);
    DeviceBuffer<int32_t> device_targets(targets);
    softmax_cross_entropy(device_loss.get(), device_d_logits.get(), vocab, device_logits.get(), ld,
                          device_targets.get(), scale.get(), rows, vocab, nullptr);
    EXPECT_LT(relative_difference(device_loss.download(), loss), 2e-6);
    EXPECT_LT(relative_difference(device_d_logits.download(), d_logits), kOrderOfSums<T>);
    softmax_cross_entropy(device_loss.get(), static_cast<T*>(nullptr), 0, device_logits.get(), ld, device_targets.get(),
                          scale.get(), rows, vocab, nullptr);
    EXPECT_LT(relative_difference(device_loss.download(), loss), 2e-6) << "without gradient";
    if constexpr (std::is_same_v<T, float>) {
      softmax_cross_entropy(device_loss.get(), device_logits.get(), ld, device_logits.get(), ld, device_targets.get(),
                            scale.get(), rows, vocab, nullptr);
      const std::vector<float> in_place = device_logits.download();
      std::vector<float> dense;
      for (int64_t r = 0; r < rows; ++r) {
        dense.insert(dense.end(), &in_place[r * ld], &in_place[r * ld] + vocab);
      }
      EXPECT_LT(relative_difference(dense, d_logits), kOrderOfSums<T>) << "in place";
    }
  }
}

// What is not finite, and logits of minus infinity that fill the whole part of a thread, of a block or of all but one.
TEST(CrossEntropyOfLongRows, HasNoLessThanAnInfinityToSay) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 8, kVocab = 40'960;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  auto logits = random_elements<float>(kRows * kVocab, 48, 4.0f);
  std::vector<int32_t> targets(kRows, 12'345);
  logits[1 * kVocab + 77] = std::numeric_limits<float>::quiet_NaN();
  logits[2 * kVocab + 40'000] = kInfinity;
  std::fill_n(&logits[3 * kVocab], kVocab / 2, -kInfinity);
  targets[3] = 30'000;
  std::fill_n(&logits[4 * kVocab], kVocab, -kInfinity);
  logits[4 * kVocab + 12'345] = -3.0f;
  targets[5] = kVocab;
  targets[6] = -5;
  logits[7 * kVocab + 12'345] = 80.0f;  // the target is sure
  std::vector<float> loss(kRows), d_logits(kRows * kVocab);
  cpu::softmax_cross_entropy(loss.data(), d_logits.data(), kVocab, logits.data(), kVocab, targets.data(), 0.25f, 5,
                             kVocab);
  cpu::softmax_cross_entropy(&loss[7], &d_logits[7 * kVocab], kVocab, &logits[7 * kVocab], kVocab, &targets[7], 0.25f,
                             1, kVocab);
  DeviceBuffer<float> device_logits(logits), device_loss(kRows), device_d_logits(kRows * kVocab);
  DeviceBuffer<double> scale(std::vector<double>{0.25});
  DeviceBuffer<int32_t> device_targets(targets);
  const auto run = [&] {
    softmax_cross_entropy(device_loss.get(), device_d_logits.get(), kVocab, device_logits.get(), kVocab,
                          device_targets.get(), scale.get(), kRows, kVocab, nullptr);
    return device_d_logits.download();
  };
  const std::vector<float> found = run();
  const std::vector<float> found_loss = device_loss.download();
  for (const int64_t r : {0, 3, 4, 7}) {
    EXPECT_NEAR(found_loss[r], loss[r], 2e-6 * std::fabs(loss[r]) + 1e-6) << r;
    const auto row = [&](const std::vector<float>& all) {
      return std::vector<float>(&all[r * kVocab], &all[r * kVocab] + kVocab);
    };
    EXPECT_LT(relative_difference(row(found), row(d_logits)), kOrderOfSums<float>) << r;
  }
  for (const int64_t r : {1, 2, 5, 6}) EXPECT_TRUE(std::isnan(found_loss[r])) << r;
  for (const int64_t r : {1, 2}) EXPECT_TRUE(std::isnan(found[r * kVocab + 40'000])) << r;
  EXPECT_TRUE(same_bytes(run(), found)) << "another time";
}

TEST(TokenLogprobs, TiesGoToTheLowestAndNaNIsSeen) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 20, kVocab = 1031;
  auto logits = random_elements<float>(kRows * kVocab, 42);
  logits[5 * kVocab + 700] = logits[5 * kVocab + 300] = logits[5 * kVocab + 1030] = 9.0f;
  logits[6 * kVocab + 20] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> targets = draw_targets(kRows, kVocab);
  std::vector<float> logprob(kRows);
  std::vector<int32_t> argmax(kRows);
  cpu::token_logprobs(logprob.data(), argmax.data(), logits.data(), kVocab, targets.data(), kRows, kVocab);
  DeviceBuffer<float> device_logits(logits), device_logprob(kRows);
  DeviceBuffer<int32_t> device_argmax(kRows), device_targets(targets);
  token_logprobs(device_logprob.get(), device_argmax.get(), device_logits.get(), kVocab, device_targets.get(), kRows,
                 kVocab, nullptr);
  const std::vector<float> found = device_logprob.download();
  const std::vector<int32_t> best = device_argmax.download();
  EXPECT_EQ(best[5], 300);
  for (int64_t r = 0; r < kRows; ++r) {
    if (r == 6) {
      EXPECT_TRUE(std::isnan(found[r]));
      continue;
    }
    EXPECT_EQ(best[r], argmax[r]) << r;
    EXPECT_NEAR(found[r], logprob[r], 2e-6 * std::fabs(logprob[r]) + 1e-6) << r;
  }
}

TEST(Sums, AreThoseOfDoublesAndTheSameEachTime) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t n : {0, 1, 1000, 1'234'567}) {
    const auto x = random_elements<float>(n, 43);
    double sum = 0, squares = 0;
    for (const float value : x) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    DeviceBuffer<float> device(x);
    DeviceBuffer<double> result(std::vector<double>{0, 3}), parts(kSumWorkspace), workspace(kSumWorkspace);
    add_sum_fixed_order(result.get(), device.get(), n, workspace.get(), nullptr);
    add_sum_fixed_order(result.get() + 1, device.get(), n, workspace.get(), nullptr);
    const std::vector<double> first = result.download();
    EXPECT_NEAR(first[0], sum, 1e-9 * (1 + n));
    EXPECT_EQ(first[1], 3 + first[0]) << n;
    square_sums(parts.get(), device.get(), n, nullptr);
    const std::vector<double> first_parts = parts.download();
    EXPECT_NEAR(std::accumulate(first_parts.begin(), first_parts.end(), 0.0), squares, 1e-12 * (1 + squares));
    square_sums(parts.get(), device.get(), n, nullptr);
    EXPECT_TRUE(same_bytes(parts.download(), first_parts)) << n;
    auto behind_one = x;
    behind_one.insert(behind_one.begin(), 7.0f);
    DeviceBuffer<float> not_in_words(behind_one);
    square_sums(parts.get(), not_in_words.get() + 1, n, nullptr);
    EXPECT_TRUE(same_bytes(parts.download(), first_parts)) << n << ", wherever they lie";
  }
}

/// A valid step state on the device.
DeviceBuffer<StepState> device_state(int64_t updates, float clip) {
  StepState state;
  state.in.learning_rate = 3e-4;
  state.out.clip = clip;
  state.out.updates = updates;
  return DeviceBuffer<StepState>(std::vector<StepState>{state});
}

std::vector<bfloat16> in_bf16(const std::vector<float>& x) {
  std::vector<bfloat16> rounded(x.size());
  std::transform(x.begin(), x.end(), rounded.begin(), to_bfloat16);
  return rounded;
}

TEST(AdamW, HasTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kCount = 100'003;
  auto parameter = random_elements<float>(kCount, 44), m = random_elements<float>(kCount, 45, 0.1f);
  auto v = random_elements<float>(kCount, 46, 0.1f);
  for (float& value : v) value *= value;
  DeviceBuffer<float> device_parameter(parameter), device_m(m), device_v(v);
  DeviceBuffer<bfloat16> rounded(kCount);
  for (const int64_t step : {1, 2, 1000, 123'456}) {
    const auto gradient = random_elements<float>(kCount, 47 + step);
    DeviceBuffer<float> device_gradient(gradient);
    DeviceBuffer<StepState> state = device_state(step, 0.37f);
    cpu::adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), kCount, 3e-4, 0.1, 0.37f, step, {});
    adamw_update(device_parameter.get(), device_m.get(), device_v.get(), rounded.get(), device_gradient.get(), kCount,
                 0.1, {}, state.get(), nullptr);
    EXPECT_TRUE(same_bytes(device_parameter.download(), parameter)) << step;
    EXPECT_TRUE(same_bytes(device_m.download(), m)) << step;
    EXPECT_TRUE(same_bytes(device_v.download(), v)) << step;
    EXPECT_TRUE(same_bytes(rounded.download(), in_bf16(parameter))) << step;
  }
}

// Places that begin anywhere in a word of four, arrays that begin and end anywhere in one: `lead` elements lie before
// the array, so that with (lead, first) both 3 its fours are whole words although it begins within one.
TEST(AdamW, RoundsMomentsWithTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  const auto behind = [](int64_t lead, const auto& x) {
    auto all = x;
    all.insert(all.begin(), lead, {});
    return all;
  };
  for (const int64_t count : {int64_t{1}, int64_t{1023}, int64_t{1025}, int64_t{100'003}, int64_t{5'000'001}}) {
    for (const auto& [lead, first] : {std::pair<int64_t, int64_t>{0, 0}, {0, 3}, {3, 3}, {1, (int64_t{1} << 34) + 2}}) {
      const RoundingPlace place{rounding_key("model.embed_tokens.weight"), first};
      auto parameter = random_elements<float>(count, 44);
      std::vector<bfloat16> m(count), v(count);
      DeviceBuffer<float> device_parameter(behind(lead, parameter));
      DeviceBuffer<bfloat16> device_m(behind(lead, m)), device_v(behind(lead, v));
      DeviceBuffer<bfloat16> rounded(behind(lead, std::vector<bfloat16>(count)));
      for (const int64_t step : {1, 2, 123'456}) {
        auto gradient = random_elements<float>(count, 47 + step);
        if (step == 123'456) gradient.back() = std::numeric_limits<float>::infinity();
        DeviceBuffer<float> device_gradient(behind(lead, gradient));
        DeviceBuffer<StepState> state = device_state(step, 0.37f);
        cpu::adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), count, 3e-4, 0.1, 0.37f, step, {},
                          place);
        adamw_update(device_parameter.get() + lead, device_m.get() + lead, device_v.get() + lead, rounded.get() + lead,
                     device_gradient.get() + lead, count, 0.1, {}, place, state.get(), nullptr);
        const std::string where = fmt::format("{} from {} behind {}, step {}", count, first, lead, step);
        EXPECT_TRUE(same_bytes(device_m.download(), behind(lead, m))) << where;
        EXPECT_TRUE(same_bytes(device_v.download(), behind(lead, v))) << where;
        if (step == 123'456) continue;  // infinity over infinity: which NaN it is, is the device's affair
        EXPECT_TRUE(same_bytes(device_parameter.download(), behind(lead, parameter))) << where;
        EXPECT_TRUE(same_bytes(rounded.download(), behind(lead, in_bf16(parameter)))) << where;
      }
    }
  }
}

TEST(StepStateOnGpu, IsDecidedAsOnTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t parameters : {1, 3, 700}) {
    std::vector<double> sums(parameters * kSumWorkspace);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = 1e-3 * random_uniform(60, static_cast<int64_t>(i));
    for (const double loss : {2.0, std::numeric_limits<double>::quiet_NaN()}) {
      StepState expected;
      expected.out.updates = 6;
      expected.out.clip = 0.1f;
      DeviceBuffer<StepState> state(std::vector<StepState>{expected});
      DeviceBuffer<double> device_sums(sums);
      begin_output(expected.out);
      begin_step_output(state.get(), nullptr);
      expected.out.loss_sum = loss;
      DeviceBuffer<float> device_loss(std::vector<float>{static_cast<float>(loss)});
      DeviceBuffer<double> workspace(kSumWorkspace);
      add_sum_fixed_order(&state.get()->out.loss_sum, device_loss.get(), 1, workspace.get(), nullptr);
      expected.out.gradient_squares = cpu::add_square_sums(sums.data(), parameters);
      decide_step(expected, 0.25, true);
      finish_gradient(state.get(), device_sums.get(), parameters, 0.25, true, nullptr);
      const StepState found = state.download()[0];
      EXPECT_EQ(found.out.gradient_squares, expected.out.gradient_squares) << parameters;
      EXPECT_EQ(found.out.clip, expected.out.clip);
      EXPECT_EQ(found.out.valid, expected.out.valid);
      EXPECT_EQ(found.out.halt, expected.out.halt);
      EXPECT_EQ(found.out.updates, expected.out.updates);
    }
  }
}

}  // namespace
}  // namespace deeptitan::cuda
