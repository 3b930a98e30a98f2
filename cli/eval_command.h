#pragma once

namespace CLI {
class App;
}

namespace deeptitan {

/// Adds `eval --model DIR --text FILE | --token-ids FILE.json [--json] | --pairs FILE.jsonl`: how well a model predicts
/// a text, or how probable continuations are.
void add_eval_command(CLI::App& app);

}  // namespace deeptitan
