#include "jinja/names.h"

namespace deeptitan::jinja {
namespace {

void collect(const Body& body, Names& names);

void collect(const Expression* node, Names& names) {
  if (node == nullptr) return;
  if (node->kind == ExpressionKind::kName) names.read.insert(node->name);
  const bool asks = (node->kind == ExpressionKind::kTest && (node->name == "defined" || node->name == "undefined")) ||
                    (node->kind == ExpressionKind::kFilter && (node->name == "default" || node->name == "d"));
  if (asks && node->items[0] != nullptr && node->items[0]->kind == ExpressionKind::kName) {
    names.tested.insert(node->items[0]->name);
  }
  for (const ExpressionPtr& item : node->items) collect(item.get(), names);
  for (const ExpressionPtr& item : node->arguments.positional) collect(item.get(), names);
  for (const auto& [name, item] : node->arguments.keywords) collect(item.get(), names);
  collect(node->arguments.spread.get(), names);
  collect(node->arguments.spread_keywords.get(), names);
}

void collect_target(const Expression* target, Names& names) {
  if (target == nullptr) return;
  if (target->kind == ExpressionKind::kName) names.assigned.insert(target->name);
  for (const ExpressionPtr& item : target->items) collect_target(item.get(), names);
}

void collect(const Body& body, Names& names) {
  for (const auto& statement : body) {
    collect(statement->expression.get(), names);
    collect(statement->condition.get(), names);
    collect_target(statement->target.get(), names);
    if (statement->kind == StatementKind::kMacro) names.assigned.insert(statement->text);
    for (const Branch& branch : statement->branches) {
      collect(branch.test.get(), names);
      collect(branch.body, names);
    }
    for (const Parameter& parameter : statement->parameters) {
      names.assigned.insert(parameter.name);
      collect(parameter.default_value.get(), names);
    }
    for (const auto& [target, value] : statement->assignments) {
      collect_target(target.get(), names);
      collect(value.get(), names);
    }
    collect(statement->body, names);
    collect(statement->else_body, names);
  }
}

}  // namespace

Names names_of(const Body& body) {
  Names names;
  collect(body, names);
  return names;
}

}  // namespace deeptitan::jinja
