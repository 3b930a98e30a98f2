#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jinja/value.h"

namespace deeptitan::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,        // constant
  kName,            // name
  kNamespaceField,  // name.text, only as the target of `set`
  kList,            // items
  kTuple,           // items
  kDict,            // items: key, value, key, value, ...
  kAttribute,       // items[0].name
  kItem,            // items[0][items[1]]
  kSlice,           // items[0][items[1]:items[2]:items[3]]; a bound that is left out is null
  kCall,            // items[0](arguments)
  kFilter,          // items[0]|name(arguments); items[0] is null for the body of a block
  kTest,            // items[0] is name(arguments)
  kUnary,           // name items[0], of "-", "+", "not"
  kBinary,          // items[0] name items[1], arithmetic
  kCompare,         // items[0] operators[0] items[1] operators[1] items[2] ...
  kAnd,             // items[0] and items[1]
  kOr,
  kConcat,       // items joined as text
  kConditional,  // items[1] if items[0] else items[2], which may be null
};

/// Arguments of a call as written.
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr spread;           // *expression
  ExpressionPtr spread_keywords;  // **expression
};

/// A node of an expression; what its fields mean stands with its kind.
struct Expression {
  ExpressionKind kind;
  int line;
  int depth = 1;  // nodes on the longest way down
  std::string name;
  std::string text;
  Value constant;
  std::vector<ExpressionPtr> items;
  std::vector<std::string> operators;
  CallArguments arguments;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind {
  kText,         // text
  kPrint,        // expression
  kSet,          // target = expression
  kSetBlock,     // target = body, through the filters of expression if there are any
  kIf,           // branches; the last one has no test if there is an else
  kFor,          // target in expression [if condition]: body, else_body
  kMacro,        // name(parameters): body
  kFilterBlock,  // body through the filters of expression
  kWith,         // targets = values: body
  kGeneration,   // body
  kBreak,
  kContinue,
};

struct Parameter {
  std::string name;
  ExpressionPtr default_value;  // null if there is none
};

struct Branch {
  ExpressionPtr test;
  Body body;
};

/// A node of the template outside of expressions; what its fields mean stands with its kind.
struct Statement {
  StatementKind kind;
  int line;
  std::string text;
  ExpressionPtr target;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  Body body;
  Body else_body;
};

}  // namespace deeptitan::jinja
