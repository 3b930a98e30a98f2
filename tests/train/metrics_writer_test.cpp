#include "train/metrics_writer.h"

#include <limits>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temporary_folder.h"
#include "train/loss_curve.h"

namespace deeptitan {
namespace {

StepMetrics plain(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.tokens = 10 * step;
  m.loss = 2.5;
  return m;
}

TEST(MetricsRecord, HoldsEveryKeyOnOneLine) {
  StepMetrics m = plain(3);
  m.learning_rate = 0.001;
  m.gradient_norm = 0.25;
  m.tokens_per_second = 1e5;
  m.step_seconds = 0.5;
  EXPECT_EQ(to_json_line(m), R"({"step":3,"tokens":30,"loss":2.5,"learning_rate":0.001,"gradient_norm":0.25,)"
                             R"("tokens_per_second":100000.0,"step_seconds":0.5})");
  m.skipped = true;
  m.row_overflows = 1;
  m.loss = std::numeric_limits<double>::quiet_NaN();
  m.gradient_norm = std::numeric_limits<double>::infinity();
  m.mtp_loss = 3.5;
  m.moe_layers = {{1, 1.5, 0, 0.75, 1.125}, {2, 3.0, 4, 0, 1}};
  m.validation = ValidationMetrics{"", 2.25, 1.75};
  m.validation_sources = {{"a\"b", 2, 1}};
  EXPECT_EQ(
      to_json_line(m),
      R"({"step":3,"tokens":30,"loss":null,"learning_rate":0.001,"gradient_norm":null,)"
      R"("tokens_per_second":100000.0,"step_seconds":0.5,"skipped":true,"row_overflows":1,"mtp_loss":3.5,"moe_layers":[)"
      R"({"layer":1,"load_max_over_mean":1.5,"experts_without_tokens":0,"bias_range":0.75,)"
      R"("aux_loss":1.125},)"
      R"({"layer":2,"load_max_over_mean":3.0,"experts_without_tokens":4,"bias_range":0.0,)"
      R"("aux_loss":1.0}],)"
      R"("validation_loss":2.25,"validation_bits_per_byte":1.75,)"
      R"("validation_sources":{"a\"b":{"loss":2.0,"bits_per_byte":1.0}}})");
  EXPECT_EQ(m.worst_moe_layer()->layer, 2);
  EXPECT_EQ(plain(1).worst_moe_layer(), nullptr);
}

TEST(MetricsRecord, ScalarsHaveOneTagEach) {
  StepMetrics m = plain(1);
  m.moe_layers.resize(1);
  m.validation = ValidationMetrics{};
  m.validation_sources = {{"bible", 2, 1}};
  std::vector<std::string> tags;
  for (const MetricScalar& scalar : scalars_of(m)) tags.push_back(scalar.tag);
  EXPECT_EQ(tags, (std::vector<std::string>{
                      "train/loss", "train/learning_rate", "train/gradient_norm", "speed/tokens_per_second",
                      "speed/step_seconds", "moe/layer_00/load_max_over_mean", "moe/layer_00/experts_without_tokens",
                      "moe/layer_00/bias_range", "moe/layer_00/aux_loss", "validation/loss", "validation/bits_per_byte",
                      "validation/bible/loss", "validation/bible/bits_per_byte"}));
}

std::string lines(std::initializer_list<int64_t> steps) {
  std::string text;
  for (const int64_t step : steps) text += to_json_line(plain(step)) + "\n";
  return text;
}

TEST(MetricsWriter, ANewRunBeginsAnEmptyFile) {
  const TemporaryFolder folder;
  const std::string path = folder.write("metrics.jsonl", lines({1, 2}));
  MetricsWriter writer(path, 0);
  EXPECT_EQ(read_file(path), "");
  writer.write(plain(1));
  EXPECT_EQ(read_file(path), lines({1}));
  writer.write(plain(2));
  EXPECT_EQ(read_file(path), lines({1, 2}));
}

FileDigest digest_of(const std::string& text) {
  Digest digest;
  digest.add(text.data(), text.size());
  return {text.size(), digest.hex()};
}

TEST(MetricsWriter, AResumedRunGoesOnBehindWhatTheCheckpointSaw) {
  const TemporaryFolder folder;
  const std::string path = folder.write("metrics.jsonl", lines({1, 2, 3, 4}) + "{\"step\": 5, \"lo");
  MetricsWriter writer(path, 2, digest_of(lines({1, 2})));
  writer.write(plain(3));
  EXPECT_EQ(read_file(path), lines({1, 2, 3}));
  EXPECT_EQ(writer.synced(), digest_of(lines({1, 2, 3})));
  EXPECT_FALSE(std::filesystem::exists(folder / "metrics-damaged-1.jsonl"));
}

TEST(MetricsWriter, ADamagedFileIsMendedToTheCheckpointsStepAndKept) {
  const FileDigest saved = digest_of(lines({1, 2, 3}));
  std::string flipped = lines({1, 2, 3, 4});
  flipped[lines({1}).size()] ^= 1;  // the brace of step 2
  std::string digit = lines({1, 2, 3, 4});
  digit[digit.find("2.5")] = '3';  // a loss that is still a number
  std::string zeros = lines({1, 2, 3});
  std::fill(zeros.end() - 10, zeros.end(), '\0');
  const std::pair<std::string, std::string> cases[] = {
      {flipped, lines({1, 3})},
      {zeros, lines({1, 2})},
      {lines({1, 2}), lines({1, 2})},  // lost with the power
      {lines({1, 2, 3}).substr(0, 100), ""},
      {lines({1}) + "hello\n" + lines({2, 3, 4}), lines({1, 2, 3})},
      {digit, digit.substr(0, lines({1, 2, 3}).size())},
  };
  for (const auto& [damaged, mended] : cases) {
    const TemporaryFolder folder;
    const std::string path = folder.write("metrics.jsonl", damaged);
    ::testing::internal::CaptureStderr();
    MetricsWriter writer(path, 3, saved);
    const std::string said = ::testing::internal::GetCapturedStderr();
    writer.write(plain(4));
    EXPECT_EQ(read_file(path), mended + lines({4}));
    EXPECT_EQ(read_file(folder / "metrics-damaged-1.jsonl"), damaged);
    EXPECT_NE(said.find("warning: " + path + " is not what it was when step 3 was saved"), std::string::npos) << said;
    EXPECT_EQ(writer.synced(), digest_of(mended + lines({4})));
  }
  const TemporaryFolder folder;
  MetricsWriter(folder / "metrics.jsonl", 3, saved).write(plain(4));
  EXPECT_EQ(read_file(folder / "metrics.jsonl"), lines({4}));
}

TEST(ReadLossCurve, TakesFiniteLossesAndValidationSteps) {
  const TemporaryFolder folder;
  StepMetrics validated = plain(2);
  validated.validation = ValidationMetrics{"", 2.25, 1.75};
  StepMetrics bad = plain(3);
  bad.loss = std::numeric_limits<double>::infinity();
  const std::string path = folder.write(
      "metrics.jsonl", lines({1}) + to_json_line(validated) + "\n" + to_json_line(bad) + "\n" + lines({4}) + "{\"st");
  const LossCurve curve = read_loss_curve(path);
  ASSERT_EQ(curve.training.size(), 3u);
  EXPECT_EQ(curve.training[2].step, 4);
  ASSERT_EQ(curve.validation.size(), 1u);
  EXPECT_EQ(curve.validation[0].loss, 2.25);
}

}  // namespace
}  // namespace deeptitan
