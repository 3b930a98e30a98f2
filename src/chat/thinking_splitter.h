#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace deeptitan {

/// Tells streamed text inside `<think>` ... `</think>` from the answer. The tags themselves are given to neither.
class ThinkingSplitter {
 public:
  /// A piece of text, and whether it is thinking.
  using OnPiece = std::function<void(std::string_view piece, bool thinking)>;

  /// `opened`: the prompt has opened the thinking already, as DeepSeek-R1's template does.
  ThinkingSplitter(bool opened, OnPiece on_piece);

  void push(std::string_view text);
  /// Gives out what is held back because it might have become a tag.
  void flush();

 private:
  void give_out(std::string_view piece);

  bool thinking_;
  OnPiece on_piece_;
  std::string held_;
};

/// Whether a prompt ends inside a `<think>` that is not closed.
bool ends_in_thinking(std::string_view prompt);

}  // namespace deeptitan
