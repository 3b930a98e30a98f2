#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/golden_case.h"
#include "support/compare.h"
#include "support/data_folder.h"
#include "support/gpu.h"

// The whole model against Hugging Face transformers (made to follow DeepSeek's published code where the two differ),
// forward and backward. DEEPTITAN_WRITE_FIDELITY=1 writes what is measured into docs/fidelity.md.

namespace deeptitan {
namespace {

using testing::GoldenCase;
using testing::relative_error;
using testing::TrainingOutcome;

constexpr double kTolerance = 1e-5;  // fp32, ||a - b|| / ||b|| of any tensor
constexpr std::string_view kTableBegins = "<!-- table: written by model_test -->\n";
constexpr std::string_view kTableEnds = "<!-- end of table -->\n";

std::vector<float> rows_of(const std::vector<float>& logits, const std::vector<int32_t>& rows, int64_t width) {
  std::vector<float> result;
  for (const int32_t row : rows) {
    result.insert(result.end(), logits.begin() + row * width, logits.begin() + (row + 1) * width);
  }
  return result;
}

// A tensor's largest error among many, and its name.
struct Worst {
  double error = 0;
  std::string name;

  void add(double found, const std::string& of) {
    if (found < error) return;
    error = found;
    name = of;
  }
};

// The error of each parameter, and the largest.
struct GradientErrors {
  Worst worst;
  std::map<std::string, double> by_name;
};

GradientErrors gradient_errors(const GoldenCase& golden, const TrainingOutcome& outcome) {
  GradientErrors errors;
  for (const auto& [name, gradient] : outcome.gradients) {
    const double error = relative_error(gradient, golden.floats("gradients/" + name));
    errors.by_name[name] = error;
    errors.worst.add(error, name);
  }
  return errors;
}

std::vector<int32_t> sorted_choices(std::vector<int32_t> index, size_t tokens) {
  const auto top_k = static_cast<std::ptrdiff_t>(index.size() / tokens);
  for (auto row = index.begin(); row != index.end(); row += top_k) std::sort(row, row + top_k);
  return index;
}

std::string fp32_columns(const GoldenCase& golden, Device device = {}) {
  const std::vector<int32_t> tokens = golden.tokens();
  const int64_t vocab = golden.config().vocab_size;
  Worst logits;
  for (const size_t length : {size_t{1}, size_t{7}, tokens.size()}) {
    const std::string name = "logits/" + std::to_string(length);
    std::vector<float> found = testing::inference_logits(golden, DType::kF32, {tokens.data(), length}, false, device);
    if (length == tokens.size()) found = rows_of(found, golden.integers("rows"), vocab);
    logits.add(relative_error(found, golden.floats(name)), name);
  }
  EXPECT_LE(logits.error, kTolerance) << golden.name() << " " << logits.name;

  const TrainingOutcome outcome = testing::train_once(golden, DType::kF32, false, device);
  EXPECT_NEAR(outcome.loss, golden.floats("loss")[0], 1e-6 * outcome.loss) << golden.name();
  if (golden.expected().find("mtp_loss") != nullptr) {
    EXPECT_NEAR(outcome.mtp_loss, golden.floats("mtp_loss")[0], 1e-6 * outcome.mtp_loss) << golden.name();
  }
  for (const auto& [layer, index] : outcome.expert_index) {
    EXPECT_EQ(sorted_choices(index, tokens.size()),
              sorted_choices(golden.integers("routes/" + std::to_string(layer)), tokens.size()))
        << golden.name() << " layer " << layer;
  }
  const GradientErrors errors = gradient_errors(golden, outcome);
  for (const auto& [name, error] : errors.by_name) EXPECT_LE(error, kTolerance) << golden.name() << " " << name;
  const auto expected =
      static_cast<size_t>(std::count_if(golden.expected().tensors().begin(), golden.expected().tensors().end(),
                                        [](const TensorEntry& entry) { return entry.name.starts_with("gradients/"); }));
  EXPECT_EQ(errors.by_name.size(), expected) << golden.name() << ": a parameter is missing or has no reference";
  return fmt::format("{:.1e} | {:.1e} (`{}`)", logits.error, errors.worst.error, errors.worst.name);
}

// Each distance is one draw: with other random weights it moves by a tenth and more, up as often as down.
constexpr double kChance = 1.1;
// A single parameter may have as few as 16 elements, whose distance from fp32 is a matter of chance in the reference as
// it is here: over 350 parameters the largest ratio found is below 2. A term that is rounded where it should not be, or
// left out, shows as 4 and more.
constexpr double kLargestRatio = 2.5;

// In bf16 two right results differ by chance: ours is to be as close to fp32 as the reference in bf16 is, in the logits
// and in the gradients of all parameters (the root of the mean of their squared errors).
std::string bf16_columns(const GoldenCase& golden, Device device = {}) {
  const std::vector<int32_t> tokens = golden.tokens();
  const std::vector<float> logits = rows_of(testing::inference_logits(golden, DType::kBF16, tokens, true, device),
                                            golden.integers("rows"), golden.config().vocab_size);
  const double error = relative_error(logits, golden.floats("logits/" + std::to_string(tokens.size())));
  const double reference = golden.floats("bf16/logits")[0];
  EXPECT_LE(error, kChance * reference) << golden.name() << " logits in bf16";
  Worst ratio;
  double squares = 0;
  double reference_squares = 0;
  const GradientErrors errors = gradient_errors(golden, testing::train_once(golden, DType::kBF16, true, device));
  for (const auto& [name, found] : errors.by_name) {
    const double of_reference = golden.floats("bf16/gradients/" + name)[0];
    EXPECT_LE(found, kLargestRatio * of_reference) << golden.name() << " " << name << " in bf16";
    ratio.add(found / of_reference, name);
    squares += found * found;
    reference_squares += of_reference * of_reference;
  }
  const auto count = static_cast<double>(errors.by_name.size());
  EXPECT_LE(std::sqrt(squares), kChance * std::sqrt(reference_squares)) << golden.name() << " gradients in bf16";
  return fmt::format("{:.1e} of {:.1e} | {:.1e} of {:.1e} | {:.2f} (`{}`)", error, reference,
                     std::sqrt(squares / count), std::sqrt(reference_squares / count), ratio.error, ratio.name);
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The same on a GPU, held to the same bounds.
class GoldenModelOnGpu : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { DT_TAKE_GPU(device_); }
  Device device_;
};

TEST_P(GoldenModelOnGpu, F32) {
  std::cout << GetParam() << ": " << fp32_columns(GoldenCase(GetParam()), device_) << "\n";
}

TEST_P(GoldenModelOnGpu, Bf16) {
  std::cout << GetParam() << ": " << bf16_columns(GoldenCase(GetParam()), device_) << "\n";
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenModelOnGpu, ::testing::ValuesIn(GoldenCase::names()),
                         [](const auto& parameter) { return parameter.param; });

TEST(GoldenModel, WhatIsRecomputedHasTheSameBits) {
  for (const std::string& name : GoldenCase::names()) {
    const GoldenCase golden(name);
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const TrainingOutcome kept = testing::train_once(golden, compute, false);
      for (const Recomputation what : {Recomputation::kCheap, Recomputation::kLayers}) {
        const TrainingOutcome found = testing::train_once(golden, compute, false, {}, what);
        EXPECT_EQ(found.loss, kept.loss) << name;
        EXPECT_EQ(found.mtp_loss, kept.mtp_loss) << name;
        EXPECT_TRUE(found.gradients == kept.gradients) << name << (compute == DType::kF32 ? " fp32" : " bf16");
      }
    }
  }
}

TEST(GoldenModel, LogitsAndGradientsEqualTheReference) {
  std::string table =
      "| case | logits, fp32 | gradients, fp32: worst parameter | logits, bf16: ours of theirs | gradients, bf16: ours "
      "of "
      "theirs | largest ratio of a parameter | reference |\n|---|---|---|---|---|---|---|\n";
  for (const std::string& name : GoldenCase::names()) {
    const GoldenCase golden(name);
    const std::string reference =
        fmt::format("transformers {}, torch {}", golden.version_of("transformers"), golden.version_of("torch"));
    table += fmt::format("| {} | {} | {} | {} |\n", name, fp32_columns(golden), bf16_columns(golden), reference);
  }
  std::cout << table;

  const std::filesystem::path page = testing::data_folder().parent_path() / "docs" / "fidelity.md";
  std::string text = read(page);
  const size_t begin = text.find(kTableBegins);
  const size_t end = text.find(kTableEnds);
  ASSERT_TRUE(begin != std::string::npos && end != std::string::npos) << page << " lacks the marks of its table";
  const size_t first = begin + kTableBegins.size();
  if (const char* write = std::getenv("DEEPTITAN_WRITE_FIDELITY"); write != nullptr && *write == '1') {
    std::ofstream(page, std::ios::binary) << text.replace(first, end - first, table);
    return;
  }
  // The figures differ a little from chip to chip; the cases and the reference's version must be those of the fixtures.
  const auto ends_of_rows = [](const std::string& rows) {
    std::vector<std::string> result;
    std::istringstream lines(rows);
    for (std::string line; std::getline(lines, line);) {
      const size_t last = line.rfind('|', line.size() - 2);
      result.push_back(line.substr(0, line.find('|', 1)) + line.substr(last));
    }
    return result;
  };
  EXPECT_EQ(ends_of_rows(text.substr(first, end - first)), ends_of_rows(table))
      << "run this test with DEEPTITAN_WRITE_FIDELITY=1 to write " << page;
}

}  // namespace
}  // namespace deeptitan
