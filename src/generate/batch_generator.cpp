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
      : generator_(generator),
        runner_(generator.runner_),
        scheduler_(runner_),
        requests_(requests),
        on_done_(on_done),
        on_text_(on_text),
        results_(requests.size()) {
    std::map<std::vector<int32_t>, size_t> first_with;
    sequences_.reserve(requests.size());  // the scheduler keeps their addresses
    for (size_t i = 0; i < requests.size(); ++i) {
      const GenerationRequest& request = requests[i];
      if (request.options.interrupted) interruptible_.insert(i);
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
    return std::move(results_);
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

  // A text that has begun and has not ended: only so many as run at once take memory.
  struct Text {
    Text(BatchGenerator& generator, const GenerationRequest& request, TextInProgress::OnText on_text)
        : text(generator.tokenizer_, generator.decodable_, generator.end_ids_, request.options, std::move(on_text)) {
      text.result().prompt_tokens = std::ssize(request.prompt);
    }
    TextInProgress text;
    double begun = monotonic_seconds();
  };

  Text& begun(size_t i) {
    const auto found = texts_.find(i);
    if (found != texts_.end()) return found->second;
    TextInProgress::OnText give = {};
    if (on_text_) give = [this, i](std::string_view text) { on_text_(i, text); };
    return texts_.try_emplace(i, generator_, requests_[i], std::move(give)).first->second;
  }
  Generation& result(size_t i) { return begun(i).text.result(); }

  void end_interrupted() {
    for (auto next = interruptible_.begin(); next != interruptible_.end();) {
      const size_t i = *next++;  // which end() takes away
      if (requests_[i].options.interrupted()) end(i, StopReason::kInterrupted);
    }
  }

  bool step() {
    start_followers();
    end_interrupted();
    const std::vector<ModelRunner::Rows> rows = scheduler_.next();
    if (rows.empty()) return run_waiting_alone();
    for (const ModelRunner::Rows& row : rows) begun(place_of(row));
    const std::span<const float> logits = runner_.run(rows);
    const auto vocab = static_cast<size_t>(runner_.config().vocab_size);
    for (size_t row = 0; row < rows.size(); ++row) {
      const size_t i = place_of(rows[row]);
      if (sequences_[i].pending() > 0) continue;  // more of its prompt is to come
      const std::span<const float> mine = logits.subspan(row * vocab, vocab);
      const bool first = result(i).tokens.empty();
      if (first) share_prompt(i, mine);
      if (!first) ++result(i).decoded_tokens;
      take(i, mine);
    }
    return true;
  }

  size_t place_of(const ModelRunner::Rows& rows) const {
    return static_cast<size_t>(rows.sequence - sequences_.data());
  }

  void take(size_t i, std::span<const float> logits) {
    Text& mine = begun(i);
    Generation& so_far = mine.text.result();
    if (so_far.tokens.empty()) so_far.prefill_seconds = monotonic_seconds() - mine.begun;
    std::optional<StopReason> reason;
    try {
      reason = mine.text.take(logits, sequences_[i].tokens);
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
    Text& ended = begun(i);
    ended.text.finish(reason);
    Generation& made = results_[i] = std::move(ended.text.result());
    made.decode_seconds = monotonic_seconds() - ended.begun - made.prefill_seconds;
    texts_.erase(i);
    interruptible_.erase(i);
    scheduler_.remove(&sequences_[i]);
    runner_.release(sequences_[i]);
    if (reason == StopReason::kInterrupted) {  // maybe before it ran
      for (auto& [leader, waiting] : followers_) std::erase(waiting, i);
      for (auto& [leader, prompt] : prompts_) std::erase(prompt.waiting, i);
    }
    // Those that waited for a prompt that will not be run now run it themselves.
    if (const auto waiting = followers_.extract(i)) queue_all(waiting.mapped());
    if (on_done_) on_done_(i, made);
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
        result(i).cached_tokens = sequences_[i].cached;
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

  BatchGenerator& generator_;
  ModelRunner& runner_;
  Scheduler scheduler_;
  std::span<const GenerationRequest> requests_;
  const OnDone& on_done_;
  const OnText& on_text_;
  std::vector<Generation> results_;
  std::map<size_t, Text> texts_;
  std::vector<Sequence> sequences_;
  std::set<size_t> interruptible_;                  // that have not ended
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
