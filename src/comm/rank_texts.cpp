#include "comm/rank_texts.h"

#include <algorithm>
#include <cstdint>

#include "core/error.h"

namespace deeptitan {
namespace {

// Texts travel as whole words, the last filled up with zeros.
constexpr int64_t kWord = sizeof(int32_t);

Tensor as_words(std::vector<int32_t>& words) {
  return {words.data(), DType::kI32, {static_cast<int64_t>(words.size())}};
}

}  // namespace

std::vector<std::string> gather_texts(Communicator& ranks, const std::string& mine) {
  ExecutionContext ctx;
  const auto bytes = static_cast<int64_t>(mine.size());
  std::vector<int32_t> sizes(ranks.size(), 0);
  sizes[ranks.rank()] = static_cast<int32_t>(bytes);
  ranks.all_reduce(ctx, as_words(sizes));
  std::vector<int64_t> parts;
  int64_t all = 0, first = 0;
  for (int r = 0; r < ranks.size(); ++r) {
    parts.push_back((sizes[r] + kWord - 1) / kWord);
    if (r < ranks.rank()) first += parts.back();
    all += parts.back();
  }
  std::vector<int32_t> words(all, 0);
  std::copy(mine.begin(), mine.end(), reinterpret_cast<char*>(words.data() + first));
  if (all > 0) ranks.all_gather(ctx, as_words(words), parts);
  std::vector<std::string> texts;
  const int32_t* at = words.data();
  for (int r = 0; r < ranks.size(); at += parts[r++]) texts.emplace_back(reinterpret_cast<const char*>(at), sizes[r]);
  return texts;
}

std::string broadcast_text(Communicator& ranks, const std::string& text, int root) {
  return gather_texts(ranks, ranks.rank() == root ? text : std::string())[root];
}

namespace {

// The first character says how it went.
constexpr char kDone = 'd', kUsage = 'u', kFailed = 'f';

std::string outcome_of(const std::function<std::string()>& work) {
  try {
    return kDone + work();
  } catch (const Error& error) {
    return (error.kind() == ErrorKind::kUsage ? kUsage : kFailed) + std::string(error.what());
  } catch (const std::exception& error) {
    return kFailed + std::string(error.what());
  }
}

std::string result_of(const std::string& outcome) {
  std::string text = outcome.substr(1);
  if (outcome[0] == kUsage) fail_usage("{}", text);
  if (outcome[0] == kFailed) fail("{}", text);
  return text;
}

}  // namespace

std::string on_first_rank(Communicator* ranks, const std::function<std::string()>& work) {
  if (ranks == nullptr || ranks->size() == 1) return work();
  return result_of(broadcast_text(*ranks, ranks->rank() == 0 ? outcome_of(work) : std::string(), 0));
}

std::vector<std::string> on_each_rank(Communicator* ranks, const std::function<std::string()>& work) {
  if (ranks == nullptr || ranks->size() == 1) return {work()};
  std::vector<std::string> results;
  for (const std::string& outcome : gather_texts(*ranks, outcome_of(work))) results.push_back(result_of(outcome));
  return results;
}

}  // namespace deeptitan
