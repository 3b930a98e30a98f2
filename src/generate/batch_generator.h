#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "generate/generation.h"
#include "generate/model_runner.h"
#include "generate/scheduler.h"

namespace deeptitan {

/// One text to be continued.
struct GenerationRequest {
  std::vector<int32_t> prompt;
  GenerationOptions options;
};

/// Continues many texts at once, which may come and go while it runs:
///
///     const int64_t request = generator.admit({prompt, options});   // whenever one comes
///     generator.step();                                             // one batch, as long as any are left
///     for (auto& [request, generation] : generator.take_finished()) ...
///
/// Each gets the tokens that TextGenerator would give it on an engine of the same prefill_chunk and an empty cache,
/// whatever it runs beside and whenever it comes. A prompt that several requests have (samples with seeds of their own)
/// is run once, where they come before it has run.
///
/// Its calls are made one after another, by one thread, and not from within a callback. A call of step, or of cancel,
/// that throws has given up all requests; what had finished before can still be taken, and new ones be admitted.
class BatchGenerator {
 public:
  /// Called with each piece of a request's text as soon as it is certain.
  using OnText = std::function<void(std::string_view text)>;
  /// The same with the request's place among those of `generate`.
  using OnTextOf = std::function<void(size_t request, std::string_view text)>;
  /// Called when a request is done; requests end in any order.
  using OnDone = std::function<void(size_t request, const Generation& generation)>;

  /// A request that has ended, by the number that `admit` gave it.
  struct Finished {
    int64_t request = 0;
    Generation generation;
  };

  /// `end_ids` sorted: see GenerationConfig. The runner's pages are this generator's alone while it has requests.
  BatchGenerator(ModelRunner& runner, Tokenizer tokenizer, std::vector<int32_t> end_ids);
  ~BatchGenerator();

  /// Takes a request in and returns its number; nothing of it runs yet. Throws a usage error that says why it cannot be
  /// run: an empty prompt, one without room in the context, a token that the model does not know, options out of range.
  int64_t admit(GenerationRequest request, OnText on_text = {});
  /// Runs the next batch: one token of each text, and chunks of prompts beside them. Returns whether requests are left.
  bool step();
  /// Ends a request with the text that it has, as StopReason::kInterrupted; its pages are free at once. Says whether
  /// there was one: it may have ended before.
  bool cancel(int64_t request);
  /// What has ended since the last call, in the order in which it did.
  std::vector<Finished> take_finished();
  /// Requests that were admitted and have not ended.
  int64_t in_progress() const { return static_cast<int64_t>(requests_.size()); }

  /// The results of a whole list, in its order, where nothing else is in progress. Throws a usage error that names the
  /// first request that cannot be run, before any is.
  std::vector<Generation> generate(std::span<const GenerationRequest> requests, const OnDone& on_done = {},
                                   const OnTextOf& on_text = {});

 private:
  struct Request;
  struct ByTokens {
    bool operator()(const Sequence* a, const Sequence* b) const { return a->tokens < b->tokens; }
  };
  // A prompt that has run, for the requests that still wait for it.
  struct SharedPrompt {
    Sequence sequence;
    std::vector<float> logits;
    std::deque<Request*> waiting;
  };

  void check(const GenerationRequest& request) const;
  void run_batch();
  void take(Request& request, std::span<const float> logits, int32_t token);
  void end(Request& request, StopReason reason);
  void end_interrupted();
  void stop_waiting(Request& request);
  void queue(Request& request);
  bool is_waited_for(Request& leader) const;
  void share_prompt(Request& leader, std::span<const float> logits);
  void start_followers();
  std::deque<Request*> drop(std::list<SharedPrompt>::iterator prompt);
  void give_up_all();

  ModelRunner& runner_;
  Tokenizer tokenizer_;
  std::vector<int32_t> end_ids_;
  std::vector<bool> decodable_;
  Scheduler scheduler_;
  int64_t admitted_ = 0;
  std::map<int64_t, std::unique_ptr<Request>> requests_;  // that have not ended, by number
  std::set<int64_t> interruptible_;                       // of them
  // By the first request with a prompt, until that has run: those with the same one that came after it.
  std::map<Sequence*, std::deque<Request*>, ByTokens> followers_;
  std::list<SharedPrompt> prompts_;
  std::vector<Finished> finished_;
};

}  // namespace deeptitan
