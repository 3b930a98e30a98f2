#include "generate/runner_ranks.h"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "comm/rank_texts.h"
#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

// Behind those of the mesh's groups.
constexpr int kCommandChannel = 128;
// For reading a model from a slow disk.
constexpr double kLoadDeadline = 3600;

bool fits(const ModelConfig& config, int64_t pp, int64_t ep) {
  const bool experts = ep == 1 || (config.n_routed_experts > 0 && config.n_routed_experts % ep == 0);
  return experts && pp <= config.num_hidden_layers;
}

std::vector<std::string> possible_layouts(const ModelConfig& config, int64_t ranks) {
  std::vector<std::string> layouts;
  for (int64_t pp = 1; pp <= ranks; ++pp) {
    if (ranks % pp == 0 && fits(config, pp, ranks / pp)) {
      layouts.push_back(fmt::format("--pipeline-parallel {} --expert-parallel {}", pp, ranks / pp));
    }
  }
  return layouts;
}

}  // namespace

Mesh lay_out_ranks(const ModelConfig& config, int ranks, int64_t pp, int64_t ep) {
  const int64_t all = ranks;
  const int64_t stages = pp > 0 ? pp : ep > 0 ? std::max<int64_t>(1, all / ep) : 1;
  const int64_t parts = ep > 0 ? ep : std::max<int64_t>(1, all / stages);
  if (stages * parts != all || !fits(config, stages, parts)) {
    std::vector<std::string> layouts = possible_layouts(config, all);
    fail_usage(
        "{} rank{} cannot hold a model of {} layers and {} routed experts a layer as pipeline-parallel {} x "
        "expert-parallel {}; {}",
        all, all == 1 ? "" : "s", config.num_hidden_layers, config.n_routed_experts, stages, parts,
        layouts.empty() ? fmt::format("no layout of {} ranks can: take a number that divides the experts, or at most "
                                      "as many as layers",
                                      all)
                        : fmt::format("use {}", fmt::join(layouts, " or ")));
  }
  return {.pp = static_cast<int>(stages), .ep = static_cast<int>(parts)};
}

RunnerRanks::RunnerRanks(Transport& transport, const Mesh& mesh, double deadline, int ranks_of_host)
    : mesh_(mesh),
      rank_(transport.rank()),
      ranks_of_host_(ranks_of_host),
      groups_(transport, mesh, deadline),
      commands_(transport, "commands", mesh.group(MeshGroup::kWorld, rank_), kCommandChannel,
                rank_ == 0 ? deadline : kNoDeadline) {}

void RunnerRanks::connect(Device device) {
  device_ = device;
  if (device.kind != DeviceKind::kCpu) device_groups_.emplace(groups_, mesh_, device, host().deadline());
}

Stage RunnerRanks::stage(int64_t layers) const {
  return split_into_stages(layers, mesh_.pp)[mesh_.place(rank_).pp];
}

bool RunnerRanks::gives_results() const {
  const MeshPlace place = mesh_.place(rank_);
  return place.pp == mesh_.pp - 1 && place.ep == 0;
}

void RunnerRanks::tell(Command command, std::span<const int32_t> words) {
  DT_CHECK(first(), "rank {} tells others what to run; the first does", rank_);
  ExecutionContext ctx;
  ctx.state = &state_;
  int32_t head[2] = {static_cast<int32_t>(command), static_cast<int32_t>(words.size())};
  commands_.broadcast(ctx, Tensor(head, DType::kI32, {2}), 0);
  if (!words.empty()) {
    commands_.broadcast(ctx, Tensor(const_cast<int32_t*>(words.data()), DType::kI32, {std::ssize(words)}), 0);
  }
}

RunnerRanks::Command RunnerRanks::listen(std::vector<int32_t>& words) {
  ExecutionContext ctx;
  ctx.state = &state_;
  int32_t head[2] = {};
  commands_.broadcast(ctx, Tensor(head, DType::kI32, {2}), 0);
  words.resize(head[1]);
  if (!words.empty()) commands_.broadcast(ctx, Tensor(words.data(), DType::kI32, {std::ssize(words)}), 0);
  return static_cast<Command>(head[0]);
}

void RunnerRanks::wait_for_all() {
  const double usual = host().deadline();
  host().set_deadline(std::max(usual, kLoadDeadline));
  ExecutionContext ctx;
  ctx.state = &state_;
  host().barrier(ctx);
  host().set_deadline(usual);
}

RankMemory memory_of(const MemoryPlan& plan, const RunnerRanks& ranks, Device device) {
  const int sharing = device.kind == DeviceKind::kCpu ? ranks.ranks_of_host() : 1;
  return {plan.total(), available_memory(device), sharing, plan.largest()};
}

