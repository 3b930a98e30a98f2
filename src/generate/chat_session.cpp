#include "generate/chat_session.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace deeptitan {

ChatSession::ChatSession(InferenceEngine& engine, Tokenizer tokenizer, ChatTemplate chat_template,
                         std::vector<int32_t> end_ids)
    : engine_(engine),
      tokenizer_(tokenizer),
      template_(std::move(chat_template)),
      generator_(engine, std::move(tokenizer), std::move(end_ids)) {}

void ChatSession::reset() {
  forgotten_.clear();
  turns_.clear();
}

std::optional<std::string> ChatSession::undo() {
  while (!turns_.empty()) {
    const ChatMessage last = std::move(turns_.back());
    turns_.pop_back();
    if (last.role == "user") return last.content;
  }
  return std::nullopt;
}

void ChatSession::load(const std::vector<ChatMessage>& messages) {
  std::string system;
  std::vector<ChatMessage> turns;
  for (const ChatMessage& message : messages) {
    const bool first = turns.empty() && system.empty();
    DT_CHECK_USAGE(message.role == "user" || message.role == "assistant" || (message.role == "system" && first),
                   "message {} has role '{}'; a conversation has user, assistant, and system at its beginning",
                   turns.size(), message.role);
    if (message.role == "system") {
      system = message.content;
    } else {
      turns.push_back(message);
    }
  }
  system_ = std::move(system);
  turns_ = std::move(turns);
  forgotten_.clear();
}

std::vector<ChatMessage> ChatSession::messages() const {
  std::vector<ChatMessage> all;
  if (!system_.empty()) all.push_back({"system", system_});
  all.insert(all.end(), turns_.begin(), turns_.end());
  return all;
}

std::vector<ChatMessage> ChatSession::transcript() const {
  std::vector<ChatMessage> all = messages();
  all.insert(all.end() - static_cast<std::ptrdiff_t>(turns_.size()), forgotten_.begin(), forgotten_.end());
  return all;
}

ChatTurn ChatSession::ask(const std::string& question, const GenerationOptions& options,
                          const ThinkingSplitter::OnPiece& on_piece) {
  const std::vector<ChatMessage> before = turns_;
  const size_t forgotten_before = forgotten_.size();
  ChatTurn turn;
  try {
    turns_.push_back({"user", question});
    std::string text = template_.render(messages(), template_options_);
    std::vector<int32_t> prompt = encode_rendered(tokenizer_, text);
    const int64_t room = std::min(options.max_new_tokens, std::max<int64_t>(1, engine_.context_length() / 4));
    while (static_cast<int64_t>(prompt.size()) + room > engine_.context_length()) {
      // The oldest question goes with its answer.
      const auto next =
          std::find_if(turns_.begin() + 1, turns_.end(), [](const ChatMessage& m) { return m.role == "user"; });
      if (next == turns_.end()) break;
      turn.forgotten_messages += next - turns_.begin();
      forgotten_.insert(forgotten_.end(), turns_.begin(), next);
      turns_.erase(turns_.begin(), next);
      text = template_.render(messages(), template_options_);
      prompt = encode_rendered(tokenizer_, text);
    }
    const std::string opened = ends_in_thinking(text) ? text.substr(text.rfind("<think>")) : "";
    ThinkingSplitter splitter(!opened.empty(), on_piece);
    turn.generation = generator_.generate(prompt, options, [&](std::string_view piece) { splitter.push(piece); });
    splitter.flush();
    turns_.push_back({"assistant", opened + turn.generation.text});
    return turn;
  } catch (...) {
    turns_ = before;
    forgotten_.resize(forgotten_before);
    throw;
  }
}

}  // namespace deeptitan
