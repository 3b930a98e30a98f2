#include "kernels/cuda/sampling/choose_tokens.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/random.h"
#include "kernels/cpu/sampling/choose_tokens.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/typed_elements.h"
#include "support/expect_error.h"

namespace deeptitan::cuda {
namespace {

// By twelve ways to choose at once, at vocabularies of part of a warp's word, of one segment, and of many.
TEST(ChooseTokens, AreThoseOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t vocab : {1, 31, 33, 513, 1000, 102400, 129281}) {
    if (only_small_sizes() && vocab > 1000) continue;
    for (const float spread : {0.0f, 0.1f, 3.0f}) {  // all equal; all likely; few
      std::vector<TokenChoice> choices;
      for (const double temperature : {0.0, 0.3, 1.0, 40.0}) {
        for (const double least : {0.0, 0.05, 1.0}) {
          choices.push_back({temperature, least * 0x1p44, random_bits_64(90, choices.size())});
        }
      }
      choices.push_back({1.0, 0, 0});
      choices.push_back({1.0, 0, ~uint64_t{0}});
      const auto rows = std::ssize(choices);
      const int64_t ld = vocab + 3;
      std::vector<float> logits = random_elements<float>(rows * ld, 91, spread);
      std::vector<uint32_t> allowed(choice_words(vocab));
      for (size_t i = 0; i < allowed.size(); ++i) allowed[i] = static_cast<uint32_t>(random_bits(92, i));
      allowed.back() &= vocab % 32 == 0 ? ~0u : (1u << vocab % 32) - 1;
      allowed[0] |= 1;
      if (vocab > 40) {
        logits[2 * ld + 40] = std::numeric_limits<float>::quiet_NaN();
        logits[7 * ld + 32] = -std::numeric_limits<float>::infinity();
      }
      DeviceBuffer<float> device_logits(logits);
      DeviceBuffer<TokenChoice> device_choices(choices);
      DeviceBuffer<uint32_t> device_allowed(allowed);
      DeviceBuffer<int32_t> chosen(rows);
      DeviceBuffer<char> workspace(choose_tokens_workspace(rows, vocab));
      choose_tokens(chosen.get(), device_logits.get(), ld, device_choices.get(), device_allowed.get(), rows, vocab,
                    workspace.get(), nullptr);
      std::vector<int32_t> expected(rows);
      cpu::choose_tokens(expected.data(), logits.data(), ld, choices.data(), allowed.data(), rows, vocab);
      EXPECT_EQ(chosen.download(), expected) << vocab << " tokens, spread " << spread;
      for (const int64_t row : {2, 4, 13}) {  // a row by itself has more parts
        choose_tokens(chosen.get(), device_logits.get() + row * ld, ld, device_choices.get() + row,
                      device_allowed.get(), 1, vocab, workspace.get(), nullptr);
        EXPECT_EQ(chosen.download()[0], expected[row]) << vocab << " tokens, spread " << spread << ", row " << row;
      }
      DeviceBuffer<uint32_t> none(std::vector<uint32_t>(allowed.size(), 0));
      choose_tokens(chosen.get(), device_logits.get(), ld, device_choices.get(), none.get(), rows, vocab,
                    workspace.get(), nullptr);
      EXPECT_EQ(chosen.download(), std::vector<int32_t>(rows, -1)) << "none may be chosen";
    }
  }
}

TEST(ChooseTokens, OfTooManyAreRefused) {
  expect_runtime_error(
      [] { choose_tokens(nullptr, nullptr, 0, nullptr, nullptr, 1, kMostChoices + 1, nullptr, nullptr); },
      "a GPU chooses among at most 524288 tokens, found 524289");
}

}  // namespace
}  // namespace deeptitan::cuda
