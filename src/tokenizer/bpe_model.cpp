#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "core/error.h"
#include "tokenizer/byte_level.h"

namespace deeptitan {
namespace {

constexpr size_t kShortPiece = 32;   // bytes; up to here searching all pairs is quicker than a heap
constexpr size_t kCachedPiece = 64;  // bytes; longer pieces hardly ever come again
constexpr size_t kCacheSlots = 1 << 16;
constexpr size_t kCachedIds = kCacheSlots * 8;

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ (x >> 32);
}

uint64_t hash_bytes(std::string_view bytes) {
  uint64_t hash = bytes.size();
  while (bytes.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    hash = mix(hash ^ word);
    bytes.remove_prefix(8);
  }
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  return mix(mix(hash ^ word));
}

}  // namespace

BpeModel::Scratch::Scratch() : cache(kCacheSlots) {}

BpeModel::BpeModel(const std::vector<std::pair<std::string, int32_t>>& vocabulary,
                   const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges, Ranks ranks)
    : ignore_merges_(ignore_merges) {
  std::unordered_map<std::string_view, int32_t> id_of_token;
  std::unordered_set<int32_t> used;
  id_of_byte_.fill(-1);
  for (const auto& [token, id] : vocabulary) {
    DT_CHECK(id >= 0 && id < kMaxIds, "the vocabulary gives token \"{}\" the id {}; ids must be 0 to {}", token, id,
             kMaxIds - 1);
    DT_CHECK(used.insert(id).second, "the vocabulary gives id {} to two tokens, one of them \"{}\"", id, token);
    id_of_token[token] = id;
    const std::optional<std::string> bytes = byte_level_decode(token);
    if (!bytes) continue;
    if (bytes->size() == 1) id_of_byte_[static_cast<unsigned char>((*bytes)[0])] = id;
    if (ignore_merges) id_of_piece_[*bytes] = id;
  }
  merges_.resize(std::bit_ceil(merges.size() * 2 + 1));
  const auto id_of = [&](const std::string& token) {
    const auto found = id_of_token.find(token);
    DT_CHECK(found != id_of_token.end(), "a merge needs the token \"{}\", which is not in the vocabulary", token);
    return found->second;
  };
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const int32_t left_id = id_of(left), right_id = id_of(right);
    const int32_t id = id_of(left + right);
    insert_merge(pair_key(left_id, right_id),
                 static_cast<uint32_t>(ranks == Ranks::kByPlace ? static_cast<int64_t>(rank) : id), id);
  }
}

bool BpeModel::covers_all_bytes() const {
  return std::none_of(id_of_byte_.begin(), id_of_byte_.end(), [](int32_t id) { return id < 0; });
}

void BpeModel::insert_merge(uint64_t pair, uint32_t rank, int32_t id) {
  size_t slot = mix(pair) & (merges_.size() - 1);
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
  merges_[slot] = {pair, rank, id};  // of a merge named twice the last counts
}

const BpeModel::Merge* BpeModel::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  for (size_t slot = mix(pair) & (merges_.size() - 1);; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

void BpeModel::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.size() > kCachedPiece) {
    merge_piece(piece, scratch, ids);
    return;
  }
  const uint64_t hash = hash_bytes(piece);
  size_t slot = hash & (kCacheSlots - 1);
  for (; scratch.cache[slot].length != 0; slot = (slot + 1) & (kCacheSlots - 1)) {
    const Scratch::CachedPiece& entry = scratch.cache[slot];
    if (entry.hash == hash && piece == std::string_view(scratch.cached_bytes).substr(entry.bytes_at, entry.length)) {
      const auto first = scratch.cached_ids.begin() + entry.ids_at;
      ids.insert(ids.end(), first, first + entry.id_count);
      return;
    }
  }
  const size_t before = ids.size();
  merge_piece(piece, scratch, ids);
  if (scratch.cached_pieces == kCacheSlots / 2 || scratch.cached_ids.size() > kCachedIds) {
    std::fill(scratch.cache.begin(), scratch.cache.end(), Scratch::CachedPiece{});
    scratch.cached_pieces = 0;
    scratch.cached_bytes.clear();
    scratch.cached_ids.clear();
    slot = hash & (kCacheSlots - 1);
  }
  scratch.cache[slot] = {hash, static_cast<uint32_t>(scratch.cached_bytes.size()),
                         static_cast<uint32_t>(scratch.cached_ids.size()), static_cast<uint16_t>(piece.size()),
                         static_cast<uint16_t>(ids.size() - before)};
  ++scratch.cached_pieces;
  scratch.cached_bytes += piece;
  scratch.cached_ids.insert(scratch.cached_ids.end(), ids.begin() + static_cast<ptrdiff_t>(before), ids.end());
}

