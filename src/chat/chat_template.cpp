#include "chat/chat_template.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "tokenizer_config.json";
constexpr const char* kWhereToPut =
    "a directory has one in chat_template.jinja, in chat_templates/ or as chat_template in tokenizer_config.json; give "
    "one with --chat-template FILE";

std::string read_if_exists(const fs::path& path) {
  return fs::exists(path) ? read_file(path) : std::string();
}

// The templates of tokenizer_config.json by name; one without a name is "default".
std::map<std::string, std::string> templates_of(const jinja::Dict& config, std::string_view config_name) {
  std::map<std::string, std::string> templates;
  const jinja::Value* found = config.find(jinja::Value("chat_template"));
  if (found == nullptr || found->is_none()) return templates;
  if (found->is_string()) {
    templates["default"] = found->as_string();
    return templates;
  }
  const jinja::Sequence* list = found->as_sequence();
  DT_CHECK(list != nullptr, "{}: chat_template must be a text or a list of names and templates, not a {}", config_name,
           found->type_name());
  for (const jinja::Value& entry : list->items) {
    const jinja::Dict* dict = entry.as_dict();
    const jinja::Value* name = dict == nullptr ? nullptr : dict->find(jinja::Value("name"));
    const jinja::Value* text = dict == nullptr ? nullptr : dict->find(jinja::Value("template"));
    DT_CHECK(name != nullptr && name->is_string() && text != nullptr && text->is_string(),
             "{}: each entry of chat_template must have a name and a template, both texts", config_name);
    templates[name->as_string()] = text->as_string();
  }
  return templates;
}

jinja::Dict parse_config(const std::string& json, std::string_view config_name) {
  if (json.empty()) return {};
  const jinja::Value config = jinja::value_from_json(json, config_name);
  DT_CHECK(config.as_dict() != nullptr, "{}: expected a JSON object, found a {}", config_name, config.type_name());
  return *config.as_dict();
}

// The entries named ..._token, as text or as an object whose content is the text; null stands for none.
jinja::Dict special_tokens_of(const jinja::Dict& config) {
  jinja::Dict tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.as_string().ends_with("_token")) continue;
    const jinja::Dict* object = value.as_dict();
    const jinja::Value* content = object == nullptr ? &value : object->find(jinja::Value("content"));
    if (content != nullptr && content->is_string()) tokens.set(key, *content);
  }
  return tokens;
}

[[noreturn]] void fail_missing(const std::string& where, const std::string& name,
                               const std::vector<std::string>& names) {
  if (names.empty()) fail("{} has no chat template: {}", where, kWhereToPut);
  fail("{} has no chat template named '{}'; it has {}", where, name, fmt::join(names, ", "));
}

jinja::Value list_of(const std::vector<ChatMessage>& messages) {
  std::vector<jinja::Value> items;
  for (const ChatMessage& message : messages) {
    jinja::Dict dict;
    dict.set(jinja::Value("role"), jinja::Value(message.role));
    dict.set(jinja::Value("content"), jinja::Value(message.content));
    items.push_back(jinja::Value::dict(std::move(dict)));
  }
  return jinja::Value::list(std::move(items));
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

}  // namespace

ChatTemplate ChatTemplate::make(std::string_view source, std::string name, const std::string& tokenizer_config_json,
                                std::string_view config_name) {
  return {jinja::Template(source, std::move(name)),
          special_tokens_of(parse_config(tokenizer_config_json, config_name))};
}

