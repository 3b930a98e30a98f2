#include "config/config_keys.h"

#include <array>

#include <fmt/format.h>

#include "config/model_config.h"

namespace deeptitan {

namespace {

constexpr std::array<std::string_view, 3> kTrainingDtypeNames = {"auto", "bf16", "fp32"};
constexpr std::array<std::string_view, 2> kLossNotFiniteNames = {"stop", "skip"};
constexpr std::array<std::string_view, 1> kOptimizerNames = {"AdamW"};
constexpr std::array<std::string_view, 2> kMomentsDtypeNames = {"fp32", "bf16"};
constexpr std::array<std::string_view, 4> kDecayTypeNames = {"constant", "linear", "cosine", "sqrt"};
constexpr std::array<std::string_view, 3> kActivationCheckpointNames = {"none", "cheap", "layer"};
constexpr std::array<std::string_view, 4> kPipelineScheduleNames = {"GPipe", "1F1B", "Interleaved1F1B", "ZBH1"};
constexpr std::array<std::string_view, 2> kExportDtypeNames = {"fp32", "bf16"};
constexpr std::array<std::string_view, 3> kExpertDispatcherNames = {"auto", "on_device", "all_to_all"};
constexpr std::array<std::string_view, 2> kCheckpointSavingNames = {"beside", "blocking"};
constexpr std::array<std::string_view, 3> kSourceFormatNames = {"text", "chat", "plain"};

/// An enum whose values count from 0 in the order of `names`.
template <typename Enum>
ConfigMember choice(Enum& value, std::span<const std::string_view> names) {
  return ChoiceMember{names, [&value] { return static_cast<size_t>(value); },
                      [&value](size_t index) { value = static_cast<Enum>(index); }};
}

constexpr NumberRange kAny{};
constexpr NumberRange kAtLeast0{.least = 0};
constexpr NumberRange kAtLeast1{.least = 1};
constexpr NumberRange kAbove0{.least = 0, .above = true};
constexpr NumberRange kZeroToOne{.least = 0, .most = 1};
constexpr NumberRange kThreads{.least = 0, .most = 4096};
constexpr NumberRange kSequences{.least = 1, .most = 1 << 20};
constexpr NumberRange kDegree{.least = 1, .most = 1 << 20};
constexpr NumberRange kBeta{.least = 0, .most = 1, .below = true};

constexpr bool kFixed = false;  // a resumed run must have the value that it was saved with
constexpr bool kMayDiffer = true;

const std::string kModelNameDoc = fmt::format(
    "Shape by name: {}. Either this, model.config or model.initial_checkpoint.", fmt::join(model_config_names(), ", "));

#define DT_MEMBER(expression) [](RunConfig& c) -> ConfigMember { return expression; }

const ConfigKey<RunConfig> kKeys[] = {
    {"job.dump_folder", DT_MEMBER(&c.job.dump_folder), "", kAny, kMayDiffer,
     "Folder of the run: metrics, checkpoints, the model, the loss curve."},
    {"job.description", DT_MEMBER(&c.job.description), "", kAny, kMayDiffer,
     "What the run is for; shown when it starts."},

    {"metrics.log_freq", DT_MEMBER(&c.metrics.log_freq), "steps", kAtLeast1, kMayDiffer,
     "Steps between two lines of metrics.jsonl and of the TensorBoard file."},
    {"metrics.enable_tensorboard", DT_MEMBER(&c.metrics.enable_tensorboard), "", kAny, kMayDiffer,
     "Whether TensorBoard event files are written, into `tensorboard` in the run's folder."},
    {"metrics.sample_freq", DT_MEMBER(&c.metrics.sample_freq), "steps", kAtLeast0, kMayDiffer,
     "Steps between two texts sampled from the model; 0 = none."},
    {"metrics.sample_prompt", DT_MEMBER(&c.metrics.sample_prompt), "", kAny, kMayDiffer,
     "What a sampled text begins with; empty = the beginning of a document."},
    {"metrics.sample_max_new_tokens", DT_MEMBER(&c.metrics.sample_max_new_tokens), "tokens", kAtLeast1, kMayDiffer,
     "Length of a sampled text."},
    {"metrics.sample_temperature", DT_MEMBER(&c.metrics.sample_temperature), "", kAtLeast0, kMayDiffer,
     "Temperature of a sampled text; 0 = the likeliest token each time."},

    {"model.name", DT_MEMBER(&c.model.name), "", kAny, kFixed, kModelNameDoc},
    {"model.config", DT_MEMBER(&c.model.config), "", kAny, kFixed,
     "Shape by the path of a Hugging Face config.json, or by the name of a downloaded model."},
    {"model.shape", DT_MEMBER((TableMember{&c.model.shape, "config.json's fields"})), "", kAny, kFixed,
     "Table of config.json's fields that replace those of the shape, such as hidden_size; 0 for no q_lora_rank."},
    {"model.initial_checkpoint", DT_MEMBER(&c.model.initial_checkpoint), "", kAny, kFixed,
     "Hugging Face directory, or the name of a downloaded model (OWNER/NAME or a short name), whose weights training "
     "starts "
     "from; empty = random weights."},
    {"model.tokenizer", DT_MEMBER(&c.model.tokenizer), "", kAny, kFixed,
     "Directory with tokenizer.json, or the name of a downloaded model; empty = that of model.initial_checkpoint. Not "
     "needed "
     "for synthetic data."},
    {"model.chat_template", DT_MEMBER(&c.model.chat_template), "", kAny, kFixed,
     "Jinja file with the chat template that conversations are rendered with and that the trained model is given; "
     "empty "
     "= the tokenizer's own."},
    {"model.template_variables", DT_MEMBER((TableMember{&c.model.template_variables, "the chat template's variables"})),
     "", kAny, kFixed,
     "Table of variables that the chat template reads, such as thinking = true; chat_template_kwargs of a conversation "
     "replace them."},

    {"optimizer.name", DT_MEMBER(choice(c.optimizer.name, kOptimizerNames)), "", kAny, kFixed,
     "Optimizer (Loshchilov and Hutter, arXiv 1711.05101)."},
    {"optimizer.lr", DT_MEMBER(&c.optimizer.lr), "", kAtLeast0, kMayDiffer, "Learning rate after warm-up."},
    {"optimizer.beta1", DT_MEMBER(&c.optimizer.beta1), "", kBeta, kFixed, "Decay of the gradient's running mean."},
    {"optimizer.beta2", DT_MEMBER(&c.optimizer.beta2), "", kBeta, kFixed, "Decay of the squared gradient's mean."},
    {"optimizer.eps", DT_MEMBER(&c.optimizer.eps), "", kAbove0, kFixed, "Added to the root of the squared mean."},
    {"optimizer.weight_decay", DT_MEMBER(&c.optimizer.weight_decay), "", kAtLeast0, kFixed,
     "Decoupled weight decay, times the learning rate; norms and biases have none."},
    {"optimizer.moments_dtype", DT_MEMBER(choice(c.optimizer.moments_dtype, kMomentsDtypeNames)), "", kAny, kMayDiffer,
     "Element type of the two means: fp32, 8 bytes a weight, or bf16, 4 bytes, rounded at random by weight and step, "
     "so "
     "that small changes arrive on average. A checkpoint holds them as they are; one of the other type is converted."},

    {"lr_scheduler.warmup_steps", DT_MEMBER(&c.lr_scheduler.warmup_steps), "steps", kAtLeast0, kMayDiffer,
     "Steps in which the learning rate rises linearly to optimizer.lr."},
    {"lr_scheduler.decay_type", DT_MEMBER(choice(c.lr_scheduler.decay_type, kDecayTypeNames)), "", kAny, kMayDiffer,
     "How the learning rate falls at the end; constant = not at all."},
    {"lr_scheduler.decay_ratio", DT_MEMBER(&c.lr_scheduler.decay_ratio), "", kZeroToOne, kMayDiffer,
     "The last part of training.steps in which it falls, at most all that follow warm-up."},
    {"lr_scheduler.lr_min", DT_MEMBER(&c.lr_scheduler.lr_min), "", kZeroToOne, kMayDiffer,
     "Where it ends, as a part of optimizer.lr."},

    {"training.seed", DT_MEMBER(&c.training.seed), "", kAtLeast0, kFixed,
     "Seed of the weights and of the order of the data. Same seed, same bits."},
    {"training.steps", DT_MEMBER(&c.training.steps), "steps", kAtLeast1, kMayDiffer, "Optimizer steps of the run."},
    {"training.seq_len", DT_MEMBER(&c.training.seq_len), "tokens", kAtLeast1, kFixed, "Tokens of a sequence."},
    {"training.local_batch_size", DT_MEMBER(&c.training.local_batch_size), "sequences", kSequences, kMayDiffer,
     "Sequences of a microbatch: what is in memory at once. A run that goes on keeps the sequences of its steps."},
    {"training.global_batch_size", DT_MEMBER(&c.training.global_batch_size), "sequences",
     NumberRange{.least = 0, .most = kSequences.most}, kFixed,
     "Sequences of an optimizer step, a multiple of training.local_batch_size times the ranks that take different "
     "sequences; 0 = one microbatch on each of them."},
    {"training.threads", DT_MEMBER(&c.training.threads), "threads", kThreads, kMayDiffer,
     "Threads of the processor that the run takes; the numbers do not depend on it; 0 = all cores, or "
     "OMP_NUM_THREADS."},
    {"training.max_norm", DT_MEMBER(&c.training.max_norm), "", kAtLeast0, kFixed,
     "Gradients of a larger norm are scaled down to it; 0 = never."},
    {"training.dtype", DT_MEMBER(choice(c.training.dtype, kTrainingDtypeNames)), "", kAny, kFixed,
     "Type in which matrix products are computed; auto = bf16 where the chip multiplies it natively, else fp32."},
    {"training.device", DT_MEMBER(&c.training.device), "", kAny, kMayDiffer,
     "Where it runs: cpu, cuda (the first GPU), cuda:N, or auto = a GPU where one is usable, else the CPU."},
    {"training.loss_not_finite", DT_MEMBER(choice(c.training.loss_not_finite, kLossNotFiniteNames)), "", kAny, kFixed,
     "What a loss or gradient that is not finite does: stop the run, or skip the step."},
    {"training.mtp_loss_weight", DT_MEMBER(&c.training.mtp_loss_weight), "", kAtLeast0, kFixed,
     "Weight of the next-token-prediction modules' loss (lambda of DeepSeek-V3, section 2.2)."},
    {"training.router_bias_update_speed", DT_MEMBER(&c.training.router_bias_update_speed), "", kAtLeast0, kFixed,
     "Change of a router's bias in a step (gamma of DeepSeek-V3, section 2.1.2); 0 = none."},
    {"training.aux_loss_weight", DT_MEMBER(&c.training.aux_loss_weight), "", kAtLeast0, kFixed,
     "Weight of the sequence-wise balance loss (alpha of DeepSeek-V3, section 2.1.2); 0 = none."},
    {"training.pair_weight_gradients", DT_MEMBER(&c.training.pair_weight_gradients), "", kAny, kMayDiffer,
     "Whether experts' weight gradients of two microbatches are added up at once: a GPU then reads and writes each "
     "gradient half as often, which counts where experts have few rows, and two microbatches lie in memory. It changes "
     "the order of those sums."},
    {"training.freeze", DT_MEMBER(&c.training.freeze), "", kAny, kFixed,
     "Patterns of the checkpoint's parameter names (`*`, `?` and `[0-3]` as in a shell) that are not trained, such as "
     "`model.embed_tokens.weight`, or `model.layers.*.mlp.gate.*` for the routers with their biases. They cost no "
     "gradient, no optimizer state and no fp32 copy. `gate_proj` and `up_proj` go together."},

    {"parallelism.pipeline_parallel_degree", DT_MEMBER(&c.parallelism.pipeline_parallel_degree), "ranks", kDegree,
     kMayDiffer,
     "Ranks that the layers are divided over. The product of the four degrees is the number of ranks that `mpirun`, "
     "`srun` or `--ranks` start (docs/running.md)."},
    {"parallelism.expert_parallel_degree", DT_MEMBER(&c.parallelism.expert_parallel_degree), "ranks", kDegree,
     kMayDiffer, "Ranks that the experts of a layer are divided over; divides n_routed_experts."},
    {"parallelism.data_parallel_shard_degree", DT_MEMBER(&c.parallelism.data_parallel_shard_degree), "ranks",
     NumberRange{.least = -1, .most = 1 << 20}, kMayDiffer,
     "Ranks that take different sequences and divide the optimizer's state among themselves; -1 = what the other "
     "degrees leave."},
    {"parallelism.data_parallel_replicate_degree", DT_MEMBER(&c.parallelism.data_parallel_replicate_degree), "ranks",
     kDegree, kMayDiffer, "Ranks that take different sequences and hold the same optimizer state."},
    {"parallelism.pipeline_parallel_schedule",
     DT_MEMBER(choice(c.parallelism.pipeline_parallel_schedule, kPipelineScheduleNames)), "", kAny, kMayDiffer,
     "In what order the pipeline's stages run the microbatches (src/parallel/schedule.h); `deeptitan plan` draws it."},
    {"parallelism.pipeline_parallel_stages_per_rank", DT_MEMBER(&c.parallelism.pipeline_parallel_stages_per_rank),
     "stages", NumberRange{.least = 2, .most = 1 << 20}, kMayDiffer,
     "Stages of a rank in the schedule Interleaved1F1B; the others have one."},
    {"parallelism.zero_stage", DT_MEMBER(&c.parallelism.zero_stage), "", NumberRange{.least = 1, .most = 2}, kMayDiffer,
     "What data_parallel_shard_degree divides (Rajbhandari et al., arXiv 1910.02054): 1 = the optimizer's state; 2 = "
     "the "
     "gradients too, which are then added up after every microbatch."},
    {"parallelism.expert_dispatcher", DT_MEMBER(choice(c.parallelism.expert_dispatcher, kExpertDispatcherNames)), "",
     kAny, kMayDiffer,
     "How rows reach experts on other ranks: on_device = GPUs that reach each other's memory write and read them "
     "there, "
     "counts never leave the device; all_to_all = through collectives, which the host counts rows for; auto = "
     "on_device "
     "where it can be, else all_to_all. The same bits."},
    {"parallelism.expert_room", DT_MEMBER(&c.parallelism.expert_room), "", kAtLeast0, kMayDiffer,
     "Rows that a rank's experts have room for, in multiples of what even routing brings, such as 2; a step to which "
     "more "
     "come is done again in parts, and counted. 0 = room for the most that could come."},
    {"parallelism.deadline_seconds", DT_MEMBER(&c.parallelism.deadline_seconds), "s", kAbove0, kMayDiffer,
     "How long a rank waits for another in one exchange before it names it and ends the run: longer than a step, a "
     "validation or a checkpoint takes."},
    {"parallelism.data_deadline_seconds", DT_MEMBER(&c.parallelism.data_deadline_seconds), "s", kAbove0, kMayDiffer,
     "The same before the first step, while one rank verifies checkpoints and tokenises the texts for all."},

    {"checkpoint.interval", DT_MEMBER(&c.checkpoint.interval), "steps", kAtLeast0, kMayDiffer,
     "Steps between two checkpoints; 0 = one at the end."},
    {"checkpoint.keep_latest_k", DT_MEMBER(&c.checkpoint.keep_latest_k), "checkpoints", kAtLeast1, kMayDiffer,
     "Checkpoints that are kept; older ones are removed."},
    {"checkpoint.export_dtype", DT_MEMBER(choice(c.checkpoint.export_dtype, kExportDtypeNames)), "", kAny, kMayDiffer,
     "Element type of the weights in the model directory. A checkpoint's weights are always fp32."},
    {"checkpoint.saving", DT_MEMBER(choice(c.checkpoint.saving, kCheckpointSavingNames)), "", kAny, kMayDiffer,
     "beside = steps go on while a checkpoint is written from a copy of what it holds; where memory for that is short, "
     "and with blocking, they wait. The bytes are the same."},

    {"activation_checkpoint.mode", DT_MEMBER(choice(c.activation_checkpoint.mode, kActivationCheckpointNames)), "",
     kAny, kMayDiffer,
     "What backward computes again to save memory, with the same bits: none; cheap = norms, SwiGLU and the rows in the "
     "order of their experts, but no product; layer = the inside of each decoder layer."},

    {"data.sources", DT_MEMBER(&c.data.sources), "", kAny, kFixed, "The texts that are trained on; keys below."},
    {"data.synthetic", DT_MEMBER(&c.data.synthetic), "", kAny, kFixed,
     "Random tokens in place of text, to measure speed."},
    {"data.cache_folder", DT_MEMBER(&c.data.cache_folder), "", kAny, kMayDiffer,
     "Where tokenised texts are kept; runs share it."},

    {"validation.freq", DT_MEMBER(&c.validation.freq), "steps", kAtLeast0, kMayDiffer,
     "Steps between two validations; 0 = never."},
    {"validation.fraction", DT_MEMBER(&c.validation.fraction), "", NumberRange{.least = 0, .most = 0.5}, kFixed,
     "The last part of each source that is held out, where it names no validation_path."},
    {"validation.max_tokens", DT_MEMBER(&c.validation.max_tokens), "tokens", kAtLeast0, kMayDiffer,
     "Tokens of each source that a validation reads at most; 0 = all."},
};
#undef DT_MEMBER

#define DT_MEMBER(expression) [](TextSource& s) -> ConfigMember { return expression; }

const ConfigKey<TextSource> kSourceKeys[] = {
    {"path", DT_MEMBER(&s.path), "", kAny, kFixed,
     "A text file, a JSON file (objects on lines or one after another, or a list of them; found by its content too), "
     "one "
     "of them compressed by gzip or zstd, or a directory of such files, read recursively in the order of names. Binary "
     "files of a directory are left out and counted."},
    {"include", DT_MEMBER(&s.include), "", kAny, kFixed,
     "Directory: patterns of the files that are read (`*`, `?` and `[a-z]` as in a shell; `*` matches `/` too), each "
     "held against a file's name and its path below the directory, such as `*.md`; none = all."},
    {"exclude", DT_MEMBER(&s.exclude), "", kAny, kFixed, "Directory: patterns of files that are not read."},
    {"name", DT_MEMBER(&s.name), "", kAny, kFixed,
     "Name under which its validation loss is reported; empty = the path's last part without extension."},
    {"weight", DT_MEMBER(&s.weight), "", kAbove0, kFixed,
     "Its share of the training sequences, relative to the other sources' weights."},
    {"max_passes", DT_MEMBER(&s.max_passes), "", kAtLeast0, kFixed,
     "How often the run may read its training part at most, such as 4 or 0.5: what its weight asks beyond that goes to "
     "the other sources; 0 = no limit."},
    {"format", DT_MEMBER(choice(s.format, kSourceFormatNames)), "", kAny, kFixed,
     "text: documents, every token of which is learnt. chat: JSON objects with a list of messages (role and content: "
     "system, user, assistant, tool), rendered by the chat template; only the assistant's turns and their end are "
     "learnt. plain: as text, but JSON is read as it stands, braces included."},
    {"text_field", DT_MEMBER(&s.text_field), "", kAny, kFixed, "text, JSON: the field that holds the document."},
    {"messages_field", DT_MEMBER(&s.messages_field), "", kAny, kFixed,
     "chat: the field that holds the list of messages."},
    {"document_separator", DT_MEMBER(&s.document_separator), "", kAny, kFixed,
     "Text files: what stands between two documents, such as \"\\n\\n\" (a line feed there stands for a file's CR LF "
     "too); empty = a file is one document."},
    {"validation_path", DT_MEMBER(&s.validation_path), "", kAny, kFixed,
     "Its validation text, read as `path` is; empty = the last validation.fraction of the source (of a chat: of its "
     "conversations)."},
};
#undef DT_MEMBER

std::string number_range_words(const NumberRange& range, std::string_view what) {
  const bool bounded_below = range.least > -std::numeric_limits<double>::infinity();
  const bool bounded_above = range.most < std::numeric_limits<double>::infinity();
  if (bounded_below && bounded_above) {
    return fmt::format("{} from {} to {}{}", what, range.least, range.below ? "below " : "", range.most);
  }
  if (!bounded_below) return std::string(what);
  return fmt::format("{} {} {}", what, range.above ? "greater than" : "of at least", range.least);
}

}  // namespace

std::span<const ConfigKey<RunConfig>> run_config_keys() {
  return kKeys;
}
std::span<const ConfigKey<TextSource>> text_source_keys() {
  return kSourceKeys;
}

std::string expected_values(const ConfigMember& member, const NumberRange& range) {
  if (std::holds_alternative<bool*>(member)) return "true or false";
  if (std::holds_alternative<int64_t*>(member)) return number_range_words(range, "a whole number");
  if (std::holds_alternative<double*>(member)) return number_range_words(range, "a number");
  if (const auto* c = std::get_if<ChoiceMember>(&member)) return fmt::format("one of {}", fmt::join(c->names, ", "));
  if (const auto* table = std::get_if<TableMember>(&member)) return fmt::format("a table of {}", table->entries);
  if (std::holds_alternative<std::vector<TextSource>*>(member)) return "an array of tables";
  if (std::holds_alternative<std::vector<std::string>*>(member)) return "an array of texts in quotes";
  return "a text in quotes";
}

}  // namespace deeptitan
