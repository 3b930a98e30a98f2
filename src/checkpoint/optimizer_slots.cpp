#include "checkpoint/optimizer_slots.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include "checkpoint/convert_elements.h"
#include "core/error.h"

namespace deeptitan {
namespace {

std::string key_of(const SlotSlice& slice) {
  return slice.slot + ":" + slice.tensor;
}

std::vector<TensorDeclaration> declare_slices(const std::vector<SlotSlice>& slices) {
  std::vector<TensorDeclaration> declarations;
  declarations.reserve(slices.size());
  for (const SlotSlice& slice : slices) declarations.push_back({slice.name(), slice.dtype, {slice.end - slice.begin}});
  return declarations;
}

bool parse_number(std::string_view text, int64_t& number) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && stop == text.data() + text.size();
}

std::optional<SlotSlice> parse_slice(std::string_view name) {
  const size_t colon = name.find(':'), bracket = name.rfind('[');
  if (colon == 0 || colon == std::string_view::npos || bracket == std::string_view::npos || bracket < colon ||
      !name.ends_with(']')) {
    return std::nullopt;
  }
  const std::string_view range = name.substr(bracket + 1, name.size() - bracket - 2);
  const size_t middle = range.find(':');
  SlotSlice slice{std::string(name.substr(0, colon)), std::string(name.substr(colon + 1, bracket - colon - 1)), 0, 0};
  const bool whole = middle != std::string_view::npos && parse_number(range.substr(0, middle), slice.begin) &&
                     parse_number(range.substr(middle + 1), slice.end) && slice.begin >= 0 && slice.end >= slice.begin;
  return whole ? std::optional(slice) : std::nullopt;
}

}  // namespace

std::string SlotSlice::name() const {
  return fmt::format("{}:{}[{}:{}]", slot, tensor, begin, end);
}

SlotWriter::SlotWriter(const std::filesystem::path& directory, int64_t rank, const std::vector<SlotSlice>& slices)
    : file_name_(fmt::format("optimizer-rank-{:05}.safetensors", rank)),
      writer_(directory / file_name_, declare_slices(slices)) {}

void SlotWriter::write(const SlotSlice& slice, const void* values) {
  writer_.write(slice.name(), values, static_cast<size_t>(slice.end - slice.begin) * dtype_size(slice.dtype));
}

SlotReader::SlotReader(const std::filesystem::path& directory) : directory_(directory) {
  std::set<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("optimizer-rank-") && name.ends_with(".safetensors")) paths.insert(entry.path());
  }
  DT_CHECK(!paths.empty(), "{} holds no optimizer-rank-*.safetensors", directory.string());
  for (const auto& path : paths) {
    const SafetensorsFile& file = *files_.emplace_back(std::make_unique<SafetensorsFile>(path));
    for (const TensorEntry& entry : file.tensors()) {
      const auto slice = parse_slice(entry.name);
      const bool is_slot = entry.dtype == DType::kF32 || entry.dtype == DType::kBF16;
      DT_CHECK(slice && is_slot && entry.shape == std::vector<int64_t>{slice->end - slice->begin},
               "{}: tensor {} is not a slice of an optimizer's slot", path.string(), entry.name);
      pieces_[key_of(*slice)].push_back({slice->begin, slice->end, &file, &entry});
    }
  }
  for (auto& [key, pieces] : pieces_) {
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  }
}

void SlotReader::check(const std::vector<SlotSlice>& wanted) const {
  std::map<std::string, int64_t> sizes;
  for (const SlotSlice& slice : wanted) sizes[key_of(slice)] = std::max(sizes[key_of(slice)], slice.end);
  for (const auto& [key, size] : sizes) {
    const auto found = pieces_.find(key);
    DT_CHECK(found != pieces_.end(), "{} lacks {}; was it written by another configuration?", directory_.string(), key);
    int64_t at = 0;
    for (const Piece& piece : found->second) {
      DT_CHECK(piece.begin == at, "{}: of {} the elements from {} to {} are there {}", directory_.string(), key,
               std::min(at, piece.begin), std::max(at, piece.begin), piece.begin < at ? "twice" : "nowhere");
      at = piece.end;
    }
    DT_CHECK(at == size, "{}: {} has {} elements, this run needs {}; was it written by another configuration?",
             directory_.string(), key, at, size);
  }
  for (const auto& [key, pieces] : pieces_) {
    DT_CHECK(sizes.contains(key), "{} has {}, which this run does not know; was it written by another configuration?",
             directory_.string(), key);
  }
}

void SlotReader::read(const SlotSlice& wanted, void* values) const {
  const auto found = pieces_.find(key_of(wanted));
  int64_t at = wanted.begin;
  if (found != pieces_.end()) {
    for (const Piece& piece : found->second) {
      if (piece.end <= at || piece.begin > at) continue;
      const int64_t count = std::min(piece.end, wanted.end) - at;
      if (count <= 0) break;
      const DType stored = piece.entry->dtype;
      const size_t first = static_cast<size_t>(at - piece.begin) * dtype_size(stored);
      std::byte* to = static_cast<std::byte*>(values) + (at - wanted.begin) * dtype_size(wanted.dtype);
      if (stored == wanted.dtype) {
        piece.file->read(*piece.entry, first, static_cast<size_t>(count) * dtype_size(stored), to);
      } else {
        convert_elements(piece.entry->data + first, stored, to, wanted.dtype, count);
        piece.file->release(*piece.entry);
      }
      at += count;
    }
  }
  DT_CHECK(at == wanted.end, "{} lacks {} from element {} on", directory_.string(), wanted.name(), at);
}

}  // namespace deeptitan
