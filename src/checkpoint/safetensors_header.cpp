// The header's grammar and every check of it; the mapping is in safetensors.cpp.
#include <algorithm>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit that the format's own library sets
constexpr int kMaxDepth = 3;                       // header object, tensor object, array of numbers

uint64_t unsigned_value(const json& value, std::string_view what, std::string_view file, std::string_view tensor) {
  DT_CHECK(value.is_number_unsigned(), "{}: tensor {}: {} must be made of whole numbers from 0 up, found {}", file,
           tensor, what, shown_json(value));
  return value.get<uint64_t>();
}

const json& field(const json& tensor, const char* key, json::value_t type, std::string_view type_name,
                  std::string_view file, std::string_view name) {
  const auto found = tensor.find(key);
  DT_CHECK(found != tensor.end() && found->type() == type, "{}: tensor {}: the header must have \"{}\" as {}", file,
           name, key, type_name);
  return *found;
}

SafetensorsHeader::Tensor parse_tensor(const std::string& tensor_name, const json& value, uint64_t data_offset,
                                       uint64_t data_bytes, std::string_view file) {
  const std::string name = shown(tensor_name);
  DT_CHECK(value.is_object(), "{}: tensor {}: the header must describe it by an object, found {}", file, name,
           json_kind(value));
  SafetensorsHeader::Tensor tensor;
  tensor.name = tensor_name;
  const auto& dtype = field(value, "dtype", json::value_t::string, "text", file, name).get_ref<const std::string&>();
  DT_CHECK(
      parse_safetensors_dtype(dtype, tensor.dtype),
      "{}: tensor {}: dtype {} is not one that can be read; those are F32, F16, BF16, F8_E4M3, F64, I32, I64, U8, I8 "
      "and BOOL",
      file, name, shown(dtype));

  uint64_t bytes = dtype_size(tensor.dtype);
  bool empty = false, overflow = false;
  for (const json& extent : field(value, "shape", json::value_t::array, "an array", file, name)) {
    const uint64_t size = unsigned_value(extent, "shape", file, name);
    DT_CHECK(size <= static_cast<uint64_t>(INT64_MAX), "{}: tensor {}: {} is too large for an extent", file, name,
             size);
    tensor.shape.push_back(static_cast<int64_t>(size));
    if (size == 0) {
      empty = true;
    } else {
      overflow = overflow || __builtin_mul_overflow(bytes, size, &bytes);
    }
  }
  if (empty) bytes = 0;

  const json& range = field(value, "data_offsets", json::value_t::array, "an array", file, name);
  DT_CHECK(range.size() == 2, "{}: tensor {}: data_offsets must be [begin, end], found {} numbers", file, name,
           range.size());
  const uint64_t begin = unsigned_value(range[0], "data_offsets", file, name);
  const uint64_t end = unsigned_value(range[1], "data_offsets", file, name);
  DT_CHECK(begin <= end, "{}: tensor {}: data_offsets [{}, {}] end before they begin", file, name, begin, end);
  DT_CHECK(
      end <= data_bytes,
      "{}: tensor {}: data_offsets [{}, {}] reach beyond the {} bytes that follow the header; the file is truncated "
      "or its header lies; fetch it again",
      file, name, begin, end, data_bytes);
  DT_CHECK((empty || !overflow) && end - begin == bytes,
           "{}: tensor {}: shape {} of {} does not fill data_offsets [{}, {}] ({} bytes)", file, name,
           shape_text(tensor.shape), dtype, begin, end, end - begin);
  tensor.offset = data_offset + begin;
  tensor.bytes = end - begin;
  return tensor;
}

void check_coverage(const SafetensorsHeader& header, uint64_t data_offset, uint64_t file_bytes, std::string_view file) {
  uint64_t end = data_offset;
  std::string_view previous = "the header";
  for (const auto& tensor : header.tensors) {
    DT_CHECK(tensor.offset >= end, "{}: the bytes of tensor {} overlap those of {}", file, shown(tensor.name),
             shown(previous));
    DT_CHECK(tensor.offset == end, "{}: {} bytes between {} and tensor {} belong to no tensor", file,
             tensor.offset - end, shown(previous), shown(tensor.name));
    end = tensor.offset + tensor.bytes;
    previous = tensor.name;
  }
  DT_CHECK(end == file_bytes,
           "{}: {} bytes after the last tensor belong to no tensor; the header and the file do not match", file,
           file_bytes - end);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(const std::byte* data, uint64_t available, uint64_t file_bytes,
                                           std::string_view file) {
  DT_CHECK(file_bytes >= 8 && available >= 8,
           "{}: {} bytes are too few for a safetensors file; it is truncated, fetch it again", file, file_bytes);
  const std::string_view start(reinterpret_cast<const char*>(data), std::min<uint64_t>(available, 64));
  DT_CHECK(
      !start.starts_with("version https://git-lfs"),
      "{} is a Git LFS pointer, not the file itself; run git lfs pull in its repository or fetch it with deeptitan "
      "download",
      file);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = (header_bytes << 8) | std::to_integer<uint64_t>(data[i]);
  DT_CHECK(header_bytes <= kMaxHeaderBytes,
           "{}: a header of {} bytes is announced, the format allows {}; the file is damaged or not a safetensors file",
           file, header_bytes, kMaxHeaderBytes);
  DT_CHECK(header_bytes + 8 <= std::min(available, file_bytes),
           "{}: a header of {} bytes is announced, the file has {}; it is truncated, fetch it again", file,
           header_bytes, file_bytes);

  const std::string where = fmt::format("{}: the header", file);
  const json root =
      read_json({reinterpret_cast<const char*>(data) + 8, header_bytes},
                {.where = where, .advice = "the file is damaged or not a safetensors file", .max_depth = kMaxDepth});
  DT_CHECK(root.is_object(), "{}: the header must be a JSON object, found {}", file, json_kind(root));

  SafetensorsHeader header;
  const uint64_t data_offset = 8 + header_bytes;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      DT_CHECK(value.is_object(), "{}: __metadata__ must be an object of texts, found {}", file, json_kind(value));
      for (const auto& [key, text] : value.items()) {
        DT_CHECK(text.is_string(), "{}: __metadata__.{} must be text, found {}", file, key, json_kind(text));
        header.metadata.emplace(key, text.get<std::string>());
      }
      continue;
    }
    header.tensors.push_back(parse_tensor(name, value, data_offset, file_bytes - data_offset, file));
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  check_coverage(header, data_offset, file_bytes, file);
  return header;
}

}  // namespace deeptitan
