#include "generate/batch_generator.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "generate/not_finite.h"

namespace deeptitan {

// Of a request that has not ended. The scheduler knows its sequence by its address.
struct BatchGenerator::Request : Sequence {
  int64_t number = 0;
  int64_t prompt_tokens = 0;
  int64_t most_tokens = 0;  // that it may have in the cache
  GenerationOptions options;
  OnText on_text;
  std::optional<TextInProgress> text;  // takes memory, and so only from the first batch on
  double begun = 0;                    // seconds

  Generation& result() { return text->result(); }
  void begin(const BatchGenerator& generator) {
    if (text) return;
    text.emplace(generator.tokenizer_, generator.decodable_, generator.end_ids_, options, on_text);
    result().prompt_tokens = prompt_tokens;
    begun = monotonic_seconds();
  }
};

BatchGenerator::BatchGenerator(ModelRunner& runner, Tokenizer tokenizer, std::vector<int32_t> end_ids)
    : runner_(runner),
      tokenizer_(std::move(tokenizer)),
      end_ids_(std::move(end_ids)),
      decodable_(decodable_ids(tokenizer_)),
      scheduler_(runner) {
  runner_.allow(decodable_);
}

BatchGenerator::~BatchGenerator() {
  give_up_all();
}

void BatchGenerator::give_up_all() {
  for (auto& [number, request] : requests_) runner_.release(*request);
  for (SharedPrompt& prompt : prompts_) runner_.release(prompt.sequence);
  scheduler_ = Scheduler(runner_);
  followers_.clear();
  prompts_.clear();
  interruptible_.clear();
  requests_.clear();
}

void BatchGenerator::check(const GenerationRequest& request) const {
  DT_CHECK_USAGE(!request.prompt.empty(), "the prompt is empty");
  check_generation(std::ssize(request.prompt), runner_.options().context_length, request.options);
  const int64_t vocab = runner_.config().vocab_size;
  for (const int32_t id : request.prompt) {
    DT_CHECK_USAGE(0 <= id && id < vocab, "token id {} is outside the model's vocabulary of {}", id, vocab);
  }
}

int64_t BatchGenerator::admit(GenerationRequest request, OnText on_text) {
  check(request);
  auto added = std::make_unique<Request>();
  added->number = admitted_;
  added->prompt_tokens = std::ssize(request.prompt);
  // The last token is never run.
  added->most_tokens =
      std::min(runner_.options().context_length, added->prompt_tokens + request.options.max_new_tokens - 1);
  added->tokens = std::move(request.prompt);
  added->options = std::move(request.options);
  added->on_text = std::move(on_text);
  const auto known = followers_.find(added.get());
  if (known != followers_.end()) {
    known->second.push_back(added.get());
  } else {
    queue(*added);
    followers_.emplace(added.get(), std::deque<Request*>());
  }
  if (added->options.interrupted) interruptible_.insert(added->number);
  requests_.emplace(added->number, std::move(added));
  return admitted_++;
}

void BatchGenerator::queue(Request& request) {
  scheduler_.add(&request, request.most_tokens, request.number);
}

bool BatchGenerator::cancel(int64_t request) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return false;
  try {
    end(*found->second, StopReason::kInterrupted);
  } catch (...) {
    give_up_all();
    throw;
  }
  return true;
}

bool BatchGenerator::step() {
  try {
    run_batch();
  } catch (...) {
    give_up_all();
    throw;
  }
  return !requests_.empty();
}

std::vector<BatchGenerator::Finished> BatchGenerator::take_finished() {
  return std::exchange(finished_, {});
}

void BatchGenerator::run_batch() {
  start_followers();
  end_interrupted();
  const std::vector<ModelRunner::Rows> rows = scheduler_.next();
  if (rows.empty()) {
    // Nothing runs: what still waits for a place beside a kept prompt runs its prompt itself.
    DT_CHECK(requests_.empty() || !prompts_.empty(), "{} requests are left, and none of them can run",
             requests_.size());
    if (prompts_.empty()) return;
    for (Request* request : drop(prompts_.begin())) queue(*request);
    return;
  }
  const auto request_of = [](const ModelRunner::Rows& row) -> Request& { return static_cast<Request&>(*row.sequence); };
  std::vector<NextToken> next(rows.size());
  for (size_t row = 0; row < rows.size(); ++row) {
    Request& request = request_of(rows[row]);
    request.begin(*this);
    next[row].wanted = rows[row].count == request.pending();  // else more of its prompt is to come
    // A prompt's logits are kept for those that wait for it.
    if (!next[row].wanted || (request.result().tokens.empty() && is_waited_for(request))) continue;
    next[row] = request.text->next_token(request.tokens);
  }
  runner_.run(rows, next);
  for (size_t row = 0; row < rows.size(); ++row) {
    if (!next[row].wanted) continue;
    Request& request = request_of(rows[row]);
    const std::span<const float> logits = runner_.logits(static_cast<int64_t>(row));
    const bool first = request.result().tokens.empty();
    if (first) share_prompt(request, logits);
    if (!first) ++request.result().decoded_tokens;
    take(request, logits, next[row].token);
  }
}

