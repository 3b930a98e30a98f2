#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "generate/evaluate.h"
#include "generate/not_finite.h"

namespace deeptitan {
namespace {

constexpr int64_t kSequences = 64;
constexpr int64_t kBatchTokens = 1024;
// Of the contexts of a wave: more than a batch, so that their continuations, which are short, fill one too.
constexpr int64_t kWaveTokens = 4 * kBatchTokens;
// Contexts that share less than this at their beginning share nothing.
constexpr int64_t kLeastTrunk = 64;

// A pair as it is run: the tokens that fit in the context, of which those from `first` on are scored. The last is only
// predicted.
struct PairTokens {
  std::vector<int32_t> ids;
  int64_t first = 0;
  size_t place = 0;  // among the pairs

  int64_t inputs() const { return std::ssize(ids) - 1; }
  // What is run for all pairs of one context; the context's last token is the continuation's first input.
  std::span<const int32_t> context() const { return std::span(ids).first(first - 1); }
};

// A sequence whose pending tokens are to be run, and the log-probabilities of the followers of the last of them.
struct Task {
  Sequence sequence;
  const PairTokens* pair = nullptr;  // that is scored with it; nullptr: it is run for others
  int64_t begin = 0;                 // the first of its tokens that this task runs
  std::vector<float> logprobs = {};
  std::vector<int32_t> likeliest = {};
};

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

class PairScorer {
 public:
  PairScorer(ModelRunner& runner, std::span<const TokenPair> pairs)
      : runner_(runner), shares_(runner.config().rope.kind != RopeKind::kDynamic), scores_(pairs.size()) {
    for (size_t i = 0; i < pairs.size(); ++i) pairs_.push_back(tokens_of(pairs[i], i));
    // Contexts that are the same, or begin alike, one after another.
    std::stable_sort(pairs_.begin(), pairs_.end(), [](const PairTokens& a, const PairTokens& b) {
      return std::ranges::lexicographical_compare(a.context(), b.context());
    });
  }
  ~PairScorer() { release_all(); }
  PairScorer(const PairScorer&) = delete;
  PairScorer& operator=(const PairScorer&) = delete;

  std::vector<ContinuationScore> scores() {
    for (size_t next = 0; next < pairs_.size();) next = run_wave(next);
    return std::move(scores_);
  }

 private:
  PairTokens tokens_of(const TokenPair& pair, size_t place) const {
    const int64_t most = runner_.options().context_length;
    const auto wanted = std::ssize(pair.continuation);
    DT_CHECK_USAGE(!pair.context.empty() && wanted > 0,
                   "a context of {} and a continuation of {} tokens: each needs at least one", pair.context.size(),
                   wanted);
    DT_CHECK_USAGE(wanted <= most, "a continuation of {} tokens does not fit in the context of {}", wanted, most);
    PairTokens tokens{.ids = pair.context, .place = place};
    tokens.ids.insert(tokens.ids.end(), pair.continuation.begin(), pair.continuation.end());
    if (std::ssize(tokens.ids) > most + 1) tokens.ids.erase(tokens.ids.begin(), tokens.ids.end() - (most + 1));
    tokens.first = std::ssize(tokens.ids) - wanted;
    return tokens;
  }

  // The pairs from `begin` on that have one context.
  size_t group_end(size_t begin) const {
    size_t end = begin + 1;
    const bool fits = runner_.pages_for(pairs_[begin].inputs()) + 2 <= runner_.pages().pages();
    if (!shares_ || !fits || pairs_[begin].first == 1) return end;
    while (end < pairs_.size() && std::ranges::equal(pairs_[end].context(), pairs_[begin].context())) ++end;
    return end;
  }

  // Pages that a sequence of so many tokens takes beside those that it shares, one that is shared in part included.
  int64_t own_pages(int64_t tokens, int64_t shared) const {
    return runner_.pages_for(tokens) - shared / runner_.options().page_size;
  }

