#include "generate/model_runner.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

void check_in_vocabulary(int32_t id, int64_t vocab) {
  DT_CHECK(0 <= id && id < vocab, "token id {} is outside the model's vocabulary of {}", id, vocab);
}

// Prompts come in smaller chunks where those that nobody asked for would be what does not fit.
std::unique_ptr<BatchExecutor> make_executor(const ModelConfig& config, const RunnerOptions& options) {
  constexpr int64_t kFewest = 1024;
  RunnerOptions smaller = options;
  while (true) {
    auto executor = std::make_unique<BatchExecutor>(config, complete_options(smaller, config));
    const RunnerOptions& used = executor->options();
    const bool may_shrink = options.prefill_chunk == 0 && used.ranks == nullptr && used.prefill_chunk > kFewest;
    if (!may_shrink || executor->plan().total() <= available_memory(used.device)) return executor;
    smaller.prefill_chunk = std::max(kFewest, used.prefill_chunk / 2);
    smaller.batch_tokens = std::min(options.batch_tokens, smaller.prefill_chunk);
  }
}

}  // namespace

ModelRunner::ModelRunner(const ModelConfig& config, const RunnerOptions& options)
    : executor_(make_executor(config, options)), pool_(this->options().pages) {
  RunnerRanks* const ranks = this->options().ranks;
  if (ranks == nullptr) {
    memory_ = {{plan().total(), available_memory(this->options().device), 1, plan().largest()}};
    return;
  }
  ranks->tell(RunnerRanks::Command::kPlan, to_words(this->options()));
  memory_ = gather_memory(*ranks, memory_of(plan(), *ranks, this->options().device));
}

void ModelRunner::allocate() {
  if (const int rank = rank_without_memory(memory_); rank >= 0) {
    const RankMemory& memory = memory_[rank];
    fail_usage(
        "the model needs {} of memory{} and {} are available{}{}; its largest arenas are {}; a shorter context or bf16 "
        "needs less",
        format_bytes(memory.planned), memory_.size() > 1 ? fmt::format(" on rank {}", rank) : "",
        format_bytes(memory.available),
        memory.ranks_of_host > 1 ? fmt::format(" on its host, for {} ranks", memory.ranks_of_host) : "",
        memory_.size() > 1 ? "" : held_by_others(options().device), memory.largest);
  }
  executor_->allocate();
}

void ModelRunner::load(const ModelDirectory& directory) {
  RunnerRanks* const ranks = options().ranks;
  if (ranks != nullptr) ranks->tell(RunnerRanks::Command::kLoad);
  executor_->load(directory);
  if (ranks != nullptr) ranks->wait_for_all();
}

void ModelRunner::load(const DeepseekModel& trained) {
  DT_CHECK(options().ranks == nullptr, "a model in training is read by the process that trains it, not by ranks");
  executor_->load(trained);
}

void ModelRunner::initialize(uint64_t seed) {
  RunnerRanks* const ranks = options().ranks;
  if (ranks != nullptr) ranks->tell(RunnerRanks::Command::kDraw, seed_to_words(seed));
  executor_->initialize(seed);
  if (ranks != nullptr) ranks->wait_for_all();
}

void ModelRunner::check_runnable(std::span<const Rows> rows) const {
  DT_CHECK(!rows.empty() && static_cast<int64_t>(rows.size()) <= batch_sequences(),
           "a batch of {} sequences; this runner was planned for 1 to {}", rows.size(), batch_sequences());
  int64_t tokens = 0;
  int64_t pages = 0;
  std::map<int32_t, int64_t> writers;  // of shared pages
  for (const auto& [sequence, count] : rows) {
    DT_CHECK(count > 0, "a forward needs at least one token, found none");
    DT_CHECK(count <= sequence->pending(), "{} tokens are to be run of a sequence with {} pending", count,
             sequence->pending());
    DT_CHECK(sequence->cached + count <= options().context_length,
             "{} tokens do not fit behind the {} in a context of {}", count, sequence->cached,
             options().context_length);
    DT_CHECK(count <= options().prefill_chunk, "{} tokens of one sequence; a batch takes at most {} (prefill_chunk)",
             count, options().prefill_chunk);
    for (int64_t i = 0; i < count; ++i)
      check_in_vocabulary(sequence->tokens[sequence->cached + i], config().vocab_size);
    tokens += count;
    pages += pages_for(sequence->cached + count) - static_cast<int64_t>(sequence->pages.size());
    // Of all that refer to a page, the last to write into it keeps it.
    if (writes_shared_page(*sequence)) {
      const int32_t page = last_page(*sequence);
      if (++writers[page] < pool_.references(page)) ++pages;
    }
  }
  DT_CHECK(tokens <= batch_tokens(), "a batch of {} tokens; this runner was planned for {}", tokens, batch_tokens());
  DT_CHECK(pages <= pool_.available(), "{} cache pages are wanted and {} of {} are free; run fewer sequences at once",
           pages, pool_.available(), pool_.pages());
}

