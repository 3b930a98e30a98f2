#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "core/utf8.h"
#include "tokenizer/code_point_set.h"

namespace deeptitan {
namespace {

char32_t first_character(std::string_view text) {
  return read_utf8_unit(text).code_point;
}

size_t last_character_start(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && unicode_word().contains(first_character(text.substr(last_character_start(text))));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && unicode_word().contains(first_character(text));
}

// Where the white space at the end of `text` begins.
size_t trailing_space_start(std::string_view text) {
  while (!text.empty()) {
    const size_t last = last_character_start(text);
    if (!unicode_white_space().contains(first_character(text.substr(last)))) break;
    text = text.substr(0, last);
  }
  return text.size();
}

// The length of the white space at the start of `text`.
size_t leading_space_length(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Unit unit = read_utf8_unit(text.substr(length));
    if (!unicode_white_space().contains(unit.code_point)) break;
    length += unit.length;
  }
  return length;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<const AddedToken*>& tokens,
                                     const std::vector<std::string>& patterns) {
  can_start_.fill(false);
  nodes_.emplace_back();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (patterns[i].empty()) continue;
    uint32_t node = 0;
    for (const char c : patterns[i]) {
      const auto byte = static_cast<unsigned char>(c);
      auto& children = nodes_[node].children;
      const auto child =
          std::lower_bound(children.begin(), children.end(), std::pair<unsigned char, uint32_t>(byte, 0));
      if (child != children.end() && child->first == byte) {
        node = child->second;
      } else {
        const auto created = static_cast<uint32_t>(nodes_.size());
        children.insert(child, {byte, created});
        nodes_.emplace_back();
        node = created;
      }
    }
    nodes_[node].token = tokens[i];
    can_start_[static_cast<unsigned char>(patterns[i][0])] = true;
  }
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special_tokens, std::vector<Part>& parts) const {
  size_t unmatched = 0;
  for (size_t at = 0; at < text.size();) {
    if (!can_start_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const AddedToken* token = nullptr;
    size_t end = at;
    uint32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      const auto& children = nodes_[node].children;
      const auto child =
          std::lower_bound(children.begin(), children.end(), std::pair<unsigned char, uint32_t>(byte, 0));
      if (child == children.end() || child->first != byte) break;
      node = child->second;
      if (nodes_[node].token != nullptr) {
        token = nodes_[node].token;
        end = i + 1;
      }
    }
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    at = end;  // the search goes on behind the match, also where the match is then turned down
    if (token->special && !parse_special_tokens) continue;
    if (token->single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token->lstrip) begin = std::max(trailing_space_start(text.substr(0, begin)), unmatched);
    if (token->rstrip) end += leading_space_length(text.substr(end));
    if (unmatched < begin) parts.push_back({unmatched, begin, nullptr});
    parts.push_back({begin, end, token});
    unmatched = end;
  }
  if (unmatched < text.size()) parts.push_back({unmatched, text.size(), nullptr});
}

}  // namespace deeptitan
