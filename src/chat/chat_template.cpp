#include "chat/chat_template.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/file.h"
#include "core/shown_text.h"

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

}  // namespace

ChatTemplate ChatTemplate::make(std::string_view source, std::string name, const std::string& tokenizer_config_json,
                                std::string_view config_name) {
  ChatTemplate made(jinja::Template(source, std::move(name)),
                    special_tokens_of(parse_config(tokenizer_config_json, config_name)));
  made.takes_parts_ = made.takes_parts();
  return made;
}

// Tried with a question of each kind: whoever cannot read parts fails on them, leaves them out, or shows their Python.
bool ChatTemplate::takes_parts() const {
  constexpr std::string_view kWord = "deeptitan";
  const auto shows = [&](const jinja::Value& content) {
    jinja::Dict message;
    message.set("role", "user");
    message.set("content", content);
    try {
      const std::string text = render_values({jinja::Value::dict(std::move(message))}, {}, false).bytes();
      return text.find(kWord) != std::string::npos && text.find("{'type'") == std::string::npos;
    } catch (const Error&) {
      return false;
    }
  };
  jinja::Dict part;
  part.set("type", "text");
  part.set("text", kWord);
  return shows(jinja::Value::list({jinja::Value::dict(std::move(part))})) || !shows(kWord);
}

jinja::Value ChatTemplate::value_of(const jinja::Value& message) const {
  const jinja::Dict* dict = message.as_dict();
  const jinja::Value* content = dict == nullptr ? nullptr : dict->find("content");
  if (takes_parts_ || content == nullptr || content->is_string() || content->as_sequence() == nullptr) return message;
  jinja::Dict readable = *dict;
  readable.set("content", text_of_content(*content));
  return jinja::Value::dict(std::move(readable));
}

ChatTemplate ChatTemplate::load(const fs::path& directory, const fs::path& file, const std::string& name) {
  DT_CHECK(fs::is_directory(directory), "{} is not a directory; name a Hugging Face model directory",
           directory.string());
  const fs::path config_path = directory / kConfigName;
  const std::string config = read_if_exists(config_path);
  const auto from_file = [&](const fs::path& path) {
    const std::string source = read_file(path);
    DT_CHECK_USAGE(source.find_first_not_of(" \t\r\n") != std::string::npos,
                   "{} is empty; expected a chat template in Jinja", path.string());
    return make(source, path.string(), config, config_path.string());
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

jinja::TracedText ChatTemplate::render_values(std::vector<jinja::Value> messages, const ChatRenderOptions& options,
                                              bool add_generation_prompt) const {
  jinja::Dict variables = special_tokens_;
  variables.set("messages", jinja::Value::list(std::move(messages)));
  variables.set("tools", options.tools);
  variables.set("documents", jinja::Value());
  variables.set("add_generation_prompt", jinja::Value(add_generation_prompt));
  for (const auto& [name, value] : options.variables.items()) variables.set(name, value);
  jinja::RenderOptions render_options;
  render_options.now = options.now;
  return template_.render_traced(variables, render_options);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options) const {
  check_options(options);
  std::vector<jinja::Value> values;
  values.reserve(messages.size());
  for (const ChatMessage& message : messages) values.push_back(value_of(message_value(message)));
  return render_values(std::move(values), options, options.add_generation_prompt).bytes();
}

std::string ChatTemplate::render_messages(const jinja::Value& messages, const ChatRenderOptions& options) const {
  DT_CHECK_USAGE(messages.as_sequence() != nullptr, "expected a list of messages, not a {}", messages.type_name());
  check_options(options);
  std::vector<jinja::Value> values;
  for (const jinja::Value& message : messages.as_sequence()->items) values.push_back(value_of(message));
  return render_values(std::move(values), options, options.add_generation_prompt).bytes();
}

void ChatTemplate::check_options(const ChatRenderOptions& options) const {
  DT_CHECK_USAGE(options.tools.is_none() || template_.reads("tools"),
                 "the chat template takes no tools, so the model would not see them; leave them out, or use a template "
                 "that reads `tools`");
  for (const auto& [name, value] : options.variables.items()) {
    for (const char* own : {"messages", "add_generation_prompt", "tools"}) {
      DT_CHECK_USAGE(name.as_string() != own,
                     "'{}' is no variable to set: the template is given it with the conversation", own);
    }
    DT_CHECK_USAGE(template_.reads(name.as_string()),
                   "the chat template reads no variable '{}', so it would change nothing; it reads {}",
                   shown(name.as_string()), fmt::join(template_.names_read(), ", "));
  }
}

}  // namespace deeptitan
