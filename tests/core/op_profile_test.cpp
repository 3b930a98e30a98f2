#include "core/op_profile.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace deeptitan {
namespace {

TEST(OpProfile, TracesEachCallInItsOrder) {
  OpProfile profile;
  profile.keep_spans = true;
  Event begin, middle, end;
  begin.record({});
  middle.record({});
  end.record({});
  profile.add("linear", 2e9, 1e6, begin, middle);
  profile.add("add", 0, 3e6, middle, end);
  profile.add("linear", 2e9, 1e6, middle, end);
  profile.finish();
  EXPECT_EQ(profile.entries.at("linear").calls, 2);
  EXPECT_EQ(profile.entries.at("linear").flops, 4e9);
  const auto trace = nlohmann::json::parse(chrome_trace(profile)).at("traceEvents");
  ASSERT_EQ(trace.size(), 3u);
  EXPECT_EQ(trace[0].at("name"), "linear");
  EXPECT_EQ(trace[1].at("name"), "add");
  EXPECT_EQ(trace[0].at("ts"), 0);
  EXPECT_LE(trace[0].at("ts"), trace[1].at("ts"));
  EXPECT_EQ(trace[1].at("ph"), "X");
  EXPECT_EQ(nlohmann::json::parse(chrome_trace(OpProfile())).at("traceEvents").size(), 0u);
}

}  // namespace
}  // namespace deeptitan
