#include "core/json_reader.h"

#include <gtest/gtest.h>

#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string message(std::string_view text) {
  return message_of([&] { read_json(text, {.where = "a.json", .advice = "fetch it again"}); });
}

TEST(JsonReader, ReadsValuesAsTheyAre) {
  const char* text = R"({"b": [1, -2, 2.5, true, null, "\u00e9\ud83d\ude00"], "a": {"x": 18446744073709551615}})";
  EXPECT_EQ(read_json(text, {.where = "a"}), json::parse(text));
  EXPECT_EQ(read_json<ordered_json>(text, {.where = "a"}), ordered_json::parse(text));
  EXPECT_EQ(read_json<ordered_json>(text, {.where = "a"}).begin().key(), "b");
  EXPECT_EQ(read_json("1e-400", {.where = "a"}), json(0.0));
}

TEST(JsonReader, NamesPlaceAndPathOfWhatIsNoJson) {
  EXPECT_EQ(message(R"({"rope": {"list": [1, nul]}})"),
            "a.json: not valid JSON (byte 26, at rope.list[1]): invalid literal, found ']}}'; fetch it again");
  EXPECT_EQ(
      message("{\n \"a\": 1,\n \"b\" 2}"),
      "a.json: not valid JSON (line 3, column 6, at b): unexpected number literal; expected ':', found '2}'; fetch "
      "it again");
  EXPECT_EQ(message(R"({"a": [1, 2)"), "a.json: not valid JSON: it ends too early (byte 12, at a[2]); fetch it again");
  EXPECT_EQ(message("  \n"), "a.json: not valid JSON: there is nothing in it; fetch it again");
  // Nothing of the file reaches a terminal raw.
  const std::string escapes = message("{\"\\u001b[31m\": \x1b]0;title\x07}");
  EXPECT_EQ(escapes.find('\x1b'), std::string::npos);
  EXPECT_NE(escapes.find("at \\x1b[31m"), std::string::npos) << escapes;
  EXPECT_NE(message("{\"a\": \"\xff\"}").find("ill-formed UTF-8"), std::string::npos);
}

// nlohmann's parser takes it for the end of the text.
TEST(JsonReader, ANulByteEndsNothing) {
  const std::string zero(1, '\0');
  expect_runtime_error([&] { read_json("{\"a\": 1}" + zero + "{", {.where = "x"}); },
                       "x: not valid JSON (byte 9): a NUL byte");
  expect_runtime_error([&] { read_json("1" + zero, {.where = "x"}); }, "x: not valid JSON (byte 2): a NUL byte");
}

TEST(JsonReader, RefusesAKeyThatStandsTwice) {
  EXPECT_EQ(message(R"({"a": 1, "a": 1})"), "a.json: \"a\" stands twice; fetch it again");
  EXPECT_EQ(message(R"({"x": [0, {"a": 1, "a": 1}]})"), "a.json: \"a\" stands twice in x[1]; fetch it again");
  std::string many = "{";
  for (int i = 0; i < 40; ++i) many += "\"k" + std::to_string(i) + "\": 0, ";
  for (const char* again : {"k0", "k15", "k16", "k39"}) {
    EXPECT_EQ(message_of([&] { read_json<ordered_json>(many + "\"" + again + "\": 0}", {.where = "a"}); }),
              std::string("a: \"") + again + "\" stands twice");
  }
}

TEST(JsonReader, BoundsTheDepthHoweverLongTheText) {
  EXPECT_EQ(read_json(std::string(100, '[') + std::string(100, ']'), {.where = "a"}).size(), 1u);
  for (const char* open : {"[", "{\"a\":"}) {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += open;
    EXPECT_NE(message(text).find("a.json: arrays and objects are nested more than 100 deep, at "), std::string::npos);
    EXPECT_LT(message(text).size(), 300u);
  }
}

// Python's json.dump writes NaN, Infinity and halves of surrogate pairs (allow_nan and ensure_ascii are its defaults),
// and reads 1e999.
TEST(JsonReader, KeepsWhatPythonWritesBeyondJson) {
  const std::string text =
      R"({"a":NaN,"b":[-Infinity,1e999,"x\ud83dy"],"c":Infinity,"d":"\ud83d\ude00","e":[{"f":1}]})";
  const json value = read_json(text, {.where = "a"});
  for (const json& odd : {value["a"], value["b"][0], value["b"][1], value["b"][2], value["c"]}) {
    EXPECT_TRUE(odd.is_binary());
    EXPECT_FALSE(odd.is_number() || odd.is_string());
  }
  EXPECT_EQ(value["d"], "\xF0\x9F\x98\x80");
  EXPECT_EQ(value["e"][0]["f"], 1);
  EXPECT_EQ(json_kind(value["a"]), "NaN, which is no number of JSON");
  EXPECT_EQ(json_kind(value["b"][1]), "1e999, beyond what a number can hold");
  EXPECT_EQ(json_kind(value["b"][2]), "a string with half a surrogate pair, \"x\\ud83dy\"");
  EXPECT_EQ(
      write_json(read_json<ordered_json>(text, {.where = "a"})).find("\"a\":NaN,\"b\":[-Infinity,1e999,\"x\\ud83dy\"]"),
      1u);
  EXPECT_NE(message("{\"a\": NaN, \"b\": nan}").find("at b): invalid literal"), std::string::npos);
  EXPECT_NE(message("{\"a\": -NaN}").find("not valid JSON"), std::string::npos);
}

TEST(JsonReader, ShowsValuesEscapedAndCut) {
  EXPECT_EQ(shown_json(json{{"a", {1, "\x1b[0m"}}}), "{\"a\":[1,\"\\u001b[0m\"]}");
  const std::string long_text = shown_json(json(std::string(700'000, 'x')), 80);
  EXPECT_LT(long_text.size(), 100u);
  EXPECT_TRUE(long_text.ends_with("..."));
  EXPECT_LT(shown_json(json(std::vector<int>(1'000'000, 7)), 80).size(), 200u);
}

TEST(JsonReader, WritesWithIndentation) {
  const ordered_json value = {{"a", {1, 2}}, {"b", ordered_json::object()}, {"c", {{"d", nullptr}}}};
  EXPECT_EQ(write_json(value, 2), value.dump(2));
  EXPECT_EQ(write_json(value), value.dump());
}

TEST(JsonReader, BoundsTheFile) {
  const TemporaryFolder folder;
  write_file(folder / "a.json", "[1, 2]");
  EXPECT_EQ(read_json_file(folder / "a.json", {.where = "a"}).size(), 2u);
  EXPECT_EQ(
      message_of([&] { read_json_file(folder / "a.json", {.where = "a"}, 5); }),
      "cannot read " + (folder / "a.json").string() + ": it has 6 bytes, and a file of this kind 5 bytes at most");
}

}  // namespace
}  // namespace deeptitan
