#include "config/other_words.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace deeptitan {
namespace {

struct OtherWord {
  std::string_view word;
  bool whole;  // the name itself; else any name that holds it
  std::string_view answer;
};

constexpr std::string_view kLength =
    "a run's length is counted in training.steps; how often it passes over each source is said when it starts";
constexpr std::string_view kAdapters =
    "adapters do not exist here: every weight is trained, but for those that training.freeze names";
constexpr std::string_view kBatch =
    "training.local_batch_size is what is in memory at once, training.global_batch_size what an optimizer step sees";

constexpr std::string_view kAttention = "there is one implementation of attention, which never holds the scores whole";
constexpr std::string_view kRanks = "how ranks share a run is said in the section parallelism";
constexpr std::string_view kPreferences =
    "learning from preferences does not exist here; conversations are learnt (format = \"chat\")";
constexpr std::string_view kDtype = "the type of products is training.dtype (auto, bf16, fp32); masters are fp32";

constexpr OtherWord kWords[] = {
    {"epoch", false, kLength},
    {"lora", false, kAdapters},
    {"peft", false, kAdapters},
    {"adapter", false, kAdapters},
    {"accumulation", false, kBatch},
    {"batch_size", true, kBatch},
    {"per_device_train_batch_size", true, kBatch},
    {"lr", true, "the learning rate is optimizer.lr"},
    {"learning_rate", true, "the learning rate is optimizer.lr"},
    {"warmup_ratio", true, "warm-up is counted in steps: lr_scheduler.warmup_steps"},
    {"warmup", true, "warm-up is counted in steps: lr_scheduler.warmup_steps"},
    {"max_seq_length", true, "the length of a sequence is training.seq_len"},
    {"max_length", true, "the length of a sequence is training.seq_len"},
    {"block_size", true, "the length of a sequence is training.seq_len"},
    {"max_steps", true, "the number of optimizer steps is training.steps"},
    {"output_dir", true, "the folder of the run is job.dump_folder"},
    {"gradient_checkpointing", true, "what backward computes again is activation_checkpoint.mode"},
    {"max_grad_norm", true, "the norm that gradients are scaled down to is training.max_norm"},
    {"save_steps", true, "the steps between two checkpoints are checkpoint.interval"},
    {"save_total_limit", true, "the number of checkpoints that are kept is checkpoint.keep_latest_k"},
    {"dropout", false, "dropout does not exist here: these models are trained without"},
    {"quantization", false,
     "training is in fp32 and bf16 (training.dtype); convert --dtype fp8 makes a quantised copy"},
    {"packing", false,
     "packing is always on: texts are cut into full windows, conversations packed whole side by side"},
    {"flash", false, kAttention},
    {"attn_implementation", true, kAttention},
    {"fsdp", false, kRanks},
    {"deepspeed", false, kRanks},
    {"tensor_parallel", false,
     "tensor parallelism does not exist here; the section parallelism says how ranks share a run"},
    {"dpo", true, kPreferences},
    {"rlhf", true, kPreferences},
    {"orpo", true, kPreferences},
    {"train_on_inputs", true, "the loss of a conversation is on the assistant's turns alone (format = \"chat\")"},
    {"bf16", true, kDtype},
    {"fp16", true, kDtype},
    {"mixed_precision", true, kDtype},
    {"optim", true, "the optimizer is optimizer.name"},
    {"load_in_4bit", true, "weights of 4 bits do not exist here; fp8 directories are read"},
    {"load_in_8bit", true, "weights of 8-bit integers do not exist here; fp8 directories are read"},
};

// Commands of other programs.
constexpr OtherWord kCommands[] = {
    {"serve", true, "there is no server; generate --input and eval --requests take many requests in one process"},
    {"server", true, "there is no server; generate --input and eval --requests take many requests in one process"},
    {"quantize", true, "convert --dtype fp8 makes a quantised copy"},
    {"finetune", true, "init finetune writes a run file, train runs it"},
    {"fine-tune", true, "init finetune writes a run file, train runs it"},
    {"sft", true, "init chat writes a run file, train runs it"},
    {"pretrain", true, "init pretrain writes a run file, train runs it"},
    {"run", true, "generate continues a text, chat talks"},
    {"complete", true, "generate continues a text"},
    {"pull", true, "download fetches a model"},
    {"list", true, "inspect names the known shapes; what download fetched lies in the hub's cache"},
    {"perplexity", true, "eval --text measures it"},
    {"benchmark", true, "bench measures speed, eval quality"},
    {"show", true, "inspect shows a model"},
    {"info", true, "inspect shows a model"},
    {"ps", true, "nothing runs in the background here"},
    {"stop", true, "nothing runs in the background here; Ctrl-C stops what runs"},
    {"create", true, "a model is a directory; init and train make one, convert rewrites one"},
    {"rm", true, "a model is a directory or lies in the hub's cache, and is removed like any other"},
    {"cp", true, "a model is a directory, and is copied like any other"},
    {"push", true, "uploading does not exist here; a run's model is a Hugging Face directory that any client uploads"},
    {"upload", true,
     "uploading does not exist here; a run's model is a Hugging Face directory that any client uploads"},
    {"preprocess", true, "train reads and tokenises its sources itself, and keeps the tokens in data.cache_folder"},
    {"inference", true, "generate continues a text, chat talks"},
    {"export", true, "every run ends with a Hugging Face directory; convert changes the type of its weights"},
    {"help", true, "--help lists the commands, COMMAND --help its options"},
    {"version", true, "--version says it"},
    {"merge", true, "adapters do not exist here, so there is nothing to merge"},
};

// Options of other programs that run models, and the names that they have here.
constexpr std::pair<std::string_view, std::string_view> kOptions[] = {
    {"-m", "--model"},
    {"-p", "--prompt"},
    {"-f", "--prompt-file"},
    {"-n", "--max-new-tokens"},
    {"-t", "--threads"},
    {"-c", "--context"},
    {"-s", "--seed"},
    {"-o", "--out"},
    {"-sys", "--system"},
    {"--predict", "--max-new-tokens"},
    {"--n-predict", "--max-new-tokens"},
    {"--num-predict", "--max-new-tokens"},
    {"--max-tokens", "--max-new-tokens"},
    {"--max-length", "--max-new-tokens"},
    {"--temp", "--temperature"},
    {"--repeat-penalty", "--repetition-penalty"},
    {"--ctx-size", "--context"},
    {"--num-ctx", "--context"},
    {"--max-model-len", "--context"},
    {"--num-return-sequences", "--samples"},
    {"--batch-size", "--sequences"},
    {"--stop-sequence", "--stop"},
    {"--reverse-prompt", "--stop"},
    {"--system-prompt", "--system"},
    {"--model-path", "--model"},
    {"--model-name-or-path", "--model"},
    {"--tokenizer-path", "--tokenizer"},
    {"--output", "--out"},
    {"--output-dir", "--out"},
    {"--local-dir", "--dir"},
    {"--torch-dtype", "--dtype"},
    {"--precision", "--dtype"},
};

}  // namespace

std::string_view usual_option(std::string_view name) {
  for (const auto& [other, here] : kOptions) {
    if (name == other) return here;
  }
  return "";
}

std::string other_words_for_command(std::string_view name) {
  for (const OtherWord& other : kCommands) {
    if (name == other.word) return "; " + std::string(other.answer);
  }
  return "";
}

std::string other_words_for(std::string_view name) {
  std::string word(name.substr(name.rfind('.') + 1));
  word.erase(0, word.find_first_not_of('-'));
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::tolower(c)); });
  for (const OtherWord& other : kWords) {
    const bool is_it = other.whole ? word == other.word : word.find(other.word) != std::string::npos;
    if (is_it) return "; " + std::string(other.answer);
  }
  return "";
}

}  // namespace deeptitan
