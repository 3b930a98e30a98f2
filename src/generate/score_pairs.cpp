#include <algorithm>
#include <cmath>
#include <iterator>
#include <list>
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

// The pairs of one context, whose tokens but for the last are run once for all of them.
struct Group {
  std::span<const PairTokens> pairs;
  Sequence context;
  int64_t unfinished = 0;  // pairs without their score
  int64_t pages = 0;       // beside the trunk's, for its context and one continuation
};

enum class Part {
  kTrunk,         // what contexts share at their beginning
  kContext,       // of a group
  kWhole,         // the one pair of a group
  kLastToken,     // of a group's context
  kContinuation,  // of a pair, behind what was run of its context
};

// A sequence whose pending tokens are to be run.
struct Task {
  Part part;
  Sequence sequence;
  std::list<Group>::iterator group = {};   // of all but the trunk
  std::span<const PairTokens> pairs = {};  // that are scored with it
  bool started = false;                    // its pages are counted on
};

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

class PairScorer {
 public:
  PairScorer(ModelRunner& runner, std::span<const TokenPair> pairs)
      : runner_(runner),
        shares_(runner.config().rope.kind != RopeKind::kDynamic),
        scores_(pairs.size(), ContinuationScore{.is_greedy = true}) {
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
    while (next_ < pairs_.size()) run_wave();
    while (!tasks_.empty()) run_batch();
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
    const size_t most = std::min(pairs_.size(), begin + static_cast<size_t>(runner_.batch_tokens()));
    while (end < most && std::ranges::equal(pairs_[end].context(), pairs_[begin].context())) ++end;
    return end;
  }

  // Pages that what is pending of a sequence takes beside those that it has.
  int64_t pages_needed(const Sequence& sequence) const {
    const bool copies = sequence.cached % runner_.options().page_size != 0;  // one that is shared in part
    return runner_.pages_for(sequence.length()) - std::ssize(sequence.pages) + (copies ? 1 : 0);
  }

  // Free pages that nobody who has started counts on.
  int64_t free_pages() const {
    int64_t pages = runner_.pages().available();
    for (const Task& task : tasks_) pages -= task.started ? pages_needed(task.sequence) : 0;
    return pages;
  }

  // Pages for further contexts. Each that is there keeps enough for one of its continuations at a time.
  int64_t room() const {
    int64_t pages = runner_.pages().pages() - std::ssize(trunk_.pages);
    for (const Group& group : groups_) pages -= group.pages;
    return std::min(pages, free_pages());
  }

  // Adds contexts that together fill some batches, and runs full batches of them and of what there is of continuations.
  void run_wave() {
    const size_t begin = next_;
    std::vector<std::pair<size_t, size_t>> groups;
    int64_t tokens = 0, pages = 0;
    int64_t trunk = shares_ ? pairs_[begin].first - 1 : 0;
    const int64_t there_already = common_prefix(trunk_.tokens, pairs_[begin].context());
    const int64_t most_pages = groups_.empty() ? runner_.pages().pages() : room();
    while (next_ < pairs_.size() && std::ssize(groups) < runner_.batch_sequences()) {
      const PairTokens& pair = pairs_[next_];
      const int64_t shared = shares_ ? std::min(trunk, common_prefix(pairs_[begin].context(), pair.context())) : 0;
      // What begins in another way comes in another wave.
      if (groups.size() > 1 && trunk >= kLeastTrunk && shared < trunk / 2) break;
      if (groups.size() == 1 && there_already >= kLeastTrunk && shared < kLeastTrunk) break;
      const size_t end = group_end(next_);
      int64_t longest = 0;
      for (size_t i = next_; i < end; ++i) longest = std::max(longest, pairs_[i].inputs());
      const int64_t more_tokens = end - next_ == 1 ? pair.inputs() : pair.first - 1;
      const int64_t more_pages = runner_.pages_for(longest) + 2;
      const int64_t unshared = tokens + more_tokens - shared * (std::ssize(groups) + 1);
      const bool fits = unshared <= std::max(kWaveTokens, runner_.batch_tokens()) && pages + more_pages <= most_pages;
      if (!fits && (!groups.empty() || !tasks_.empty())) break;
      groups.emplace_back(next_, end);
      tokens += more_tokens;
      pages += more_pages;
      trunk = shared;
      next_ = end;
    }
    if (groups.empty()) {  // what is left of the waves before makes room
      run_batch();
      return;
    }
    if (groups.size() == 1) trunk = there_already;
    run_trunk(begin, trunk >= kLeastTrunk ? trunk : 0);
    for (const auto& [first, end] : groups) add_context(std::span(pairs_).subspan(first, end - first));
    while (pending_tokens() >= runner_.batch_tokens()) run_batch();
  }

