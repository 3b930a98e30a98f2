#include "generate_many.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "core/log.h"

namespace deeptitan {

std::unique_ptr<ModelRunner> runner_for(const ModelFiles& files, RunnerOptions options,
                                        const std::vector<GenerationRequest>& requests, int64_t samples,
                                        int64_t asked_for) {
  const int64_t longest = files.config.max_position_embeddings;
  std::vector<int64_t> tokens;  // that each takes of the cache at most
  int64_t longest_prompt = 0;
  for (const GenerationRequest& request : requests) {
    const auto length = std::ssize(request.prompt);
    tokens.push_back(length + std::clamp<int64_t>(request.options.max_new_tokens, 1, longest - length));
    longest_prompt = std::max(longest_prompt, length);
  }
  std::sort(tokens.begin(), tokens.end(), std::greater<>());
  options.context_length = tokens.front();
  // Short prompts go into one batch.
  options.batch_tokens =
      std::min<int64_t>(usual_prefill_chunk(options.device), std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
  options.sequences = std::min(std::ssize(tokens), asked_for > 0 ? asked_for : kUsualSequences);
  const auto pages_for = [&](int64_t count) { return (count + options.page_size - 1) / options.page_size; };
  while (true) {
    options.pages = 0;
    for (int64_t i = 0; i < options.sequences; ++i) options.pages += pages_for(tokens[i]);
    // Prompts that are kept for their further samples.
    if (samples > 1) options.pages += (options.sequences + samples - 1) / samples * pages_for(longest_prompt);
    auto runner = std::make_unique<ModelRunner>(files.config, options);
    if (runner->fits() || asked_for > 0 || options.sequences == 1) {
      if (options.sequences < std::min(std::ssize(tokens), kUsualSequences) && asked_for == 0) {
        log_info(fmt::format("memory suffices for {} texts at once", options.sequences));
      }
      load_into(*runner, files);
      return runner;
    }
    options.sequences /= 2;
  }
}

AnswersInOrder::AnswersInOrder(const std::vector<GenerateRequest>& requests, Give give)
    : requests_(requests), give_(std::move(give)) {
  for (size_t place = 0; place < requests.size(); ++place) {
    if (requests[place].error.empty()) places_.push_back(place);
  }
}

void AnswersInOrder::done(size_t i, const Generation& generation) {
  waiting_.emplace(places_[i], generation);
  give_what_is_there();
}

void AnswersInOrder::give_what_is_there() {
  for (; next_ < requests_.size(); ++next_) {
    if (!requests_[next_].error.empty()) {
      give_(next_, nullptr);
      continue;
    }
    const auto found = waiting_.find(next_);
    if (found == waiting_.end()) return;
    give_(next_, &found->second);
    waiting_.erase(found);
  }
}

}  // namespace deeptitan