BatchTables ModelRunner::lay_out(std::span<const Rows> rows) {
  check_runnable(rows);
  BatchTables tables;
  for (const auto& [sequence, count] : rows) {
    const int64_t end = sequence->cached + count;
    if (writes_shared_page(*sequence)) tables.page_copies.push_back(own_last_page(*sequence));
    while (std::ssize(sequence->pages) < pages_for(end)) sequence->pages.push_back(pool_.acquire());
    tables.page_count.push_back(static_cast<int32_t>(sequence->pages.size()));
    tables.pages.insert(tables.pages.end(), sequence->pages.begin(), sequence->pages.end());
    tables.cached_length.push_back(static_cast<int32_t>(sequence->cached));
    for (int64_t place = sequence->cached; place < end; ++place) {
      const int64_t page = sequence->pages[place / options().page_size];
      tables.token_ids.push_back(sequence->tokens[place]);
      tables.positions.push_back(static_cast<int32_t>(place));
      tables.cache_slot.push_back(static_cast<int32_t>(page * options().page_size + place % options().page_size));
    }
    tables.query_offset.push_back(static_cast<int32_t>(tables.tokens()));
    tables.longest = std::max(tables.longest, sequence->length());
  }
  return tables;
}

std::span<const float> ModelRunner::run(std::span<const Rows> rows) {
  BatchTables tables = lay_out(rows);
  const std::span<const float> logits = executor_->logits(tables);
  for (const auto& [sequence, count] : rows) sequence->cached += count;
  return logits;
}

void ModelRunner::run(std::span<const Rows> rows, std::span<NextToken> next) {
  DT_CHECK(next.size() == rows.size(), "run: {} sequences with {} next tokens", rows.size(), next.size());
  BatchTables tables = lay_out(rows);
  executor_->choose(tables, next);
  for (const auto& [sequence, count] : rows) sequence->cached += count;
}

void ModelRunner::score(std::span<const Rows> rows, std::span<const int32_t> targets, std::span<float> logprobs,
                        std::span<int32_t> likeliest) {
  size_t tokens = 0;
  for (const auto& [sequence, run] : rows) tokens += static_cast<size_t>(run);
  DT_CHECK(targets.size() == tokens && logprobs.size() == tokens && likeliest.size() == tokens,
           "score: {} tokens with {} targets and room for {} and {} results", tokens, targets.size(), logprobs.size(),
           likeliest.size());
  std::vector<Wanted> wanted;
  for (size_t row = 0; row < tokens; ++row) {
    if (targets[row] != -1) wanted.push_back({static_cast<int32_t>(row), targets[row]});
  }
  std::vector<float> found(wanted.size());
  std::vector<int32_t> found_likeliest(wanted.size());
  score(rows, wanted, found, found_likeliest);
  std::fill(logprobs.begin(), logprobs.end(), 0.0f);
  std::fill(likeliest.begin(), likeliest.end(), -1);
  for (size_t i = 0; i < wanted.size(); ++i) {
    logprobs[wanted[i].row] = found[i];
    likeliest[wanted[i].row] = found_likeliest[i];
  }
}

void ModelRunner::score(std::span<const Rows> rows, std::span<const Wanted> wanted, std::span<float> logprobs,
                        std::span<int32_t> likeliest) {
  check_runnable(rows);
  const auto scored = std::ssize(wanted);
  DT_CHECK(scored <= batch_tokens() && std::ssize(logprobs) == scored && std::ssize(likeliest) == scored,
           "score: {} followers with room for {} and {} results; a batch of this runner has at most {}", scored,
           logprobs.size(), likeliest.size(), batch_tokens());
  for (const Wanted& follower : wanted) check_in_vocabulary(follower.target, config().vocab_size);
  BatchTables tables = lay_out(rows);
  for (const Wanted& follower : wanted) {
    tables.scored_rows.push_back(follower.row);
    tables.targets.push_back(follower.target);
  }
  executor_->logprobs(tables, logprobs, likeliest);
  for (const auto& [sequence, run] : rows) sequence->cached += run;
}

void ModelRunner::truncate(Sequence& sequence, int64_t length) {
  DT_CHECK(0 <= length && length <= sequence.length(), "truncate to {}: the sequence holds {} tokens", length,
           sequence.length());
  sequence.tokens.resize(length);
  sequence.cached = std::min(sequence.cached, length);
  while (static_cast<int64_t>(sequence.pages.size()) > pages_for(sequence.cached)) {
    pool_.release(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

Sequence ModelRunner::fork(const Sequence& sequence) {
  for (const int32_t page : sequence.pages) pool_.share(page);
  return sequence;
}

// Whether the next entry would be written into a page that another sequence refers to as well.
bool ModelRunner::writes_shared_page(const Sequence& sequence) const {
  return sequence.cached % options().page_size != 0 && pool_.references(last_page(sequence)) > 1;
}

// Where the next entry goes, if there is room.
int32_t ModelRunner::last_page(const Sequence& sequence) const {
  return sequence.pages[sequence.cached / options().page_size];
}

// The next entry goes into a page of its own, with what the shared one holds.
BatchTables::PageCopy ModelRunner::own_last_page(Sequence& sequence) {
  int32_t& page = sequence.pages[sequence.cached / options().page_size];
  const BatchTables::PageCopy copied{.from = page, .to = pool_.acquire()};
  pool_.release(page);
  page = copied.to;
  return copied;
}

}  // namespace deeptitan
