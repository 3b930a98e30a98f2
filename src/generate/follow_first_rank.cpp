#include <memory>
#include <vector>

#include "checkpoint/model_directory.h"
#include "core/error.h"
#include "core/memory_plan.h"
#include "generate/batch_executor.h"

namespace deeptitan {

void follow_first_rank(RunnerRanks& ranks, const ModelConfig& config, const std::filesystem::path& directory) {
  std::unique_ptr<BatchExecutor> here;
  std::vector<int32_t> words;
  while (true) {
    const RunnerRanks::Command command = ranks.listen(words);
    DT_CHECK(here != nullptr || command == RunnerRanks::Command::kPlan || command == RunnerRanks::Command::kEnd,
             "the first rank asks for something before it has said what is to be planned");
    switch (command) {
      case RunnerRanks::Command::kPlan:
        here.reset();
        here = std::make_unique<BatchExecutor>(config, options_from_words(words, &ranks));
        gather_memory(ranks, memory_of(here->plan(), ranks, here->options().device));
        break;
      case RunnerRanks::Command::kLoad:
        here->allocate();
        here->load(ModelDirectory(directory));
        ranks.wait_for_all();
        break;
      case RunnerRanks::Command::kDraw:
        here->allocate();
        here->initialize(seed_from_words(words));
        ranks.wait_for_all();
        break;
      case RunnerRanks::Command::kBatch:
        ranks.begin_batch();
        here->run(tables_from_words(words));
        break;
      case RunnerRanks::Command::kEnd:
        return;
    }
  }
}

}  // namespace deeptitan
