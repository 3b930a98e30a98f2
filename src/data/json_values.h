#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace deeptitan {

/// Called with a value's text and the line, counted from 1, on which it begins. Returns false to hear no more.
using JsonValueVisitor = std::function<bool(std::string_view value, int64_t line)>;

/// How JSON values that stand one after another ended.
enum class JsonSequenceEnd {
  kWhole,      // with the text
  kStopped,    // the visitor said so
  kMalformed,  // something that begins no object or array, or a value without its end; the visitor has heard those
               // before
};

/// Cuts a text into the objects and arrays that follow one another in it, with white space alone (line feeds or none)
/// between them. Only brackets and strings are looked at: whether a value is valid is its reader's business.
JsonSequenceEnd for_each_json_value(std::string_view text, const JsonValueVisitor& visit);

/// The same for the elements of the array that is the whole text; strings count as elements too.
JsonSequenceEnd for_each_json_element(std::string_view text, const JsonValueVisitor& visit);

/// A member of the object that is the whole text: its name as it is spelt there, and its value's text.
struct JsonMember {
  std::string_view name;
  std::string_view value;
  int64_t line = 0;  // on which the value begins
};

/// All of them; none where the text is no such object to its end.
std::vector<JsonMember> json_members(std::string_view text);

}  // namespace deeptitan
