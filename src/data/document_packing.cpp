#include "data/document_packing.h"

#include <algorithm>

#include "data/random_permutation.h"

namespace deeptitan {

namespace {

constexpr size_t kOpenSequences = 64;

struct OpenSequence {
  int64_t room;
  std::vector<int64_t> documents;
};

}  // namespace

DocumentPacking::DocumentPacking(const TokenRange& range, int64_t sequence_length, std::optional<uint64_t> shuffle_key)
    : range_(range), sequence_length_(sequence_length) {
  const auto place_of = [&](int64_t token) {
    const auto& starts = range_.document_starts;
    return std::lower_bound(starts.begin(), starts.end(), token) - starts.begin();
  };
  const int64_t first = place_of(range_.first);
  const int64_t count = place_of(range_.end) - first;
  if (count == 0) return;

  std::vector<OpenSequence> open;
  const auto close = [&](std::vector<OpenSequence>::iterator sequence) {
    documents_.insert(documents_.end(), sequence->documents.begin(), sequence->documents.end());
    sequence_starts_.push_back(static_cast<int64_t>(documents_.size()));
    open.erase(sequence);
  };
  const RandomPermutation order(static_cast<uint64_t>(count), shuffle_key.value_or(0));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t document = first + (shuffle_key ? static_cast<int64_t>(order[static_cast<uint64_t>(i)]) : i);
    const int64_t length = range_.document_starts[document + 1] - range_.document_starts[document];
    statistics_.longest = std::max(statistics_.longest, length);
    if (!has_target(document)) {
      ++statistics_.left_out;
      continue;
    }
    const int64_t used = std::min(length, sequence_length_);
    ++statistics_.documents;
    statistics_.tokens += used;
    statistics_.cut += length > sequence_length_ ? 1 : 0;
    auto sequence = std::find_if(open.begin(), open.end(), [&](const OpenSequence& s) { return s.room >= used; });
    if (sequence == open.end()) {
      if (open.size() == kOpenSequences) {
        close(std::min_element(open.begin(), open.end(),
                               [](const OpenSequence& a, const OpenSequence& b) { return a.room < b.room; }));
      }
      sequence = open.insert(open.end(), {sequence_length_, {}});
    }
    sequence->documents.push_back(document);
    sequence->room -= used;
  }
  while (!open.empty()) close(open.begin());
}

DocumentPiece DocumentPacking::piece_of(int64_t document) const {
  const int64_t start = range_.document_starts[document];
  return {start, std::min(range_.document_starts[document + 1], start + sequence_length_)};
}

bool DocumentPacking::has_target(int64_t document) const {
  // The last token of a piece has the token behind it as its target, where the document goes on.
  const DocumentPiece piece = piece_of(document);
  const int64_t end = std::min(piece.end + 1, range_.document_starts[document + 1]);
  for (int64_t token = piece.first + 1; token < end; ++token) {
    if (range_.counts(token)) return true;
  }
  return false;
}

void DocumentPacking::append(int64_t index, int32_t padding_token, const TokenBytes& token_bytes,
                             PackedBatch* batch) const {
  std::vector<DocumentPiece> pieces;
  for (int64_t i = sequence_starts_[index]; i < sequence_starts_[index + 1]; ++i) {
    pieces.push_back(piece_of(documents_[i]));
  }
  append_pieces(range_, pieces, padding_token, token_bytes, batch);
}

}  // namespace deeptitan
