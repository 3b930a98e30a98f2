// The safetensors reader on any bytes: it refuses them with an Error, or every tensor it hands out lies in the file.
#include <cstdint>
#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  SafetensorsHeader header;
  try {
    header = parse_safetensors_header(reinterpret_cast<const std::byte*>(data), size, size, "input");
  } catch (const Error&) {
    return 0;
  }
  uint64_t end = 0;
  for (const auto& tensor : header.tensors) {
    const auto elements = static_cast<uint64_t>(element_count(tensor.shape));
    if (tensor.offset < end || tensor.bytes > size || tensor.offset > size - tensor.bytes) std::abort();
    if (elements * dtype_size(tensor.dtype) != tensor.bytes) std::abort();
    end = tensor.offset + tensor.bytes;
  }
  return 0;
}
