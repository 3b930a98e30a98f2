#include "generate/batch_generator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "generate/not_finite.h"
#include "generate/scheduler.h"

namespace deeptitan {

// One call of generate.
class BatchGenerator::Run {
 public:
  Run(BatchGenerator& generator, std::span<const GenerationRequest> requests, const OnDone& on_done,
      const OnText& on_text)
      : runner_(generator.runner_), scheduler_(runner_), requests_(requests), on_done_(on_done) {
    std::map<std::vector<int32_t>, size_t> first_with;
    sequences_.reserve(requests.size());  // the scheduler keeps their addresses
    for (size_t i = 0; i < requests.size(); ++i) {
      const GenerationRequest& request = requests[i];
      TextInProgress::OnText give = {};
      if (on_text) give = [&on_text, i](std::string_view text) { on_text(i, text); };
      texts_.emplace_back(generator.tokenizer_, generator.decodable_, generator.end_ids_, request.options,
                          std::move(give));
      texts_.back().result().prompt_tokens = std::ssize(request.prompt);
      sequences_.push_back({.tokens = request.prompt, .cached = 0, .pages = {}});
      const auto [found, is_first] = first_with.emplace(request.prompt, i);
      if (is_first) {
        scheduler_.add(&sequences_[i], most_tokens(i));
      } else {
        followers_[found->second].push_back(i);
      }
    }
  }

  ~Run() {
    for (Sequence& sequence : sequences_) runner_.release(sequence);
    for (auto& [leader, prompt] : prompts_) runner_.release(prompt.sequence);
  }

  std::vector<Generation> finish() {
    while (step()) {
    }
    std::vector<Generation> results;
    for (TextInProgress& text : texts_) results.push_back(std::move(text.result()));
    return results;
  }

 private:
  // A prompt that has run, for the requests that still wait for it.
  struct SharedPrompt {
    Sequence sequence;
    std::vector<float> logits;
    std::deque<size_t> waiting;
  };

  // The last token is never run.
  int64_t most_tokens(size_t i) const {
    return std::min(runner_.options().context_length,
                    std::ssize(requests_[i].prompt) + requests_[i].options.max_new_tokens - 1);
  }

  bool step() {
    start_followers();
    for (size_t i = 0; i < texts_.size(); ++i) {
      if (!done(i) && texts_[i].interrupted()) end(i, StopReason::kInterrupted);
    }
    const std::vector<ModelRunner::Rows> rows = scheduler_.next();
    if (rows.empty()) return run_waiting_alone();
    const std::span<const float> logits = runner_.run(rows);
    const auto vocab = static_cast<size_t>(runner_.config().vocab_size);
    for (size_t row = 0; row < rows.size(); ++row) {
      const auto i = static_cast<size_t>(rows[row].sequence - sequences_.data());
      if (sequences_[i].pending() > 0) continue;  // more of its prompt is to come
      const std::span<const float> mine = logits.subspan(row * vocab, vocab);
      const bool first = texts_[i].result().tokens.empty();
      if (first) share_prompt(i, mine);
      if (!first) ++texts_[i].result().decoded_tokens;
      take(i, mine);
    }
    return true;
  }

  bool done(size_t i) const { return done_.contains(i); }

  void take(size_t i, std::span<const float> logits) {
    Generation& result = texts_[i].result();
    if (result.tokens.empty()) result.prefill_seconds = monotonic_seconds() - start_;
    std::optional<StopReason> reason;
    try {
      reason = texts_[i].take(logits, sequences_[i].tokens);
    } catch (const NotFinite& found) {
      const std::vector<int32_t> tokens = sequences_[i].tokens;
      for (Sequence& sequence : sequences_) runner_.release(sequence);
      for (auto& [leader, prompt] : prompts_) runner_.release(prompt.sequence);
      explain_not_finite(runner_, tokens, found);
    }
    if (!reason && sequences_[i].length() > runner_.options().context_length) reason = StopReason::kContextFull;
    if (reason) end(i, *reason);
  }

