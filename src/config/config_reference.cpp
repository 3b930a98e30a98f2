#include <fmt/format.h>

#include "config/config_keys.h"
#include "config/run_config_toml.h"

namespace deeptitan {

namespace {

std::string_view section_title(std::string_view section) {
  if (section == "job") return "What the run is and where it leaves its files.";
  if (section == "metrics") return "What the run reports.";
  if (section == "model") return "What is trained.";
  if (section == "optimizer") return "How gradients become new weights.";
  if (section == "lr_scheduler") return "How the learning rate changes from step to step.";
  if (section == "training") return "How long, on how much, and in what precision.";
  if (section == "parallelism") return "How the run is laid out over ranks.";
  if (section == "checkpoint") return "What is saved.";
  if (section == "activation_checkpoint") return "Time for memory.";
  if (section == "data") return "The text.";
  return "The text that is held out.";
}

template <typename Owner>
std::string table_row(const ConfigKey<Owner>& key, std::string_view shown_name, const ConfigMember& member) {
  std::string values = expected_values(member, key.range);
  if (!key.unit.empty()) values += fmt::format(" ({})", key.unit);
  const bool is_table =
      std::holds_alternative<TableMember>(member) || std::holds_alternative<std::vector<TextSource>*>(member);
  return fmt::format("| `{}` | {} | {} | {} |\n", shown_name, values,
                     is_table ? "none" : fmt::format("`{}`", value_as_toml(member)), key.doc);
}

constexpr std::string_view kTableHead = "| key | takes | default | meaning |\n|---|---|---|---|\n";

}  // namespace

std::string config_reference_markdown() {
  std::string text =
      "# The keys of a run file\n\n"
      "Generated from the table in `src/config/config_keys.cpp`; a test holds the two equal.\n\n"
      "A run file is TOML: `deeptitan train run.toml`. Every key can be set on the command line too, after the file:\n"
      "`--training.steps 100`, `--model.shape.hidden_size 512`, `--data.sources '[{path = \"a.txt\"}]'`. A key that "
      "is\n"
      "not listed here is an error. Paths are relative to the working directory. A resumed run must have the values\n"
      "it was saved with, except for the keys marked with *.\n";
  RunConfig defaults;
  TextSource source_defaults;
  std::string_view section;
  std::string nested;
  for (const ConfigKey<RunConfig>& key : run_config_keys()) {
    if (key.section() != section) {
      text += nested;
      nested.clear();
      section = key.section();
      text += fmt::format("\n## [{}]\n\n{}\n\n{}", section, section_title(section), kTableHead);
    }
    const ConfigMember member = key.member(defaults);
    text += table_row(key, fmt::format("{}{}", key.short_name(), key.allowed_on_resume ? "*" : ""), member);
    if (std::holds_alternative<std::vector<TextSource>*>(member)) {
      nested = fmt::format("\n### [[{}]]\n\nOne table for each text.\n\n{}", key.name, kTableHead);
      for (const ConfigKey<TextSource>& source_key : text_source_keys()) {
        nested += table_row(source_key, source_key.name, source_key.member(source_defaults));
      }
    }
  }
  return text + nested;
}

}  // namespace deeptitan
