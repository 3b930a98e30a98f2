// Every key of a run file and of config.json, with values that it cannot have.

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "config/config_keys.h"
#include "config/model_config_json.h"
#include "config/run_config_toml.h"
#include "core/error.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

using Values = std::vector<std::string>;

// Values that a member of this kind cannot have, as TOML.
Values wrong_values(const ConfigMember& member, const NumberRange& range) {
  Values values = {"1979-05-27", "{a = {b = 1}}"};
  const bool is_whole = std::holds_alternative<int64_t*>(member), is_number = std::holds_alternative<double*>(member);
  if (!std::holds_alternative<bool*>(member)) values.emplace_back("true");
  if (!is_whole && !is_number) values.insert(values.end(), {"3", "-1.5", "nan"});
  if (is_whole || is_number) {
    values.insert(values.end(), {"\"3\"", "[3]", "nan", "inf", "-inf", "''"});
    if (is_whole) values.insert(values.end(), {"1.5", "1e300"});
    if (range.least > -1e300) values.push_back(std::to_string(static_cast<int64_t>(range.least) - 1));
    if (range.above) values.push_back(fmt::format("{}", range.least));
    if (range.most < 1e300) values.push_back(std::to_string(static_cast<int64_t>(range.most) + 1));
    if (range.below) values.push_back(fmt::format("{}", range.most));
  } else if (!std::holds_alternative<std::string*>(member)) {
    values.emplace_back("\"perhaps\"");
  }
  const bool is_list = std::holds_alternative<std::vector<std::string>*>(member) ||
                       std::holds_alternative<std::vector<TextSource>*>(member);
  values.emplace_back(is_list ? "[3, \"a\"]" : "[\"a\"]");
  if (std::holds_alternative<TableMember>(member)) values.erase(values.begin() + 1);
  return values;
}

void expect_refused(const std::string& text, const std::string& beginning,
                    const std::vector<ConfigOverride>& changes = {}) {
  const std::string message = message_of([&] { parse_run_config(text, "run.toml", changes); });
  EXPECT_TRUE(message.starts_with(beginning)) << text << "\n" << message;
  EXPECT_NE(message.find("expected "), std::string::npos) << text << "\n" << message;
  EXPECT_LT(message.size(), 600u);
}

TEST(KeyMistakes, EveryKeyOfARunFileIsNamedWithItsLineAndWhatItTakes) {
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    RunConfig scratch;
    const ConfigMember member = key.member(scratch);
    for (const std::string& value : wrong_values(member, key.range)) {
      const std::string name(key.name);
      const bool in_list = name == "data.sources" && value.front() == '[';
      expect_refused(fmt::format("# a run\n[{}]\n\n{} = {}\n", key.section(), key.short_name(), value),
                     in_list ? "run.toml:4: data.sources holds " : fmt::format("run.toml:4: {} = ", name));
      // Text is taken as it stands on the command line.
      if (std::holds_alternative<std::string*>(member)) continue;
      expect_refused("", in_list ? "command line: data.sources holds " : fmt::format("command line: {} = ", name),
                     {{name, value}});
    }
  }
}

TEST(KeyMistakes, EveryKeyOfASourceIsNamedWithItsLineAndWhatItTakes) {
  for (const ConfigKey<TextSource>& key : text_source_keys()) {
    TextSource scratch;
    for (const std::string& value : wrong_values(key.member(scratch), key.range)) {
      expect_refused(fmt::format("[[data.sources]]\n{} = {}\n", key.name, value),
                     fmt::format("run.toml:2: data.sources: {} = ", key.name));
    }
  }
}

TEST(KeyMistakes, EveryFieldOfConfigJsonIsNamedWithWhatItTakes) {
  for (const char* shape : {"tiny-v3", "tiny-v2", "v2-lite", "v3", "kimi-k2"}) {
    const auto good = nlohmann::ordered_json::parse(to_json(named_model_config(shape), "float32"));
    for (const auto& [name, value] : good.items()) {
      // What transformers alone reads.
      if (name == "architectures" || name == "use_cache" || name == "torch_dtype" || name == "dtype" ||
          name == "transformers_version")
        continue;
      for (const char* wrong :
           {"\"perhaps\"", "[1, \"a\"]", "{\"a\": 1}", "-3", "1e300", "NaN", "1.5", "99999999999999999999"}) {
        const std::string number = wrong;
        if (value.is_number_float() && (number == "1.5" || number.starts_with("1e") || number.starts_with("9")))
          continue;
        std::string text = "{";
        for (const auto& [field, usual] : good.items()) {
          text +=
              fmt::format("{}\"{}\": {}", text.size() == 1 ? "" : ", ", field, field == name ? wrong : usual.dump());
        }
        const std::string message = message_of([&] { parse_model_config(text + "}", "config.json"); });
        if (message == "no error") {
          ADD_FAILURE() << shape << ": " << name << " = " << wrong << " is taken";
          continue;
        }
        EXPECT_TRUE(message.starts_with("config.json: ")) << message;
        EXPECT_NE(message.find(name), std::string::npos) << name << " = " << wrong << "\n" << message;
        EXPECT_LT(message.size(), 600u) << message;
      }
    }
  }
}

}  // namespace
}  // namespace deeptitan