void BpeModel::merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const auto found = id_of_piece_.find(std::string(piece));
    if (found != id_of_piece_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  if (piece.size() <= kShortPiece) {
    merge_short(piece, scratch, ids);
  } else {
    merge_long(piece, scratch, ids);
  }
}

void BpeModel::merge_short(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  std::vector<int32_t>& tokens = scratch.short_ids;
  std::vector<uint32_t>& ranks = scratch.short_ranks;  // of the pair that starts at each token
  tokens.clear();
  for (const char byte : piece) {
    const int32_t id = id_of_byte_[static_cast<unsigned char>(byte)];
    if (id >= 0) tokens.push_back(id);
  }
  if (tokens.empty()) return;
  const auto rank_at = [&](size_t i) {
    const Merge* merge = i + 1 < tokens.size() ? find_merge(tokens[i], tokens[i + 1]) : nullptr;
    return merge != nullptr ? merge->rank : kNoRank;
  };
  ranks.resize(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) ranks[i] = rank_at(i);
  while (tokens.size() > 1) {
    const auto best = std::min_element(ranks.begin(), ranks.end());
    if (*best == kNoRank) break;
    const auto at = static_cast<size_t>(best - ranks.begin());
    tokens[at] = find_merge(tokens[at], tokens[at + 1])->id;
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(at) + 1);
    ranks.erase(ranks.begin() + static_cast<ptrdiff_t>(at) + 1);
    ranks[at] = rank_at(at);
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
  }
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

void BpeModel::merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  using Candidate = Scratch::Candidate;
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  DT_CHECK(piece.size() < (size_t{1} << 31),
           "a piece of text of {} bytes without a place to cut it is too long; at most "
           "2 GiB are supported",
           piece.size());
  symbols.clear();
  heap.clear();
  for (const char byte : piece) {
    const int32_t id = id_of_byte_[static_cast<unsigned char>(byte)];
    const auto position = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto candidate_at = [&](int32_t position) -> std::optional<Candidate> {
    const Scratch::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.next < 0) return std::nullopt;
    const int32_t right = symbols[static_cast<size_t>(left.next)].id;
    const Merge* merge = find_merge(left.id, right);
    if (merge == nullptr) return std::nullopt;
    return Candidate{merge->rank, static_cast<uint32_t>(position), left.id, right};
  };
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (const auto candidate = candidate_at(static_cast<int32_t>(i))) heap.push_back(*candidate);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](int32_t position) {
    if (const auto candidate = candidate_at(position)) {
      heap.push_back(*candidate);
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[best.position];
    // A merge nearby has used one of the two up since this candidate was found.
    if (left.id != best.left || left.next < 0 || symbols[static_cast<size_t>(left.next)].id != best.right) continue;
    Scratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.id = find_merge(best.left, best.right)->id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = static_cast<int32_t>(best.position);
    if (left.previous >= 0) push(left.previous);
    push(static_cast<int32_t>(best.position));
  }
  for (int32_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    ids.push_back(symbols[static_cast<size_t>(at)].id);
  }
}

}  // namespace deeptitan
