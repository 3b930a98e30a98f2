#include "data/packed_batch.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {

namespace {

/// Tokens [first, end) of `range`; a part of the batch ends where a document does, and at the end.
void append_tokens(const TokenRange& range, int64_t first, int64_t end, const TokenBytes& token_bytes,
                   PackedBatch* batch) {
  auto next_start = std::upper_bound(range.document_starts.begin(), range.document_starts.end(), first);
  int64_t part_start = first;
  for (int64_t at = first; at < end; ++at) {
    if (at == *next_start) {
      batch->document_offsets.push_back(static_cast<int32_t>(batch->tokens.size()));
      part_start = at;
      ++next_start;
    }
    batch->tokens.push_back(range.tokens[static_cast<size_t>(at)]);
    batch->positions.push_back(static_cast<int32_t>(at - part_start));
    const bool has_target = at + 1 < range.end && at + 1 != *next_start && range.counts(at + 1);
    const int32_t target = has_target ? range.tokens[static_cast<size_t>(at + 1)] : -1;
    batch->targets.push_back(target);
    if (has_target) {
      ++batch->target_count;
      batch->target_bytes += token_bytes(target);
    }
  }
  batch->document_offsets.push_back(static_cast<int32_t>(batch->tokens.size()));
}

/// `count` tokens without targets, as a part of the batch; nothing where there are none.
void append_padding(int64_t count, int32_t padding_token, PackedBatch* batch) {
  if (count == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    batch->tokens.push_back(padding_token);
    batch->positions.push_back(static_cast<int32_t>(i));
    batch->targets.push_back(-1);
  }
  batch->document_offsets.push_back(static_cast<int32_t>(batch->tokens.size()));
}

}  // namespace

void PackedBatch::reset(int64_t sequence_count, int64_t length) {
  DT_CHECK(sequence_count >= 0 && length > 0, "a batch of {} sequences of {} tokens; expected none below 0 and 1",
           sequence_count, length);
  sequences = 0;
  sequence_length = length;
  target_count = 0;
  target_bytes = 0;
  const auto room = static_cast<size_t>(sequence_count * length);
  for (std::vector<int32_t>* array : {&tokens, &targets, &positions, &document_offsets}) {
    array->clear();
    array->reserve(room + 1);
  }
  document_offsets.push_back(0);
}

void append_sequence(const TokenRange& range, int64_t first, int32_t padding_token, const TokenBytes& token_bytes,
                     PackedBatch* batch) {
  const int64_t end = std::min(first + batch->sequence_length, range.end);
  DT_CHECK(first >= range.first && first < end, "a sequence from token {}; expected one from {} to {}", first,
           range.first, range.end - 1);
  append_tokens(range, first, end, token_bytes, batch);
  append_padding(batch->sequence_length - (end - first), padding_token, batch);
  ++batch->sequences;
}

void append_pieces(const TokenRange& range, std::span<const DocumentPiece> pieces, int32_t padding_token,
                   const TokenBytes& token_bytes, PackedBatch* batch) {
  int64_t left = batch->sequence_length;
  for (const DocumentPiece& piece : pieces) left -= piece.end - piece.first;
  DT_CHECK(left >= 0, "pieces of {} tokens in a sequence of {}", batch->sequence_length - left, batch->sequence_length);
  for (const DocumentPiece& piece : pieces) append_tokens(range, piece.first, piece.end, token_bytes, batch);
  append_padding(left, padding_token, batch);
  ++batch->sequences;
}

void append_padding_sequence(int32_t padding_token, PackedBatch* batch) {
  append_padding(batch->sequence_length, padding_token, batch);
  ++batch->sequences;
}

void shift_targets(const PackedBatch& batch, std::span<int32_t> next_ids, std::span<int32_t> next_targets) {
  const size_t tokens = batch.tokens.size();
  for (size_t t = 0; t < tokens; ++t) {
    const bool follows = t + 1 < tokens && batch.positions[t + 1] == batch.positions[t] + 1;
    next_ids[t] = follows ? batch.tokens[t + 1] : std::max(batch.targets[t], 0);
    next_targets[t] = follows ? batch.targets[t + 1] : -1;
  }
}

}  // namespace deeptitan