  // Runs contexts that together fill some batches, then all their continuations. Gives the first pair that is left.
  size_t run_wave(size_t begin) {
    std::vector<std::pair<size_t, size_t>> groups;
    int64_t tokens = 0, pages = 0;
    int64_t trunk = shares_ ? pairs_[begin].first - 1 : 0;
    const int64_t there_already = common_prefix(trunk_.tokens, pairs_[begin].context());
    size_t next = begin;
    while (next < pairs_.size() && std::ssize(groups) < runner_.batch_sequences()) {
      const PairTokens& pair = pairs_[next];
      const int64_t shared = shares_ ? std::min(trunk, common_prefix(pairs_[begin].context(), pair.context())) : 0;
      // What begins in another way comes in another wave.
      if (groups.size() > 1 && trunk >= kLeastTrunk && shared < trunk / 2) break;
      if (groups.size() == 1 && there_already >= kLeastTrunk && shared < kLeastTrunk) break;
      const size_t end = group_end(next);
      int64_t longest = 0;
      for (size_t i = next; i < end; ++i) longest = std::max(longest, pairs_[i].inputs());
      const int64_t more_tokens = end - next == 1 ? pair.inputs() : pair.first - 1;
      const int64_t more_pages = runner_.pages_for(longest) + 2;
      const int64_t unshared = tokens + more_tokens - shared * (std::ssize(groups) + 1);
      const bool fits =
          unshared <= std::max(kWaveTokens, runner_.batch_tokens()) && pages + more_pages <= runner_.pages().pages();
      if (!groups.empty() && !fits) break;
      groups.emplace_back(next, end);
      tokens += more_tokens;
      pages += more_pages;
      trunk = shared;
      next = end;
    }
    if (groups.size() == 1) trunk = there_already;
    run_trunk(begin, trunk >= kLeastTrunk ? trunk : 0);
    run_contexts(groups);
    return next;
  }

  // What the contexts of a wave share at their beginning; what it shares with the wave before is there already.
  void run_trunk(size_t begin, int64_t length) {
    const std::span<const int32_t> tokens = std::span(pairs_[begin].ids).first(length);
    runner_.truncate(trunk_, common_prefix(trunk_.tokens, tokens));
    if (trunk_.length() == length) return;
    trunk_.tokens.assign(tokens.begin(), tokens.end());
    tasks_.clear();
    tasks_.push_back({.sequence = std::exchange(trunk_, {}), .pair = nullptr});
    run_tasks();
    trunk_ = std::exchange(tasks_.front().sequence, {});
    tasks_.clear();
  }

  Task task_behind(const Sequence& shared, std::span<const int32_t> tokens, const PairTokens* pair) {
    Task task{.sequence = runner_.fork(shared), .pair = pair};
    task.begin = task.sequence.cached;
    task.sequence.tokens.assign(tokens.begin(), tokens.end());
    return task;
  }

  void run_contexts(const std::vector<std::pair<size_t, size_t>>& groups) {
    for (const auto& [begin, end] : groups) {
      const PairTokens& pair = pairs_[begin];
      // One that shares its context with no other is run whole.
      const bool whole = end - begin == 1;
      tasks_.push_back(task_behind(trunk_, whole ? std::span(pair.ids).first(pair.inputs()) : pair.context(),
                                   whole ? &pair : nullptr));
    }
    run_tasks();
    contexts_.swap(tasks_);
    for (size_t i = 0; i < groups.size(); ++i) {
      if (contexts_[i].pair == nullptr) run_continuations(contexts_[i].sequence, groups[i]);
    }
    if (!tasks_.empty()) finish_tasks();
    for (Task& context : contexts_) runner_.release(context.sequence);
    contexts_.clear();
  }

  void run_continuations(const Sequence& context, std::pair<size_t, size_t> group) {
    for (size_t i = group.first; i < group.second; ++i) {
      const PairTokens& pair = pairs_[i];
      int64_t tokens = pair.inputs() - (pair.first - 1), pages = own_pages(pair.inputs(), pair.first - 1);
      for (const Task& task : tasks_) {
        tokens += task.sequence.pending();
        pages += own_pages(task.sequence.length(), task.begin);
      }
      const bool fits = tokens <= runner_.batch_tokens() && pages <= runner_.pages().available() &&
                        std::ssize(tasks_) < runner_.batch_sequences();
      if (!fits && !tasks_.empty()) finish_tasks();
      tasks_.push_back(task_behind(context, std::span(pair.ids).first(pair.inputs()), &pair));
    }
  }