  void end(size_t i, StopReason reason) {
    texts_[i].finish(reason);
    Generation& result = texts_[i].result();
    result.decode_seconds = monotonic_seconds() - start_ - result.prefill_seconds;
    scheduler_.remove(&sequences_[i]);
    runner_.release(sequences_[i]);
    done_.insert(i);
    for (auto& [leader, waiting] : followers_) std::erase(waiting, i);
    for (auto& [leader, prompt] : prompts_) std::erase(prompt.waiting, i);
    // Those that waited for a prompt that will not be run now run it themselves.
    if (const auto waiting = followers_.extract(i)) queue_all(waiting.mapped());
    if (on_done_) on_done_(i, result);
  }

  void queue_all(const std::deque<size_t>& requests) {
    for (const size_t i : requests) scheduler_.add(&sequences_[i], most_tokens(i));
  }

  // The prompt of `leader` has run: keeps it for its followers, where there are pages for it besides what is promised.
  void share_prompt(size_t leader, std::span<const float> logits) {
    auto waiting = followers_.extract(leader);
    if (!waiting || waiting.mapped().empty()) return;
    const int64_t pages = runner_.pages_for(sequences_[leader].cached);
    if (!scheduler_.can_reserve(pages)) return queue_all(waiting.mapped());
    scheduler_.reserve(pages);
    prompts_[leader] = {.sequence = runner_.fork(sequences_[leader]),
                        .logits = {logits.begin(), logits.end()},
                        .waiting = std::move(waiting.mapped())};
  }

  void drop(std::map<size_t, SharedPrompt>::iterator prompt) {
    scheduler_.unreserve(std::ssize(prompt->second.sequence.pages));
    runner_.release(prompt->second.sequence);
    prompts_.erase(prompt);
  }

  void start_followers() {
    for (auto prompt = prompts_.begin(); prompt != prompts_.end();) {
      const auto current = prompt++;
      SharedPrompt& shared = current->second;
      while (!shared.waiting.empty() && scheduler_.can_admit(most_tokens(shared.waiting.front()))) {
        const size_t i = shared.waiting.front();
        shared.waiting.pop_front();
        scheduler_.admit(&sequences_[i], most_tokens(i));
        sequences_[i] = runner_.fork(shared.sequence);
        texts_[i].result().cached_tokens = sequences_[i].cached;
        take(i, shared.logits);
      }
      if (shared.waiting.empty()) drop(current);
    }
  }

  // Nothing runs: what still waits for a place beside a kept prompt runs its prompt itself.
  bool run_waiting_alone() {
    if (prompts_.empty()) return false;
    const std::deque<size_t> waiting = prompts_.begin()->second.waiting;
    drop(prompts_.begin());
    queue_all(waiting);
    return true;
  }

  ModelRunner& runner_;
  Scheduler scheduler_;
  std::span<const GenerationRequest> requests_;
  const OnDone& on_done_;
  const double start_ = monotonic_seconds();
  std::deque<TextInProgress> texts_;
  std::vector<Sequence> sequences_;
  std::set<size_t> done_;
  std::map<size_t, std::deque<size_t>> followers_;  // by the first request with the same prompt, until that has run
  std::map<size_t, SharedPrompt> prompts_;
};

BatchGenerator::BatchGenerator(ModelRunner& runner, Tokenizer tokenizer, std::vector<int32_t> end_ids)
    : runner_(runner),
      tokenizer_(std::move(tokenizer)),
      end_ids_(std::move(end_ids)),
      decodable_(decodable_ids(tokenizer_)) {}

std::vector<Generation> BatchGenerator::generate(std::span<const GenerationRequest> requests, const OnDone& on_done,
                                                 const OnText& on_text) {
  for (size_t i = 0; i < requests.size(); ++i) {
    try {
      DT_CHECK_USAGE(!requests[i].prompt.empty(), "the prompt is empty");
      check_generation(std::ssize(requests[i].prompt), runner_.options().context_length, requests[i].options);
    } catch (const Error& error) {
      fail_usage("request {} of {}: {}", i + 1, requests.size(), error.what());
    }
  }
  return Run(*this, requests, on_done, on_text).finish();
}

}  // namespace deeptitan
