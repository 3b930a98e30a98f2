#include "tokenizer/pcre2_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"

namespace deeptitan {
namespace {

constexpr uint32_t kMatchLimit = 1'000'000;
constexpr size_t kJitStackBytes = 1 << 20;

std::string message_of(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Pcre2Scratch::State {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);

  State() {
    DT_CHECK(match != nullptr && context != nullptr, "out of memory for regular expressions");
    pcre2_set_match_limit(context, kMatchLimit);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Pcre2Scratch::Pcre2Scratch() : state_(std::make_unique<State>()) {}
Pcre2Scratch::~Pcre2Scratch() = default;

struct Pcre2Regex::Code {
  pcre2_code* code;
  explicit Code(pcre2_code* compiled) : code(compiled) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Pcre2Regex::Pcre2Regex(const std::string& pattern) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  DT_CHECK(context != nullptr, "out of memory for regular expressions");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error, &offset, context);
  pcre2_compile_context_free(context);
  DT_CHECK(code != nullptr, "the regular expression does not compile: {}", message_of(error));
  code_ = std::make_unique<Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it fails, pcre2_match interprets
}

Pcre2Regex::~Pcre2Regex() = default;
Pcre2Regex::Pcre2Regex(Pcre2Regex&&) noexcept = default;
Pcre2Regex& Pcre2Regex::operator=(Pcre2Regex&&) noexcept = default;

std::pair<size_t, size_t> Pcre2Regex::find(std::string_view text, size_t from, Pcre2Scratch& scratch) const {
  const Pcre2Scratch::State& state = *scratch.state_;
  const int result = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                 PCRE2_NO_UTF_CHECK, state.match, state.context);
  if (result == PCRE2_ERROR_NOMATCH) return {std::string_view::npos, std::string_view::npos};
  DT_CHECK(result >= 0, "a regular expression could not be matched: {}", message_of(result));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.match);
  return {bounds[0], bounds[1]};
}

}  // namespace deeptitan
