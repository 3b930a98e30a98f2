#include "jinja/template.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/utf8.h"
#include "jinja/unicode.h"
#include "tokenizer/code_point_set.h"
#include "tokenizer/unicode_additions.h"

namespace deeptitan::jinja {
namespace {

using Json = nlohmann::ordered_json;

Json read_cases(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return Json::parse(file);
}

const Json& golden() {
  static const Json cases = read_cases(std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/cases.json");
  return cases;
}

// The clock of the fixtures: Sunday, 9 March 2025, 07:05:03.
RenderOptions golden_options() {
  RenderOptions options;
  options.now = [] {
    std::tm time{};
    time.tm_year = 125;
    time.tm_mon = 2;
    time.tm_mday = 9;
    time.tm_hour = 7;
    time.tm_min = 5;
    time.tm_sec = 3;
    time.tm_wday = 0;
    time.tm_yday = 67;
    return time;
  };
  return options;
}

std::string render(const std::string& source, const std::string& variables = "{}", const RenderOptions& options = {}) {
  const Value value = value_from_json(variables, "variables");
  return Template(source, "template").render(*value.as_dict(), options);
}

std::string error_of(const std::string& source, const std::string& variables = "{}",
                     const RenderOptions& options = {}) {
  try {
    return "no error, but: " + render(source, variables, options);
  } catch (const Error& error) {
    return error.what();
  }
}

enum class Lines { kCompared, kLeft };

void expect_same(const Json& fixture, const Json& one, Lines lines) {
  SCOPED_TRACE(one["name"].get<std::string>());
  Json variables = one["variables"];
  std::string source;
  if (one.contains("family")) {
    source = fixture["families"][one["family"].get<std::string>()].get<std::string>();
    variables["messages"] = fixture["conversations"][variables["messages"].get<std::string>()];
  } else {
    source = one["template"].get<std::string>();
  }
  if (one.contains("expected")) {
    std::string rendered;
    EXPECT_NO_THROW(rendered = render(source, variables.dump(), golden_options()));
    EXPECT_EQ(rendered, one["expected"].get<std::string>());
    return;
  }
  const std::string error = error_of(source, variables.dump(), golden_options());
  EXPECT_EQ(error.find("no error"), std::string::npos) << error << "\nexpected " << one["error"];
  if (lines == Lines::kCompared && one["line"] != 0) {
    const std::string place = fmt::format("template line {}: ", one["line"].get<int>());
    EXPECT_EQ(error.substr(0, place.size()), place) << error << "\nexpected " << one["error"];
  }
}

TEST(Jinja, EqualsJinja2OnEveryCase) {
  ASSERT_GE(golden()["cases"].size(), 400U);
  for (const Json& one : golden()["cases"]) expect_same(golden(), one, Lines::kCompared);
}

TEST(Jinja, EqualsJinja2OnPublishedTemplates) {
  const char* path = std::getenv("DT_PUBLISHED_CHAT_TEMPLATES");
  if (path == nullptr) {
    GTEST_SKIP()
        << "set DT_PUBLISHED_CHAT_TEMPLATES to a file that tests/golden/chat_templates/make.py --published wrote";
  }
  const Json fixture = read_cases(path);
  // jinja2 knows the line of an error from the code that it makes of a template, which now and then names the next one.
  for (const Json& one : fixture["cases"]) expect_same(fixture, one, Lines::kLeft);
}

uint32_t crc32(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320U & (0U - (crc & 1U)));
  }
  return ~crc;
}

TEST(JinjaUnicode, EveryCharacterIsWhatPythonTakesItFor) {
  const auto checksum = [](const std::function<std::string(char32_t)>& convert) {
    std::string all;
    const CodePointSet& unassigned = unicode_category("Cn");
    const auto is_later = [](char32_t c) {
      return std::any_of(kUnicodeAdditions.begin(), kUnicodeAdditions.end(),
                         [c](const UnicodeAddition& added) { return added.first <= c && c <= added.last; });
    };
    for (char32_t c = 0; c < 0x110000; ++c) {
      if ((c < 0xD800 || c >= 0xE000) && !unassigned.contains(c) && !is_later(c)) all += convert(c);
    }
    return crc32(all);
  };
  const auto check = [&](const char* name, bool (*predicate)(char32_t)) {
    EXPECT_EQ(checksum([&](char32_t c) { return predicate(c) ? "1" : "0"; }), golden()["characters"][name]) << name;
  };
  const auto convert = [&](const char* name, std::string (*mapping)(std::string_view)) {
    EXPECT_EQ(checksum([&](char32_t c) { return mapping(encode_utf8(std::u32string(1, c))); }),
              golden()["characters"][name])
        << name;
  };
  check("isprintable", is_printable);
  check("isspace", is_space);
  check("isalnum", is_alphanumeric);
  convert("lower", to_lower);
  convert("upper", to_upper);
  convert("title", to_title);
}

TEST(Jinja, WhatIsNotSupportedIsAnErrorWithItsLine) {
  EXPECT_EQ(error_of("a\n{% extends 'x' %}"), "template line 2: the tag 'extends' is not supported in chat templates");
  EXPECT_EQ(error_of("{% do x %}"), "template line 1: the tag 'do' is not supported in chat templates");
  EXPECT_EQ(error_of("\n\n{% for x in y recursive %}{% endfor %}"),
            "template line 3: recursive loops are not supported; use a macro that calls itself");
  EXPECT_EQ(error_of("{% if x %}{% bad %}"),
            "template line 1: unknown tag 'bad'; expected elif or else or endif first");
  EXPECT_EQ(error_of("\n{{ '%s' % 1 }}"), "template line 2: formatting with % is not supported; join the parts with ~");
  EXPECT_EQ(error_of("{{ 'a'.format_map({}) }}"),
            "template line 1: 'format_map' of 'str' is not known here; known: capitalize, count, endswith, find, "
            "format, index, "
            "join, lower, lstrip, removeprefix, removesuffix, replace, rfind, rsplit, rstrip, split, splitlines, "
            "startswith, strip, "
            "title, upper");
  EXPECT_EQ(error_of("{{ '{0.x}'.format(1) }}"),
            "template line 1: the field '{0.x}' of format is not supported; a field is a number or a name");
  EXPECT_EQ(error_of("{{ '{:,}'.format(1000) }}"),
            "template line 1: the format ',' of a value of type 'int' is not supported");
  EXPECT_EQ(error_of("{{ 9223372036854775807 + 1 }}"),
            "template line 1: an integer result does not fit 64 bits; longer ones are not supported");
  EXPECT_EQ(error_of("{{ 99999999999999999999 }}"),
            "template line 1: the integer 99999999999999999999 does not fit 64 bits; longer ones are not supported");
  EXPECT_EQ(error_of("{{ [1] | map('upper') }}"),
            "template line 1: a value of type 'generator' cannot be printed; print what it gives instead");
  EXPECT_EQ(
      error_of("{{ '\\ud800' }}"),
      "template line 1: surrogates (\\ud800 to \\udfff) are not supported in strings; write the character itself");
}

TEST(Jinja, WhatNoPublishedTemplateUsesIsRefusedByName) {
  const std::string filters =
      "capitalize, count, d, default, dictsort, first, float, indent, int, items, join, last, length, list, lower, "
      "map, max, "
      "min, reject, rejectattr, replace, reverse, safe, select, selectattr, sort, string, title, tojson, trim, unique, "
      "upper";
  for (const char* name : {"abs", "attr", "batch", "center", "groupby", "pprint", "round", "sum", "wordcount"}) {
    EXPECT_EQ(error_of(fmt::format("{{{{ x | {} }}}}", name)),
              fmt::format("template line 1: the filter '{}' is not known here; known: {}", name, filters));
    EXPECT_EQ(error_of(fmt::format("{{{{ ['a'] | map('{}') | list }}}}", name)),
              fmt::format("template line 1: the filter '{}' is not known here; known: {}", name, filters));
  }
  const std::string tests =
      "!=, <, <=, ==, >, >=, boolean, defined, divisibleby, eq, equalto, even, false, float, ge, greaterthan, gt, in, "
      "integer, "
      "iterable, le, lessthan, lt, mapping, ne, none, number, odd, sequence, string, true, undefined";
  for (const char* name : {"callable", "escaped", "filter", "lower", "sameas", "test", "upper"}) {
    EXPECT_EQ(error_of(fmt::format("{{{{ x is {} }}}}", name)),
              fmt::format("template line 1: the test '{}' is not known here; known: {}", name, tests));
    EXPECT_EQ(error_of(fmt::format("{{{{ ['a'] | select('{}') | list }}}}", name)),
              fmt::format("template line 1: the test '{}' is not known here; known: {}", name, tests));
  }
  for (const char* name : {"center", "isalnum", "isdigit", "isspace", "ljust", "partition", "swapcase", "zfill"}) {
    const std::string expected =
        fmt::format("template line 1: '{}' of 'str' is not known here; known: capitalize, ", name);
    EXPECT_TRUE(error_of(fmt::format("{{{{ 'a'.{}(1) }}}}", name)).starts_with(expected)) << name;
    EXPECT_TRUE(error_of(fmt::format("{{{{ 'a'.{} is defined }}}}", name)).starts_with(expected)) << name;
  }
  for (const char* name : {"cycler", "joiner", "lipsum"}) {
    EXPECT_EQ(
        error_of(fmt::format("{{{{ {}() }}}}", name)),
        fmt::format("template line 1: the function '{}' is not known here; known: dict, namespace, raise_exception, "
                    "range, strftime_now",
                    name));
  }
  EXPECT_EQ(
      error_of("{% for x in [1] %}{{ loop.cycle('a', 'b') }}{% endfor %}"),
      "template line 1: 'cycle' of 'loop' is not known here; known: first, index, index0, last, length, nextitem, "
      "previtem, revindex, revindex0");
  EXPECT_EQ(error_of("{% macro f() %}{{ varargs }}{% endmacro %}{{ f(1) }}"),
            "template line 1: 'varargs' inside of a macro is not known here; give macro 'f' parameters");
  EXPECT_EQ(error_of("{% macro f() %}{{ caller() }}{% endmacro %}"),
            "template line 1: 'caller' inside of a macro is not known here; give macro 'f' parameters");
  EXPECT_EQ(render("{% macro f(kwargs) %}{{ kwargs }}{% endmacro %}{{ f(1) }}"), "1");
  EXPECT_EQ(error_of("{% macro f() %}{% endmacro %}{{ f.name }}"),
            "template line 1: 'name' of a macro is not known here");
  EXPECT_EQ(error_of("{% call f() %}{% endcall %}"),
            "template line 1: the tag 'call' is not supported in chat templates");
  EXPECT_EQ(error_of("{% print 1 %}"), "template line 1: the tag 'print' is not supported in chat templates");
}

TEST(Jinja, WhatATemplateSaysIsShownEscapedAndCut) {
  EXPECT_EQ(error_of("{{ raise_exception('\x1b[2Ja\nb') }}"), "template line 1: \\x1b[2Ja\\nb");
  EXPECT_EQ(error_of("{% if x %}{% \x1b %}"), "template line 1: unexpected char '\\x1b'");
  const std::string error = error_of("{{ raise_exception('a' * 100000) }}");
  EXPECT_LT(error.size(), 2100U);
  EXPECT_TRUE(error.ends_with("a... (100000 bytes)"));
}

TEST(Jinja, RefusesATemplateThatIsNotUtf8) {
  EXPECT_EQ(error_of("a\xFF"), "template: the template is not UTF-8; save it as UTF-8");
}

TEST(Jinja, HostileTemplatesEnd) {
  const auto ends = [](const std::string& source, const std::string& message) {
    const std::string error = error_of(source);
    EXPECT_NE(error.find(message), std::string::npos) << source.substr(0, 100) << "\n" << error;
  };
  ends("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
       "loops run more than 1000000 times");
  ends("{{ 'x' * 10000000000 }}", "more work than the limit");
  ends("{{ [1] * 10000000000 }}", "more work than the limit");
  ends("{{ 'a\nb' | indent(10000000000) }}", "more work than the limit");
  ends("{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
       "more work than the limit");
  ends("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
       "more work than the limit");
  // A list that holds itself twice, forty times over, is small, but not once it is printed or compared.
  const std::string twice =
      "{% set ns = namespace(a=[]) %}{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}";
  ends(twice + "{{ ns.a }}", "more work than the limit");
  ends(twice + "{{ ns.a | tojson }}", "more work than the limit");
  ends(twice +
           "{% set b = namespace(a=[]) %}{% for i in range(40) %}{% set b.a = [b.a, b.a] %}{% endfor %}{{ ns.a == b.a "
           "}}",
       "more work than the limit");
  ends("{% set ns = namespace(a=()) %}{% for i in range(40) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {ns.a: 1} }}",
       "a tuple used as a key is too large");
  ends("{% set ns = namespace(a=[]) %}{% for i in range(1000) %}{% set ns.a = [ns.a] %}{% endfor %}",
       "lists and dicts are nested more than 200 deep");
  ends("{% for i in range(100000) %}" + std::string(1000, 'x') + "{% endfor %}",
       "longer than the limit of 67108864 bytes");
  ends("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested more than 400 deep");
  ends("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "nested more than 400 deep");
  ends("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}", "nested more than 100 deep");
  ends("{{ " + std::string(5000, '-') + "1 }}", "nested more than 100 deep");
  std::string nested;
  std::string sum = "1";
  std::string filters = "'a'";
  for (int i = 0; i < 5000; ++i) {
    nested += "{% if 1 %}";
    sum += " + 1";
    filters += " | upper";
  }
  ends(nested, "nested more than 100 deep");
  ends("{{ " + sum + " }}", "more than 300 operators in a row");
  ends("{{ " + filters + " }}", "too many filters in a row");
}

TEST(Jinja, NamespacesAndMacrosThatHoldEachOtherAreFreed) {
  EXPECT_EQ(render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a.b.a.b is defined }}"),
            "True");
  EXPECT_EQ(render("{% set ns = namespace(f=none) %}{% for i in range(2000) %}{% set g = ns.f %}"
                   "{% macro f() %}{{ i }}{% endmacro %}{% set ns.f = f %}{% endfor %}{{ ns.f() }}"),
            "1999");
}

TEST(Jinja, OneTemplateRendersManyTimes) {
  const Template counted(
      "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "t");
  const Value variables = value_from_json(R"({"xs": [1, 2]})", "variables");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(counted.render(*variables.as_dict()), "3");
}

TEST(Jinja, JsonKeepsTheOrderOfKeysAndSaysWhereItIsWrong) {
  EXPECT_EQ(render("{{ d }}", R"({"d": {"z": 1, "a": [true, null, 1.5, "x"]}})"),
            "{'z': 1, 'a': [True, None, 1.5, 'x']}");
  EXPECT_THROW(value_from_json(R"({"z": 1, "a": 2, "z": 3})", "messages.json"), Error);
  EXPECT_THROW(value_from_json("{", "messages.json"), Error);
  EXPECT_THROW(value_from_json("[18446744073709551615]", "messages.json"), Error);
  EXPECT_THROW(value_from_json(std::string(1000, '['), "messages.json"), Error);
}

}  // namespace
}  // namespace deeptitan::jinja
