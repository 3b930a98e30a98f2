#include "chat/thinking_splitter.h"

#include <algorithm>
#include <utility>

namespace deeptitan {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";

}  // namespace

bool ends_in_thinking(std::string_view prompt) {
  const size_t open = prompt.rfind(kOpen);
  return open != std::string_view::npos &&
         prompt.find_first_not_of(" \t\r\n", open + kOpen.size()) == std::string_view::npos;
}

ThinkingSplitter::ThinkingSplitter(bool opened, OnPiece on_piece) : thinking_(opened), on_piece_(std::move(on_piece)) {}

void ThinkingSplitter::give_out(std::string_view piece) {
  if (!piece.empty()) on_piece_(piece, thinking_);
}

void ThinkingSplitter::push(std::string_view text) {
  held_ += text;
  while (true) {
    // Inside, only the closing tag counts; outside, only the opening one.
    const std::string_view tag = thinking_ ? kClose : kOpen;
    const std::string_view held = held_;
    const size_t found = held.find(tag);
    if (found != std::string_view::npos) {
      give_out(held.substr(0, found));
      thinking_ = !thinking_;
      held_.erase(0, found + tag.size());
      continue;
    }
    size_t keep = std::min(held.size(), tag.size() - 1);
    while (keep > 0 && held.substr(held.size() - keep) != tag.substr(0, keep)) --keep;
    give_out(held.substr(0, held.size() - keep));
    held_.erase(0, held_.size() - keep);
    return;
  }
}

void ThinkingSplitter::flush() {
  give_out(held_);
  held_.clear();
}

}  // namespace deeptitan