  void finish_tasks() {
    run_tasks();
    for (Task& task : tasks_) runner_.release(task.sequence);
    tasks_.clear();
  }

  // Runs all that is pending, and notes the scores.
  void run_tasks() {
    for (Task& task : tasks_) {
      task.logprobs.resize(task.sequence.length());
      task.likeliest.resize(task.sequence.length());
    }
    while (run_batch()) {
    }
    for (const Task& task : tasks_) {
      if (task.pair != nullptr) note(task);
    }
  }

  bool run_batch() {
    std::vector<ModelRunner::Rows> rows;
    std::vector<Task*> run;
    std::vector<int32_t> targets;
    for (Task& task : tasks_) {
      if (task.sequence.pending() == 0 || std::ssize(rows) == runner_.batch_sequences()) continue;
      const int64_t count = next_chunk(task.sequence.pending(), runner_.options().prefill_chunk);
      if (std::ssize(targets) + count > runner_.batch_tokens()) continue;
      rows.push_back({&task.sequence, count});
      run.push_back(&task);
      for (int64_t place = task.sequence.cached; place < task.sequence.cached + count; ++place) {
        const bool scored = task.pair != nullptr && place + 1 >= task.pair->first;
        targets.push_back(scored ? task.pair->ids[place + 1] : -1);
      }
    }
    if (rows.empty()) return false;
    std::vector<float> logprobs(targets.size());
    std::vector<int32_t> likeliest(targets.size());
    runner_.score(rows, targets, logprobs, likeliest);
    int64_t row = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t begin = rows[i].sequence->cached - rows[i].count;
      std::copy_n(logprobs.begin() + row, rows[i].count, run[i]->logprobs.begin() + begin);
      std::copy_n(likeliest.begin() + row, rows[i].count, run[i]->likeliest.begin() + begin);
      row += rows[i].count;
    }
    return true;
  }

  void note(const Task& task) {
    const PairTokens& pair = *task.pair;
    ContinuationScore score{.is_greedy = true, .tokens = std::ssize(pair.ids) - pair.first};
    for (int64_t i = pair.first; i < std::ssize(pair.ids); ++i) {
      const double logprob = task.logprobs[i - 1];
      if (!std::isfinite(logprob)) explain(pair, i, logprob);
      score.logprob += logprob;
      score.is_greedy = score.is_greedy && task.likeliest[i - 1] == pair.ids[i];
    }
    scores_[pair.place] = score;
  }

  [[noreturn]] void explain(const PairTokens& pair, int64_t place, double logprob) {
    const std::vector<int32_t> inputs(pair.ids.begin(), pair.ids.end() - 1);
    const NotFinite found = logprob_not_finite(logprob, place, pair.ids[place]);
    release_all();
    explain_not_finite(runner_, inputs, found);
  }

  void release_all() {
    runner_.release(trunk_);
    for (Task& task : contexts_) runner_.release(task.sequence);
    for (Task& task : tasks_) runner_.release(task.sequence);
  }

  ModelRunner& runner_;
  const bool shares_;  // Dynamic NTK turns all keys with the length in use, so that nothing of another length can stay.
  std::vector<PairTokens> pairs_;
  std::vector<ContinuationScore> scores_;
  Sequence trunk_;              // what the contexts of a wave begin with
  std::vector<Task> contexts_;  // of the wave
  std::vector<Task> tasks_;     // that run next
};

}  // namespace

RunnerOptions scoring_options(const ModelConfig& config, RunnerOptions options) {
  const int64_t context = options.context_length > 0 ? options.context_length : config.max_position_embeddings;
  options.sequences = kSequences;
  options.batch_tokens = kBatchTokens;
  // A context of full length or a wave of shorter ones, and for each sequence the ends of its pages.
  options.pages = (context + kWaveTokens) / options.page_size + 4 * kSequences;
  return options;
}

std::vector<ContinuationScore> score_pairs(ModelRunner& runner, std::span<const TokenPair> pairs) {
  return PairScorer(runner, pairs).scores();
}

}  // namespace deeptitan
