#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/message.h"
#include "jinja/template.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

struct ChatRenderOptions {
  /// End with what opens the assistant's next turn.
  bool add_generation_prompt = true;
  /// The list of tools that the model may call; none if there is no such list.
  jinja::Value tools = {};
  /// Further variables of the template, such as `thinking` of DeepSeek-V3.1; they replace those set otherwise.
  jinja::Dict variables = {};
  /// The clock of strftime_now; the machine's if empty.
  std::function<std::tm()> now = {};
};

/// Bytes begin to end (not included) of a text.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  /// Set where two renderings part at this place, which may be inside a token that both begin alike (`<think>` and
  /// `</think>`): encode_turns then moves it out of that token.
  bool begin_may_cut = false;
  bool end_may_cut = false;
  bool operator==(const TextSpan&) const = default;
};

/// A conversation as text, and the parts of it that the assistant wrote, in order.
struct RenderedTurns {
  std::string text;
  std::vector<TextSpan> assistant;
};

/// Token ids, and for each whether it counts in the loss.
struct EncodedTurns {
  std::vector<int32_t> ids;
  std::vector<bool> in_loss;
};

/// A model's chat template: the Jinja program that turns messages into the text the model was trained on, with the
/// variables that Hugging Face transformers gives it (messages, add_generation_prompt, tools and documents as none, and
/// the special tokens that tokenizer_config.json names: bos_token, eos_token, ...). A template that joins contents as
/// texts is given the text of a content of parts. Const functions may be called from several threads at once.
class ChatTemplate {
 public:
  /// Reads the template of a Hugging Face directory. The first of these counts: `file`, if one is given; for the name
  /// "default" chat_template.jinja; chat_templates/<name>.jinja; chat_template in tokenizer_config.json, a text (which
  /// is "default") or a list of {name, template}. The special tokens come from tokenizer_config.json in any case.
  /// Throws Error if there is no template of that name, which lists those there are, or if it cannot be read.
  static ChatTemplate load(const std::filesystem::path& directory, const std::filesystem::path& file = {},
                           const std::string& name = "default");

  /// The same from the texts of chat_template.jinja and tokenizer_config.json (as Tokenizer keeps them); an empty one
  /// is as good as none.
  static ChatTemplate from_texts(const std::string& chat_template_jinja, const std::string& tokenizer_config_json,
                                 const std::string& name = "default");

  /// Whether from_texts would find a template of the name "default".
  static bool in_texts(const std::string& chat_template_jinja, const std::string& tokenizer_config_json);

  /// The text of `messages`. Throws Error, with the template's line, for what the template refuses.
  std::string render(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options = {}) const;

  /// As above for messages that are a list of dicts already.
  std::string render_messages(const jinja::Value& messages, const ChatRenderOptions& options = {}) const;

  /// Throws a usage error unless the template reads what the options give it: tools, and each further variable.
  void check_options(const ChatRenderOptions& options) const;

  /// The whole conversation without a generation prompt, in one rendering, and where in it the assistant's turns stand:
  /// from where the model would have gone on after the generation prompt, to the end of its eos token (without one, to
  /// where the turn ends).
  ///
  /// Both ends are found in what the template itself wrote, never by looking for the answer's text: the rendering knows
  /// which of its bytes came from which message (jinja::TracedText). What it wrote between the message before and the
  /// answer is compared with what the generation prompt adds behind the message before; where they part (R1's prompt
  /// opens the reasoning, a finished turn does not), the turn starts there, at the latest with the message's own text.
  /// What it wrote behind the answer is compared with what stands behind it where the conversation ends with it. These
  /// prompts are rendered from the system message and the last messages before the answer, 16 or a few more.
  ///
  /// Reasoning that the template leaves out of earlier answers, as it does when the model runs, is not learnt. Throws
  /// Error, naming the message, where the template drops text of an answer even where the conversation ends with it,
  /// or leaves out an answer: no loss could be placed on it.
  RenderedTurns render_turns(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options = {}) const;

 private:
  ChatTemplate(jinja::Template parsed, jinja::Dict special_tokens)
      : template_(std::move(parsed)), special_tokens_(std::move(special_tokens)) {}
  static ChatTemplate make(std::string_view source, std::string name, const std::string& tokenizer_config_json,
                           std::string_view config_name);
  // The message as the template can read it: a content of parts is given as one text where it takes no parts.
  jinja::Value value_of(const jinja::Value& message) const;
  bool takes_parts() const;
  jinja::TracedText render_values(std::vector<jinja::Value> messages, const ChatRenderOptions& options,
                                  bool add_generation_prompt) const;

  jinja::Template template_;
  jinja::Dict special_tokens_;
  bool takes_parts_ = true;
};

/// The tokens of a rendered conversation, with exactly one bos before it where the tokenizer adds one to texts, whether
/// or not the template has written it already.
std::vector<int32_t> encode_rendered(const Tokenizer& tokenizer, std::string_view text);

/// The tokens of a conversation for training: each span and each text between spans is encoded for itself, as the model
/// will meet them (the prompt, then what it adds), and the spans' tokens count in the loss. Exactly one bos, as above.
EncodedTurns encode_turns(const Tokenizer& tokenizer, const RenderedTurns& turns);

}  // namespace deeptitan