// `token` is chosen already, or -1.
void BatchGenerator::take(Request& request, std::span<const float> logits, int32_t token) {
  Generation& so_far = request.result();
  if (so_far.tokens.empty()) so_far.prefill_seconds = monotonic_seconds() - request.begun;
  std::optional<StopReason> reason;
  try {
    reason = token >= 0 ? request.text->take(token, request.tokens) : request.text->take(logits, request.tokens);
  } catch (const NotFinite& found) {
    const std::vector<int32_t> tokens = request.tokens;
    give_up_all();
    explain_not_finite(runner_, tokens, found);
  }
  if (!reason && request.length() > runner_.options().context_length) reason = StopReason::kContextFull;
  if (reason) end(request, *reason);
}

void BatchGenerator::end_interrupted() {
  for (auto next = interruptible_.begin(); next != interruptible_.end();) {
    Request& request = *requests_.at(*next++);  // which end() takes away
    if (request.options.interrupted()) end(request, StopReason::kInterrupted);
  }
}

void BatchGenerator::end(Request& request, StopReason reason) {
  stop_waiting(request);
  scheduler_.remove(&request);
  runner_.release(request);
  request.begin(*this);  // maybe it never ran
  request.text->finish(reason);
  Generation& made = request.result();
  made.decode_seconds = monotonic_seconds() - request.begun - made.prefill_seconds;
  finished_.push_back({request.number, std::move(made)});
  interruptible_.erase(request.number);
  requests_.erase(request.number);
}

// A request that ends before its prompt has run: the first of those that waited for it runs it in its place.
void BatchGenerator::stop_waiting(Request& request) {
  if (request.text && !request.result().tokens.empty()) return;
  for (auto& [leader, waiting] : followers_) std::erase(waiting, &request);
  for (SharedPrompt& prompt : prompts_) std::erase(prompt.waiting, &request);
  const auto led = followers_.find(&request);
  if (led == followers_.end() || led->first != &request) return;
  std::deque<Request*> waiting = std::move(led->second);
  followers_.erase(led);
  if (waiting.empty()) return;
  Request* next = waiting.front();
  waiting.pop_front();
  queue(*next);
  followers_.emplace(next, std::move(waiting));
}

bool BatchGenerator::is_waited_for(Request& leader) const {
  const auto led = followers_.find(&leader);
  return led != followers_.end() && led->first == &leader && !led->second.empty();
}

// The prompt of `leader` has run: keeps it for its followers, where there are pages for it besides what is promised.
void BatchGenerator::share_prompt(Request& leader, std::span<const float> logits) {
  const auto led = followers_.find(&leader);
  if (led == followers_.end() || led->first != &leader) return;
  std::deque<Request*> waiting = std::move(led->second);
  followers_.erase(led);
  if (waiting.empty()) return;
  const int64_t pages = runner_.pages_for(leader.cached);
  if (!scheduler_.can_reserve(pages)) {
    for (Request* request : waiting) queue(*request);
    return;
  }
  scheduler_.reserve(pages);
  prompts_.push_back(
      {.sequence = runner_.fork(leader), .logits = {logits.begin(), logits.end()}, .waiting = std::move(waiting)});
}

// Gives up a kept prompt, and says who still waited for it.
std::deque<BatchGenerator::Request*> BatchGenerator::drop(std::list<SharedPrompt>::iterator prompt) {
  std::deque<Request*> waiting = std::move(prompt->waiting);
  scheduler_.unreserve(std::ssize(prompt->sequence.pages));
  runner_.release(prompt->sequence);
  prompts_.erase(prompt);
  return waiting;
}

void BatchGenerator::start_followers() {
  for (auto prompt = prompts_.begin(); prompt != prompts_.end();) {
    const auto current = prompt++;
    while (!current->waiting.empty() && scheduler_.can_admit(current->waiting.front()->most_tokens)) {
      Request& request = *current->waiting.front();
      current->waiting.pop_front();
      scheduler_.admit(&request, request.most_tokens);
      static_cast<Sequence&>(request) = runner_.fork(current->sequence);
      request.begin(*this);
      request.result().cached_tokens = request.cached;
      take(request, current->logits, -1);
    }
    if (current->waiting.empty()) drop(current);
  }
}

std::vector<Generation> BatchGenerator::generate(std::span<const GenerationRequest> requests, const OnDone& on_done,
                                                 const OnTextOf& on_text) {
  DT_CHECK(requests_.empty(), "a list of requests is run by itself, and {} are in progress", requests_.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    try {
      check(requests[i]);
    } catch (const Error& error) {
      fail_usage("request {} of {}: {}", i + 1, requests.size(), error.what());
    }
  }
  std::vector<Generation> results(requests.size());
  const int64_t first = admitted_;
  const auto give_finished = [&] {
    for (Finished& ended : take_finished()) {
      const auto place = static_cast<size_t>(ended.request - first);
      results[place] = std::move(ended.generation);
      if (on_done) on_done(place, results[place]);
    }
  };
  try {
    finished_.clear();
    for (size_t i = 0; i < requests.size(); ++i) {
      OnText give = {};
      if (on_text) give = [&on_text, i](std::string_view text) { on_text(i, text); };
      admit(requests[i], std::move(give));
    }
    while (step()) give_finished();
    give_finished();
  } catch (...) {
    give_up_all();
    give_finished();
    throw;
  }
  return results;
}

}  // namespace deeptitan
