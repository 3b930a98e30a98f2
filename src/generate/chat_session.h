#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/chat_template.h"
#include "chat/thinking_splitter.h"
#include "generate/text_generator.h"

namespace deeptitan {

/// What became of one question.
struct ChatTurn {
  Generation generation;
  int64_t forgotten_messages = 0;  // the oldest ones, which no longer fitted in the context
};

/// A conversation with a model. Each question is rendered with all that came before it; what the engine's cache shares
/// with that, token for token, is not run again.
class ChatSession {
 public:
  ChatSession(InferenceEngine& engine, Tokenizer tokenizer, ChatTemplate chat_template, std::vector<int32_t> end_ids);

  /// Answers `question`. Where the conversation leaves less than a quarter of the context (or max_new_tokens, if that
  /// is less) for the answer, its oldest questions and answers are forgotten first; the system message stays. Throws a
  /// usage error where the question alone does not fit; the conversation is then as it was.
  ChatTurn ask(const std::string& question, const GenerationOptions& options,
               const ThinkingSplitter::OnPiece& on_piece);

  /// The tools and further variables that the template is given from the next question on.
  void set_template_options(ChatRenderOptions options) { template_options_ = std::move(options); }

  /// Starts again; the system message stays.
  void reset();
  /// Takes the last question and its answer back, and returns the question; nothing where there is none.
  std::optional<std::string> undo();
  /// Goes on from `messages`, as messages() gives them. Throws a usage error for a role other than system (first),
  /// user and assistant; the conversation is then as it was.
  void load(const std::vector<ChatMessage>& messages);
  /// Sets or (empty) takes away the system message, from the next question on.
  void set_system(std::string text) { system_ = std::move(text); }
  const std::string& system() const { return system_; }

  /// The system message, if there is one, then questions and answers. An answer is kept as it was generated, thinking
  /// included: templates leave out what they do not want.
  std::vector<ChatMessage> messages() const;
  /// The same with those that fell out of the context.
  std::vector<ChatMessage> transcript() const;

 private:
  InferenceEngine& engine_;
  Tokenizer tokenizer_;
  ChatTemplate template_;
  ChatRenderOptions template_options_;
  TextGenerator generator_;
  std::string system_;
  std::vector<ChatMessage> forgotten_;  // they came before turns_
  std::vector<ChatMessage> turns_;
};

}  // namespace deeptitan
