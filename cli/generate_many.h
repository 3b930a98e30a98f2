#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "generate/batch_generator.h"
#include "generate/model_files.h"
#include "generate_request.h"

namespace deeptitan {

/// Texts that are generated at once where nothing else is asked for.
constexpr int64_t kUsualSequences = 64;

/// A loaded runner with as much cache as these requests (at least one) can fill, and no more: for `asked_for` of them
/// at once, or, where that is 0, for kUsualSequences, halved while memory does not suffice. `samples`: how many of the
/// requests share each prompt.
std::unique_ptr<ModelRunner> runner_for(const ModelFiles& files, RunnerOptions options,
                                        const std::vector<GenerationRequest>& requests, int64_t samples,
                                        int64_t asked_for);

/// Gives results out in the order of the requests, each as soon as all before it are there. A request with an error has
/// no result, and is given out as nullptr.
class AnswersInOrder {
 public:
  using Give = std::function<void(size_t place, const Generation* generation)>;
  /// `requests` must outlive it.
  AnswersInOrder(const std::vector<GenerateRequest>& requests, Give give);

  /// The i-th of those without an error has this result.
  void done(size_t i, const Generation& generation);
  /// Gives out the errors at the beginning.
  void begin() { give_what_is_there(); }

 private:
  void give_what_is_there();

  const std::vector<GenerateRequest>& requests_;
  Give give_;
  std::vector<size_t> places_;  // of those without an error
  std::map<size_t, Generation> waiting_;
  size_t next_ = 0;
};

}  // namespace deeptitan
