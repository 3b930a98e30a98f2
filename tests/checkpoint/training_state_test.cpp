#include "checkpoint/training_state.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(TrainingStateMetadata, EveryBitComesBack) {
  TrainingStateMetadata metadata;
  const double reals[] = {0.1, 1.0 / 3, -0.0, 5e-324, 1.7976931348623157e308, 3.0};
  for (size_t i = 0; i < std::size(reals); ++i) metadata.set_real("real" + std::to_string(i), reals[i]);
  metadata.set_integer("least", INT64_MIN);
  metadata.set_integer("most", INT64_MAX);
  metadata.set_text("config", "a = \"b\"\n\xc3\xa4\t");
  const auto back = TrainingStateMetadata::parse(metadata.dump(), "state.json");
  for (size_t i = 0; i < std::size(reals); ++i) {
    const double value = back.real("real" + std::to_string(i));
    EXPECT_EQ(std::memcmp(&value, &reals[i], sizeof value), 0) << reals[i];
  }
  EXPECT_EQ(back.integer("least"), INT64_MIN);
  EXPECT_EQ(back.integer("most"), INT64_MAX);
  EXPECT_EQ(back.text("config"), "a = \"b\"\n\xc3\xa4\t");
  EXPECT_TRUE(back.contains("most"));
  EXPECT_FALSE(back.contains("middle"));
}

TEST(TrainingStateMetadata, NamesWhatIsWrong) {
  const auto metadata = TrainingStateMetadata::parse(R"({"step":1,"rate":0.5,"config":"x"})", "s.json");
  EXPECT_EQ(message_of([&] { metadata.integer("tokens"); }),
            "s.json has no value \"tokens\"; it was written by another version or is damaged");
  EXPECT_EQ(message_of([&] { metadata.integer("rate"); }), "s.json: \"rate\" must be a whole number");
  EXPECT_EQ(message_of([&] { metadata.real("step"); }), "s.json: \"step\" must be a real number");
  EXPECT_EQ(message_of([&] { metadata.text("step"); }), "s.json: \"step\" must be text");
  EXPECT_EQ(message_of([] { TrainingStateMetadata::parse("{", "s.json"); }),
            "s.json: not valid JSON: it ends too early (byte 2); the checkpoint is damaged, resume from another");
  EXPECT_EQ(message_of([] { TrainingStateMetadata::parse("[]", "s.json"); }),
            "s.json must hold a JSON object, found array");
  for (const char* value : {"[1]", "18446744073709551615", "null", "true"}) {
    EXPECT_EQ(message_of([&] {
                TrainingStateMetadata::parse(std::string("{\"a\":") + value + "}", "s.json");
              }).rfind("s.json: a must be a number of at most 63 bits or text, found ", 0),
              0u)
        << value;
  }
  TrainingStateMetadata fresh;
  EXPECT_EQ(message_of([&] { fresh.set_real("loss", std::numeric_limits<double>::infinity()); }),
            "training state: loss must be finite, found inf");
}

TEST(TrainingState, ComesBack) {
  const TemporaryFolder directory;
  EXPECT_EQ(message_of([&] { read_training_state(directory.path()); }),
            directory.path().string() + " holds no training state: state.json is missing");
  TrainingStateMetadata metadata;
  metadata.set_integer("step", 100);
  write_training_state(directory.path(), metadata);
  EXPECT_EQ(read_training_state(directory.path()).integer("step"), 100);
}

}  // namespace
}  // namespace deeptitan
