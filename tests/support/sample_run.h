#pragma once

#include <string>
#include <vector>

#include "config/run_config_toml.h"
#include "core/random.h"
#include "support/temporary_folder.h"
#include "tokenizer/bpe_trainer.h"

namespace deeptitan::testing {

/// A text with something to learn: sentences of a small grammar, drawn from a fixed stream.
inline std::string sample_text(int64_t sentences) {
  const std::vector<std::string> subjects = {"the king",    "a prophet",  "the woman",
                                             "his servant", "the people", "a lion"};
  const std::vector<std::string> verbs = {"saw", "heard", "followed", "praised", "feared", "remembered"};
  const std::vector<std::string> objects = {"the river", "a vineyard", "the mountain", "bread and water",
                                            "the covenant"};
  const uint64_t key = random_key("test/text", 1);
  std::string text;
  for (int64_t i = 0; i < sentences; ++i) {
    const auto pick = [&](const std::vector<std::string>& words, uint64_t place) -> const std::string& {
      return words[random_bits(key, 3 * i + place) % words.size()];
    };
    text += "And " + pick(subjects, 0) + " " + pick(verbs, 1) + " " + pick(objects, 2) + ".\n";
  }
  return text;
}

/// A text and its tokenizer in a folder, and run files that train tiny-v3's smaller sibling on them.
class SampleRun {
 public:
  SampleRun() {
    const std::string text = sample_text(3000);
    text_ = folder_.write("text.txt", text);
    const std::string_view texts[] = {text};
    BpeTrainOptions options;
    options.vocab_size = 320;
    std::filesystem::create_directories(folder_.path() / "tokenizer");
    train_bpe(texts, options).save(folder_.path() / "tokenizer");
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }

  /// The run file's text; `more` may hold further sections.
  std::string toml(const std::string& run_name, const std::string& training = "", const std::string& more = "") const {
    return "[job]\ndump_folder = \"" + run(run_name).string() + "\"\n[model]\nname = \"tiny-v3\"\ntokenizer = \"" +
           (folder_.path() / "tokenizer").string() +
           "\"\n[model.shape]\nvocab_size = 320\nhidden_size = 48\nintermediate_size = 96\nmoe_intermediate_size = 32\n"
           "num_hidden_layers = 2\nnum_attention_heads = 2\nn_routed_experts = 8\nn_group = 2\ntopk_group = 1\n"
           "num_experts_per_tok = 2\nq_lora_rank = 32\nkv_lora_rank = 32\nqk_rope_head_dim = 8\nqk_nope_head_dim = 16\n"
           "v_head_dim = 16\nnum_nextn_predict_layers = 1\n"
           "[training]\nseq_len = 32\nlocal_batch_size = 2\nglobal_batch_size = 4\nseed = 5\n" +
           (training.empty() ? "steps = 12\ndtype = \"fp32\"\n" : training) +
           "[optimizer]\nlr = 5e-3\n[metrics]\nenable_tensorboard = false\n[validation]\nfreq = 6\nmax_tokens = 640\n"
           "[checkpoint]\ninterval = 4\nkeep_latest_k = 5\n[data]\ncache_folder = \"" +
           (folder_.path() / "cache").string() + "\"\n[[data.sources]]\npath = \"" + text_ + "\"\n" + more;
  }

  RunConfig config(const std::string& run_name, const std::string& training = "") const {
    return parse_run_config(toml(run_name, training), "test.toml");
  }

 private:
  TemporaryFolder folder_;
  std::string text_;
};

/// One for all tests of a program.
inline const SampleRun& sample() {
  static const SampleRun run;
  return run;
}

}  // namespace deeptitan::testing