ChatTemplate ChatTemplate::load(const fs::path& directory, const fs::path& file, const std::string& name) {
  DT_CHECK(fs::is_directory(directory), "{} is not a directory; name a Hugging Face model directory",
           directory.string());
  const fs::path config_path = directory / kConfigName;
  const std::string config = read_if_exists(config_path);
  const auto from_file = [&](const fs::path& path) {
    return make(read_file(path), path.string(), config, config_path.string());
  };
  if (!file.empty()) return from_file(file);

  std::vector<std::string> names;
  const fs::path main = directory / "chat_template.jinja";
  if (fs::exists(main)) {
    if (name == "default") return from_file(main);
    names.emplace_back("default");
  }
  const fs::path further = directory / "chat_templates";
  if (fs::is_directory(further)) {
    for (const auto& entry : fs::directory_iterator(further)) {
      if (entry.path().extension() != ".jinja") continue;
      if (entry.path().stem() == name) return from_file(entry.path());
      names.push_back(entry.path().stem().string());
    }
  }
  for (const auto& [key, source] : templates_of(parse_config(config, config_path.string()), config_path.string())) {
    if (key == name) return make(source, config_path.string() + " chat_template", config, config_path.string());
    names.push_back(key);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  fail_missing(directory.string(), name, names);
}

ChatTemplate ChatTemplate::from_texts(const std::string& chat_template_jinja, const std::string& tokenizer_config_json,
                                      const std::string& name) {
  if (!chat_template_jinja.empty() && name == "default") {
    return make(chat_template_jinja, "chat_template.jinja", tokenizer_config_json, kConfigName);
  }
  std::vector<std::string> names;
  if (!chat_template_jinja.empty()) names.emplace_back("default");
  for (const auto& [key, source] : templates_of(parse_config(tokenizer_config_json, kConfigName), kConfigName)) {
    if (key == name)
      return make(source, std::string(kConfigName) + " chat_template", tokenizer_config_json, kConfigName);
    names.push_back(key);
  }
  fail_missing("the tokenizer", name, names);
}

bool ChatTemplate::in_texts(const std::string& chat_template_jinja, const std::string& tokenizer_config_json) {
  return !chat_template_jinja.empty() ||
         templates_of(parse_config(tokenizer_config_json, kConfigName), kConfigName).contains("default");
}

std::string ChatTemplate::render_messages(const jinja::Value& messages, const ChatRenderOptions& options) const {
  jinja::Dict variables = special_tokens_;
  variables.set(jinja::Value("messages"), messages);
  variables.set(jinja::Value("tools"), jinja::Value());
  variables.set(jinja::Value("documents"), jinja::Value());
  variables.set(jinja::Value("add_generation_prompt"), jinja::Value(options.add_generation_prompt));
  for (const auto& [name, value] : options.variables.items()) variables.set(name, value);
  jinja::RenderOptions render_options;
  render_options.now = options.now;
  return template_.render(variables, render_options);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options) const {
  return render_messages(list_of(messages), options);
}

RenderedTurns ChatTemplate::render_turns(const std::vector<ChatMessage>& messages,
                                         const ChatRenderOptions& options) const {
  ChatRenderOptions without_prompt = options;
  without_prompt.add_generation_prompt = false;
  ChatRenderOptions with_prompt = options;
  with_prompt.add_generation_prompt = true;
  const jinja::Value* eos = special_tokens_.find(jinja::Value("eos_token"));

  RenderedTurns turns;
  std::vector<ChatMessage> so_far;
  bool has_text = false;  // a template may refuse to render no messages at all, which is then not asked of it
  for (size_t i = 0; i < messages.size(); ++i) {
    const bool is_answer = messages[i].role == "assistant";
    const std::string prompt = is_answer ? render(so_far, with_prompt) : std::string();
    so_far.push_back(messages[i]);
    std::string text = render(so_far, without_prompt);
    DT_CHECK(!has_text || text.starts_with(turns.text),
             "message {} ({}) changes how the chat template renders the messages before it; this template cannot be "
             "trained on turn by turn",
             i, messages[i].role);
    if (is_answer) {
      TextSpan span{prompt.size(), text.size()};
      const size_t last_eos = eos == nullptr ? std::string::npos : text.rfind(eos->as_string());
      if (!text.starts_with(prompt)) {
        // The prompt opens the turn in a way that a finished turn does not have (R1 opens the reasoning): the turn then
        // starts where its own text does.
        const std::string_view content = trimmed(messages[i].content);
        const size_t found = content.empty() ? std::min(last_eos, text.size()) : text.find(content, turns.text.size());
        DT_CHECK(found != std::string::npos,
                 "the chat template alters the text of message {} (assistant), so no loss can be placed on it; write "
                 "the message as the template prints it (R1 templates drop what stands before </think>)",
                 i);
        span.begin = found;
      }
      if (last_eos != std::string::npos && last_eos >= span.begin) span.end = last_eos + eos->as_string().size();
      turns.assistant.push_back(span);
    }
    turns.text = std::move(text);
    has_text = true;
  }
  if (!has_text) turns.text = render(so_far, without_prompt);
  return turns;
}

namespace {

// Puts the tokenizer's own prefix (bos) before ids that do not start with it; how many were put there.
size_t ensure_prefix(const Tokenizer& tokenizer, std::vector<int32_t>& ids) {
  const std::vector<int32_t>& prefix = tokenizer.prefix_ids();
  if (ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin())) return 0;
  ids.insert(ids.begin(), prefix.begin(), prefix.end());
  return prefix.size();
}

constexpr EncodeOptions kAsWritten = {.add_special_tokens = false, .parse_special_tokens = true};

}  // namespace

std::vector<int32_t> encode_rendered(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text, kAsWritten);
  ensure_prefix(tokenizer, ids);
  return ids;
}

EncodedTurns encode_turns(const Tokenizer& tokenizer, const RenderedTurns& turns) {
  EncodedTurns encoded;
  const auto add = [&](size_t begin, size_t end, bool in_loss) {
    if (begin == end) return;
    const std::string_view part = std::string_view(turns.text).substr(begin, end - begin);
    const std::vector<int32_t> ids = tokenizer.encode(part, kAsWritten);
    encoded.ids.insert(encoded.ids.end(), ids.begin(), ids.end());
    encoded.in_loss.resize(encoded.ids.size(), in_loss);
  };
  size_t done = 0;
  for (const TextSpan& span : turns.assistant) {
    add(done, span.begin, false);
    add(span.begin, span.end, true);
    done = span.end;
  }
  add(done, turns.text.size(), false);
  encoded.in_loss.insert(encoded.in_loss.begin(), ensure_prefix(tokenizer, encoded.ids), false);
  return encoded;
}

}  // namespace deeptitan