  int64_t pending_tokens() const {
    int64_t tokens = 0;
    for (const Task& task : tasks_) tokens += task.sequence.pending();
    return tokens;
  }

  // What the contexts of a wave share at their beginning; what it shares with the wave before is there already.
  void run_trunk(size_t begin, int64_t length) {
    const std::span<const int32_t> tokens = std::span(pairs_[begin].ids).first(length);
    const int64_t there = common_prefix(trunk_.tokens, tokens);
    // Pages of another trunk are counted for no group.
    while (there < trunk_.length() && !tasks_.empty()) run_batch();
    runner_.truncate(trunk_, there);
    if (trunk_.length() == length) return;
    trunk_.tokens.assign(tokens.begin(), tokens.end());
    tasks_.push_front({.part = Part::kTrunk, .sequence = std::exchange(trunk_, {}), .started = true});
    ++contexts_left_;
    while (trunk_.length() != length) run_batch();
  }

  // A sequence that goes on behind what is there of `shared`, up to `tokens`.
  Sequence behind(const Sequence& shared, std::span<const int32_t> tokens) {
    Sequence sequence = runner_.fork(shared);
    sequence.tokens.assign(tokens.begin(), tokens.end());
    return sequence;
  }

  void add_context(std::span<const PairTokens> pairs) {
    int64_t longest = 0;
    for (const PairTokens& pair : pairs) longest = std::max(longest, pair.inputs());
    const auto group = groups_.insert(
        groups_.end(), {.pairs = pairs,
                        .context = {},
                        .unfinished = std::ssize(pairs),
                        .pages = runner_.pages_for(longest) + 2 - trunk_.cached / runner_.options().page_size});
    const PairTokens& pair = pairs.front();
    const bool whole = pairs.size() == 1;
    tasks_.push_back({.part = whole ? Part::kWhole : Part::kContext,
                      .sequence = behind(trunk_, whole ? std::span(pair.ids).first(pair.inputs()) : pair.context()),
                      .group = group,
                      .pairs = whole ? pairs : std::span<const PairTokens>(),
                      .started = true});
    ++contexts_left_;
  }

  // All continuations begin with the last token of their context. It is run once for all of them where it finds a place
  // beside other contexts, or nothing comes behind it: a batch for it alone would cost more than it saves.
  void add_last_token(std::list<Group>::iterator group) {
    const PairTokens& first = group->pairs.front();
    bool same = true, alone = true;
    for (const PairTokens& pair : group->pairs) {
      same = same && pair.ids[pair.first - 1] == first.ids[first.first - 1];
      alone = alone && pair.inputs() == pair.first;
    }
    const bool has_place = contexts_left_ > 0 || next_ < pairs_.size();
    if (!same || !(alone || has_place)) return add_continuations(group);
    tasks_.push_front({.part = Part::kLastToken,
                       .sequence = behind(group->context, std::span(first.ids).first(first.first)),
                       .group = group,
                       .pairs = group->pairs});
  }

  void add_continuations(std::list<Group>::iterator group) {
    for (const PairTokens& pair : group->pairs) {
      const std::span<const int32_t> inputs = std::span(pair.ids).first(pair.inputs());
      if (std::ssize(inputs) == group->context.cached) continue;
      tasks_.push_front({.part = Part::kContinuation,
                         .sequence = behind(group->context, inputs),
                         .group = group,
                         .pairs = {&pair, 1}});
    }
  }

