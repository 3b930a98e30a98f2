#include "kernels/cuda/sampling/choose_tokens.h"

#include <cmath>
#include <limits>
#include <utility>
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

struct Rows {
  std::vector<float> logits = {};
  std::vector<TokenChoice> choices = {};
  std::vector<uint32_t> allowed = {}, earlier = {};
  int64_t vocab = 0;
  int64_t stride() const { return vocab + 3; }
  int64_t count() const { return std::ssize(choices); }
};

/// Rows of normal values times `spread` for these choices; where there are `steps`, rounded to so many a unit.
Rows random_rows(std::vector<TokenChoice> choices, int64_t vocab, float spread, float steps = 0) {
  Rows rows = {.choices = std::move(choices), .vocab = vocab};
  rows.logits = random_elements<float>(rows.count() * rows.stride(), 91, spread);
  if (steps > 0) {
    for (float& logit : rows.logits) logit = std::round(logit * steps) / steps;
  }
  rows.allowed.resize(choice_words(vocab));
  rows.earlier.resize(rows.count() * choice_words(vocab));
  for (size_t i = 0; i < rows.allowed.size(); ++i) {
    rows.allowed[i] = static_cast<uint32_t>(random_bits(92, i) | random_bits(93, i));
  }
  for (size_t i = 0; i < rows.earlier.size(); ++i) rows.earlier[i] = static_cast<uint32_t>(random_bits(94, i));
  rows.allowed.back() &= vocab % 32 == 0 ? ~0u : (1u << vocab % 32) - 1;
  rows.allowed[0] |= 1;
  return rows;
}

/// All at once, and by themselves those of which a row has more parts.
void expect_tokens_of_the_cpu(const Rows& rows, const std::vector<int64_t>& by_themselves) {
  DeviceBuffer<float> logits(rows.logits);
  DeviceBuffer<TokenChoice> choices(rows.choices);
  DeviceBuffer<uint32_t> allowed(rows.allowed), earlier(rows.earlier);
  DeviceBuffer<int32_t> chosen(rows.count());
  DeviceBuffer<char> workspace(choose_tokens_workspace(rows.count(), rows.vocab));
  const auto from = [&](int64_t row) {
    return RowsOfLogits{.logits = logits.get() + row * rows.stride(),
                        .stride = rows.stride(),
                        .choices = choices.get() + row,
                        .allowed = allowed.get(),
                        .earlier = earlier.get() + row * choice_words(rows.vocab),
                        .vocab = rows.vocab};
  };
  choose_tokens(chosen.get(), from(0), rows.count(), workspace.get(), nullptr);
  std::vector<int32_t> expected(rows.count());
  cpu::choose_tokens(expected.data(), rows.logits.data(), rows.stride(), rows.choices.data(), rows.allowed.data(),
                     rows.earlier.data(), rows.count(), rows.vocab);
  const std::vector<int32_t> found = chosen.download();
  for (int64_t row = 0; row < rows.count(); ++row) {
    const TokenChoice& c = rows.choices[row];
    EXPECT_EQ(found[row], expected[row]) << rows.vocab << " tokens, row " << row << ": temperature " << c.temperature
                                         << ", top-k " << c.top_k << ", top-p " << c.top_p << ", least weight "
                                         << c.least_weight << ", penalty " << c.penalty;
  }
  for (const int64_t row : by_themselves) {
    choose_tokens(chosen.get(), from(row), 1, workspace.get(), nullptr);
    EXPECT_EQ(chosen.download()[0], expected[row]) << rows.vocab << " tokens, row " << row << " by itself";
  }
}

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
          choices.back().penalty = choices.size() % 3 == 0 ? 1.3f : 1.0f;
        }
      }
      choices.push_back({1.0, 0, 0});
      choices.push_back({1.0, 0, ~uint64_t{0}});
      Rows rows = random_rows(std::move(choices), vocab, spread);
      if (vocab > 40) {
        rows.logits[2 * rows.stride() + 40] = std::numeric_limits<float>::quiet_NaN();
        rows.logits[7 * rows.stride() + 32] = -std::numeric_limits<float>::infinity();
      }
      expect_tokens_of_the_cpu(rows, {2, 4, 13});
      rows.allowed.assign(rows.allowed.size(), 0);
      expect_tokens_of_the_cpu(rows, {});
    }
  }
}

// Bins that hold one token, some, and more than are sorted at once; ties across the k-th and across what reaches p;
// cuts before the first token and behind the last.
TEST(ChooseTokens, ByTheOrderOfTheLikeliestAreThoseOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  struct Logits {
    float spread, steps;
  };
  for (const int64_t vocab : {1, 33, 1000, 5000, 102400}) {
    if (only_small_sizes() && vocab > 1000) continue;
    for (const Logits logits : {Logits{0, 0}, {0.001f, 0}, {1, 0}, {8, 0}, {1, 2}, {2, 64}, {1e30f, 0}, {1e-30f, 0}}) {
      std::vector<TokenChoice> choices;
      for (const double temperature : {1e-100, 0.05, 1.0, 40.0, 1e100}) {
        if (only_small_sizes() && temperature != 1) continue;
        for (const int32_t top_k : {0, 1, 50, 3000, 99999}) {
          for (const double top_p : {1.0, 0.9999999, 0.9, 0.3, 1e-12}) {
            if (top_k == 0 && top_p == 1) continue;
            const size_t i = choices.size();
            choices.push_back({.temperature = temperature,
                               .least_weight = i % 3 == 0 ? 0x1p44 * 0.3 : 0,
                               .bits = i % 5 == 0 ? ~uint64_t{0} : random_bits_64(95, i),
                               .top_p = top_p,
                               .top_k = top_k,
                               .penalty = i % 4 == 0 ? 1.2f : 1});
          }
        }
      }
      expect_tokens_of_the_cpu(random_rows(std::move(choices), vocab, logits.spread, logits.steps), {5, 20, 23});
    }
  }
}

TEST(ChooseTokens, OfTooManyAreRefused) {
  expect_runtime_error([] { choose_tokens(nullptr, {.vocab = kMostChoices + 1}, 1, nullptr, nullptr); },
                       "a GPU chooses among at most 524288 tokens, found 524289");
}

}  // namespace
}  // namespace deeptitan::cuda
