#include "generate/scheduler.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {

Scheduler::Scheduler(const ModelRunner& runner)
    : limits_{.sequences = runner.batch_sequences(),
              .batch_tokens = runner.batch_tokens(),
              .prefill_chunk = runner.options().prefill_chunk,
              .pages = runner.pages().pages(),
              .page_size = runner.options().page_size} {}

void Scheduler::add(Sequence* sequence, int64_t most_tokens, int64_t arrival) {
  DT_CHECK_USAGE(pages_for(most_tokens) <= limits_.pages,
                 "a sequence of up to {} tokens needs {} cache pages of {}; the cache has {}", most_tokens,
                 pages_for(most_tokens), limits_.page_size, limits_.pages);
  const auto behind = std::upper_bound(waiting_.begin(), waiting_.end(), arrival,
                                       [](int64_t mine, const Entry& entry) { return mine < entry.arrival; });
  waiting_.insert(behind, {sequence, pages_for(most_tokens), arrival});
}

bool Scheduler::can_admit(int64_t most_tokens) const {
  return static_cast<int64_t>(running_.size()) < limits_.sequences && can_reserve(pages_for(most_tokens));
}

void Scheduler::admit(Sequence* sequence, int64_t most_tokens) {
  DT_CHECK(can_admit(most_tokens), "a sequence of up to {} tokens has no place among {} of {} running", most_tokens,
           running_.size(), limits_.sequences);
  running_.push_back({sequence, pages_for(most_tokens), 0});
  reserve(pages_for(most_tokens));
}

void Scheduler::remove(const Sequence* sequence) {
  const auto is_it = [&](const Entry& entry) { return entry.sequence == sequence; };
  const auto running = std::find_if(running_.begin(), running_.end(), is_it);
  if (running != running_.end()) {
    unreserve(running->pages);
    running_.erase(running);
    return;
  }
  std::erase_if(waiting_, is_it);
}

std::vector<ModelRunner::Rows> Scheduler::next() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.sequences &&
         can_reserve(waiting_.front().pages)) {
    running_.push_back(waiting_.front());
    reserve(waiting_.front().pages);
    waiting_.pop_front();
  }
  std::vector<ModelRunner::Rows> rows;
  int64_t tokens = 0;
  const auto add_if_it_fits = [&](const Entry& entry, int64_t count) {
    if (tokens + count > limits_.batch_tokens) return;
    rows.push_back({entry.sequence, count});
    tokens += count;
  };
  for (const Entry& entry : running_) {
    if (entry.sequence->pending() == 1) add_if_it_fits(entry, 1);
  }
  for (const Entry& entry : running_) {
    const int64_t pending = entry.sequence->pending();
    if (pending > 1) add_if_it_fits(entry, next_chunk(pending, limits_.prefill_chunk));
  }
  return rows;
}

}  // namespace deeptitan