  // Runs as much of what is pending as fits, the first tasks first.
  void run_batch() {
    std::vector<ModelRunner::Rows> rows;
    std::vector<ModelRunner::Wanted> wanted;
    std::vector<const PairTokens*> wanting;  // the pair of each
    int64_t tokens = 0;
    int64_t free = free_pages();
    // Continuations come first, and leave places for the contexts that fill a batch.
    const int64_t sequences = runner_.batch_sequences();
    const int64_t most_continuations = contexts_left_ > 0 ? sequences - sequences / 8 : sequences;
    for (Task& task : tasks_) {
      if (std::ssize(rows) == sequences) break;
      const bool is_small = task.part == Part::kLastToken || task.part == Part::kContinuation;
      if (is_small && std::ssize(rows) >= most_continuations) continue;
      const int64_t count = next_chunk(task.sequence.pending(), runner_.options().prefill_chunk);
      const int64_t pages = task.started ? 0 : pages_needed(task.sequence);
      const bool fits = tokens + count <= runner_.batch_tokens() && pages <= free &&
                        std::ssize(wanted) + count * std::ssize(task.pairs) <= runner_.batch_tokens();
      if (!fits) continue;
      free -= pages;
      task.started = true;
      rows.push_back({&task.sequence, count});
      const int64_t begin = task.sequence.cached;
      for (const PairTokens& pair : task.pairs) {
        const int64_t next = pair.first + scores_[pair.place].tokens;
        for (int64_t place = std::max(begin, next - 1); place < begin + count; ++place) {
          wanted.push_back({static_cast<int32_t>(tokens + place - begin), pair.ids[place + 1]});
          wanting.push_back(&pair);
        }
      }
      tokens += count;
    }
    std::vector<float> logprobs(wanted.size());
    std::vector<int32_t> likeliest(wanted.size());
    runner_.score(rows, wanted, logprobs, likeliest);
    for (size_t i = 0; i < wanted.size(); ++i) note(*wanting[i], logprobs[i], likeliest[i]);
    std::list<Task> done;
    for (auto task = tasks_.begin(); task != tasks_.end();) {
      const auto here = task++;
      if (here->sequence.pending() == 0) done.splice(done.end(), tasks_, here);
    }
    for (Task& task : done) finish(task);
  }

  void note(const PairTokens& pair, double logprob, int32_t likeliest) {
    ContinuationScore& score = scores_[pair.place];
    const int64_t place = pair.first + score.tokens;
    if (!std::isfinite(logprob)) explain(pair, place, logprob);
    score.logprob += logprob;
    score.is_greedy = score.is_greedy && likeliest == pair.ids[place];
    ++score.tokens;
  }

  void finish(Task& task) {
    switch (task.part) {
      case Part::kTrunk:
        --contexts_left_;
        trunk_ = std::move(task.sequence);
        return;
      case Part::kContext:
        --contexts_left_;
        task.group->context = std::move(task.sequence);
        return add_last_token(task.group);
      case Part::kLastToken:
        runner_.release(task.group->context);
        task.group->context = std::move(task.sequence);
        add_continuations(task.group);
        break;
      case Part::kWhole:
        --contexts_left_;
        runner_.release(task.sequence);
        break;
      case Part::kContinuation:
        runner_.release(task.sequence);
        break;
    }
    for (const PairTokens& pair : task.pairs) {
      if (pair.first + scores_[pair.place].tokens == std::ssize(pair.ids)) --task.group->unfinished;
    }
    if (task.group->unfinished > 0) return;
    runner_.release(task.group->context);
    groups_.erase(task.group);
  }

  [[noreturn]] void explain(const PairTokens& pair, int64_t place, double logprob) {
    const std::vector<int32_t> inputs(pair.ids.begin(), pair.ids.end() - 1);
    const NotFinite found = logprob_not_finite(logprob, place, pair.ids[place]);
    release_all();
    explain_not_finite(runner_, inputs, found);
  }

  void release_all() {
    runner_.release(trunk_);
    for (Task& task : tasks_) runner_.release(task.sequence);
    for (Group& group : groups_) runner_.release(group.context);
  }

  ModelRunner& runner_;
  const bool shares_;  // Dynamic NTK turns all keys with the length in use, so that nothing of another length can stay.
  std::vector<PairTokens> pairs_;
  std::vector<ContinuationScore> scores_;
  size_t next_ = 0;            // of the pairs: those from here on come in later waves
  Sequence trunk_;             // what the contexts of a wave begin with
  std::list<Group> groups_;    // whose contexts are run or to be run
  std::list<Task> tasks_;      // that are not done
  int64_t contexts_left_ = 0;  // of them: trunk, contexts, whole pairs
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
