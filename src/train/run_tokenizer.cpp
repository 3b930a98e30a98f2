#include "train/run_tokenizer.h"

#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {

Tokenizer load_tokenizer(const RunConfig& config) {
  const auto& model = config.model;
  const bool of_checkpoint = model.tokenizer.empty();
  const std::filesystem::path place = of_checkpoint ? model.initial_checkpoint : model.tokenizer;
  std::error_code error;
  DT_CHECK_USAGE(std::filesystem::exists(place, error),
                 "model.{} = {}: no such file or directory; paths are relative to the working directory",
                 of_checkpoint ? "initial_checkpoint" : "tokenizer", place.string());
  Tokenizer tokenizer = Tokenizer::load(place);
  if (model.chat_template.empty()) return tokenizer;
  DT_CHECK_USAGE(
      std::filesystem::is_regular_file(model.chat_template),
      "model.chat_template = {}: no such file; name a Jinja file, or leave the key out to use the tokenizer's "
      "own template",
      model.chat_template);
  return Tokenizer::from_json(tokenizer.tokenizer_json(), tokenizer.tokenizer_config_json(),
                              read_file(model.chat_template));
}

std::shared_ptr<const ChatTemplate> load_chat_template(const RunConfig& config, const Tokenizer& tokenizer) {
  if (!config.data.has_chats() && config.model.chat_template.empty()) return nullptr;
  DT_CHECK_USAGE(ChatTemplate::in_texts(tokenizer.chat_template_jinja(), tokenizer.tokenizer_config_json()),
                 "a source has format = \"chat\", but the tokenizer has no chat template to render conversations with; "
                 "set model.chat_template to a Jinja file");
  return std::make_shared<const ChatTemplate>(
      ChatTemplate::from_texts(tokenizer.chat_template_jinja(), tokenizer.tokenizer_config_json()));
}

}  // namespace deeptitan
