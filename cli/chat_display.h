#pragma once

#include <string>
#include <string_view>

namespace deeptitan {

/// How the two sides of a conversation look: coloured on a terminal, plain words otherwise.
class ChatDisplay {
 public:
  ChatDisplay();

  /// Whether somebody types and reads.
  bool interactive() const { return input_ && output_; }
  /// The colour of what stands before a question; empty where there is none.
  std::string question_colour() const { return output_ ? "\033[1;32m" : ""; }
  /// A line that did not come from the keyboard is shown, so that the output reads as a conversation.
  void echo(const std::string& line) const;

  void begin_answer() { part_ = Part::kNone; }
  void piece(std::string_view text, bool thinking);
  /// An answer without a word gets its label all the same.
  void end_answer();
  void write(std::string_view text) const;

 private:
  enum class Part { kNone, kThinking, kAnswer };
  void label(Part part) const;

  bool input_;
  bool output_;
  Part part_ = Part::kNone;
};

}  // namespace deeptitan