std::vector<RankMemory> gather_memory(RunnerRanks& ranks, const RankMemory& mine) {
  ranks.wait_for_all();
  const nlohmann::json json = {mine.planned, mine.available, mine.ranks_of_host, mine.largest};
  std::vector<RankMemory> all;
  for (const std::string& text : gather_texts(ranks.host(), json.dump())) {
    const nlohmann::json found = nlohmann::json::parse(text);
    all.push_back(
        {found[0].get<int64_t>(), found[1].get<int64_t>(), found[2].get<int64_t>(), found[3].get<std::string>()});
  }
  return all;
}

std::vector<FirstNotFinite> gather_not_finite(const RunnerRanks& ranks, const FirstNotFinite& mine) {
  const nlohmann::json json = {mine.place, mine.what};
  std::vector<FirstNotFinite> all;
  for (const std::string& text : gather_texts(ranks.host(), json.dump())) {
    const nlohmann::json found = nlohmann::json::parse(text);
    all.push_back({.place = found[0].get<int64_t>(), .what = found[1].get<std::string>()});
  }
  return all;
}

int rank_without_memory(const std::vector<RankMemory>& memory) {
  const auto ranks = std::ssize(memory);
  const int64_t all = std::accumulate(memory.begin(), memory.end(), int64_t{0},
                                      [](int64_t sum, const RankMemory& rank) { return sum + rank.planned; });
  for (int64_t r = 0; r < ranks; ++r) {
    // All on one host take what they take; of a host of some it is not known which these are.
    const bool one_host = memory[r].ranks_of_host == ranks;
    const int64_t needed = one_host ? all : memory[r].planned * memory[r].ranks_of_host;
    if (needed > memory[r].available) return static_cast<int>(r);
  }
  return -1;
}

std::string describe_ranks(const Mesh& mesh, const std::vector<RankMemory>& memory) {
  constexpr size_t kListed = 4;
  std::vector<std::string> bytes;
  bytes.reserve(memory.size());
  for (const RankMemory& rank : memory) bytes.push_back(format_bytes(rank.planned));
  std::string each = fmt::format("{}", fmt::join(bytes, ", "));
  if (std::all_of(bytes.begin(), bytes.end(), [&](const std::string& b) { return b == bytes.front(); })) {
    each = bytes.front();
  } else if (bytes.size() > kListed) {
    const auto less = [](const RankMemory& a, const RankMemory& b) { return a.planned < b.planned; };
    const auto [least, most] = std::minmax_element(memory.begin(), memory.end(), less);
    each = fmt::format("{} to {} (rank {})", format_bytes(least->planned), format_bytes(most->planned),
                       most - memory.begin());
  }
  return fmt::format("{} ranks: pp {} x ep {}; memory of each: {}", mesh.world(), mesh.pp, mesh.ep, each);
}

std::vector<int32_t> to_words(const RunnerOptions& o) {
  std::vector<int32_t> words;
  for (const int64_t value :
       {static_cast<int64_t>(o.compute), o.context_length, o.sequences, o.prefill_chunk, o.batch_tokens, o.page_size,
        o.pages, o.experts ? static_cast<int64_t>(*o.experts) : -1, static_cast<int64_t>(o.graphs)}) {
    words.push_back(static_cast<int32_t>(value));
  }
  return words;
}

RunnerOptions options_from_words(std::span<const int32_t> words, RunnerRanks* ranks) {
  DT_CHECK(words.size() == 9, "what is to be planned has 9 numbers; another rank sent {}", words.size());
  return {.device = ranks->device(),
          .compute = static_cast<DType>(words[0]),
          .context_length = words[1],
          .sequences = words[2],
          .prefill_chunk = words[3],
          .batch_tokens = words[4],
          .page_size = words[5],
          .graphs = words[8] != 0,
          .pages = words[6],
          .experts = words[7] < 0 ? std::nullopt : std::optional(static_cast<GroupedGemmStrategy>(words[7])),
          .ranks = ranks};
}

std::vector<int32_t> seed_to_words(uint64_t seed) {
  return {static_cast<int32_t>(seed), static_cast<int32_t>(seed >> 32)};
}

uint64_t seed_from_words(std::span<const int32_t> words) {
  DT_CHECK(words.size() == 2, "a seed has 2 words; another rank sent {}", words.size());
  return static_cast<uint32_t>(words[0]) | static_cast<uint64_t>(static_cast<uint32_t>(words[1])) << 32;
}

}  // namespace deeptitan
