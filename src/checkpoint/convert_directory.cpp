#include "checkpoint/convert_directory.h"

#include <algorithm>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/convert_elements.h"
#include "checkpoint/manifest.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/read_tensor.h"
#include "checkpoint/safetensors_writer.h"
#include "core/dtype_word.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

/// What happens to one tensor of the input.
struct Conversion {
  const TensorEntry* source;
  const TensorEntry* scale;  // its fp8 block scales, nullptr if it has none
  DType dtype;
  bool quantize;  // to fp8 with block scales
};

/// Orders numbers inside names by value, so that layer 2 comes before layer 10.
bool natural_less(const std::string& a, const std::string& b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (digit(a[i]) && digit(b[j])) {
      size_t end_i = i, end_j = j;
      while (end_i < a.size() && digit(a[end_i])) ++end_i;
      while (end_j < b.size() && digit(b[end_j])) ++end_j;
      if (end_i - i != end_j - j) return end_i - i < end_j - j;
      if (const int order = a.compare(i, end_i - i, b, j, end_j - j); order != 0) return order < 0;
      i = end_i;
      j = end_j;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

bool is_floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF64 ||
         dtype == DType::kF8E4M3;
}

std::string scale_name(const std::string& name) {
  return name + "_scale_inv";
}

std::vector<int64_t> scale_shape(const std::vector<int64_t>& shape) {
  return {(shape[0] + kFloat8BlockSize - 1) / kFloat8BlockSize, (shape[1] + kFloat8BlockSize - 1) / kFloat8BlockSize};
}

std::vector<Conversion> plan_conversions(const ModelDirectory& model, DType dtype) {
  std::vector<std::string> names = model.names();
  std::sort(names.begin(), names.end(), natural_less);
  std::vector<Conversion> conversions;
  for (const std::string& name : names) {
    if (is_float8_scale(model, name)) continue;
    const TensorEntry& source = model.at(name);
    Conversion conversion{&source, float8_scale(model, source), source.dtype, false};
    if (is_floating(source.dtype)) {
      conversion.quantize = dtype == DType::kF8E4M3 && is_float8_weight(name, source.shape.size());
      conversion.dtype = dtype == DType::kF8E4M3 && !conversion.quantize ? DType::kBF16 : dtype;
      if (name.ends_with("e_score_correction_bias")) conversion.dtype = DType::kF32;
    }
    conversions.push_back(conversion);
  }
  return conversions;
}

std::vector<TensorDeclaration> declare(const std::vector<Conversion>& conversions) {
  std::vector<TensorDeclaration> tensors;
  for (const Conversion& conversion : conversions) {
    tensors.push_back({conversion.source->name, conversion.dtype, conversion.source->shape});
    if (conversion.quantize) {
      tensors.push_back({scale_name(conversion.source->name), DType::kF32, scale_shape(conversion.source->shape)});
    }
  }
  return tensors;
}

/// Writes tensors piece by piece; the buffers are as large as the largest piece.
class Converter {
 public:
  Converter(const ModelDirectory& model, ShardedSafetensorsWriter& writer, int64_t piece_elements,
            std::function<void(uint64_t)> written)
      : model_(model), writer_(writer), piece_elements_(piece_elements), written_(std::move(written)) {}

  void convert(const Conversion& conversion) {
    const TensorEntry& source = *conversion.source;
    const bool same = source.dtype == conversion.dtype && (conversion.scale != nullptr) == conversion.quantize;
    if (same) {
      copy(source);
      if (conversion.scale != nullptr) copy(*conversion.scale, scale_name(source.name));
    } else if (source.shape.size() == 2) {
      convert_rows(conversion);
    } else {
      convert_flat(conversion);
    }
  }

 private:
  /// What no load would accept is not written: what was damaged before, and what is too large for the narrower type.
  void check_finite(const std::string& name, const void* elements, DType dtype, int64_t count) const {
    if (dtype != DType::kF32 && dtype != DType::kBF16) return;
    const int64_t place = first_not_finite(elements, dtype, count);
    DT_CHECK(place < 0,
             "{}: tensor {} has a value that is not finite as {}; the model was damaged, its training diverged, or it "
             "has values that only a wider type holds",
             model_.path().string(), shown(name), dtype_word(dtype));
  }

  void write(const std::string& name, const void* data, size_t bytes) {
    writer_.write(name, data, bytes);
    written_(bytes);
  }

  /// Hands the pages of a piece that has been used back.
  void release(const TensorEntry& source, size_t offset, size_t bytes) {
    TensorEntry piece = source;
    piece.data += offset;
    piece.bytes = bytes;
    model_.release(piece);
  }

  void copy(const TensorEntry& source, const std::string& name) {
    const size_t piece_bytes = static_cast<size_t>(piece_elements_) * dtype_size(source.dtype);
    for (size_t offset = 0; offset < source.bytes; offset += piece_bytes) {
      const size_t bytes = std::min(piece_bytes, source.bytes - offset);
      check_finite(name, source.data + offset, source.dtype, static_cast<int64_t>(bytes / dtype_size(source.dtype)));
      write(name, source.data + offset, bytes);
      release(source, offset, bytes);
    }
  }
  void copy(const TensorEntry& source) { copy(source, source.name); }

  void convert_flat(const Conversion& conversion) {
    const TensorEntry& source = *conversion.source;
    const int64_t count = element_count(source.shape);
    const size_t source_size = dtype_size(source.dtype), size = dtype_size(conversion.dtype);
    for (int64_t begin = 0; begin < count; begin += piece_elements_) {
      const auto elements = static_cast<size_t>(std::min(piece_elements_, count - begin));
      const size_t offset = static_cast<size_t>(begin) * source_size;
      converted_.resize(elements * size);
      convert_elements(source.data + offset, source.dtype, converted_.data(), conversion.dtype,
                       static_cast<int64_t>(elements));
      check_finite(source.name, converted_.data(), conversion.dtype, static_cast<int64_t>(elements));
      write(source.name, converted_.data(), converted_.size());
      release(source, offset, elements * source_size);
    }
  }

  /// Pieces of whole rows of blocks, so that the scales of each piece are rows of the scales.
  void convert_rows(const Conversion& conversion) {
    const TensorEntry& source = *conversion.source;
    const int64_t rows = source.shape[0], columns = source.shape[1];
    if (rows == 0 || columns == 0) return;
    const int64_t column_blocks = scale_shape(source.shape)[1];
    const int64_t piece_rows = std::max<int64_t>(1, piece_elements_ / columns / kFloat8BlockSize) * kFloat8BlockSize;
    const size_t source_size = dtype_size(source.dtype);
    // Quantising starts from fp32, or from bf16 where that is what the file holds.
    DType dtype = conversion.dtype;
    if (conversion.quantize) dtype = source.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
    for (int64_t begin = 0; begin < rows; begin += piece_rows) {
      const int64_t count = std::min(piece_rows, rows - begin);
      const auto elements = static_cast<size_t>(count * columns);
      const size_t offset = static_cast<size_t>(begin * columns) * source_size;
      converted_.resize(elements * dtype_size(dtype));
      if (conversion.scale != nullptr) {
        const size_t scale_offset = static_cast<size_t>(begin / kFloat8BlockSize * column_blocks) * sizeof(float);
        dequantize_float8_blocks(source.data + offset, conversion.scale->data + scale_offset, count, columns,
                                 converted_.data(), dtype);
      } else {
        convert_elements(source.data + offset, source.dtype, converted_.data(), dtype, static_cast<int64_t>(elements));
      }
      check_finite(source.name, converted_.data(), dtype, static_cast<int64_t>(elements));
      if (conversion.quantize) {
        values_.resize(elements);
        scales_.resize(static_cast<size_t>((count + kFloat8BlockSize - 1) / kFloat8BlockSize * column_blocks));
        quantize_float8_blocks(converted_.data(), dtype, count, columns, values_.data(), scales_.data());
        write(source.name, values_.data(), values_.size());
        write(scale_name(source.name), scales_.data(), scales_.size() * sizeof(float));
      } else {
        write(source.name, converted_.data(), converted_.size());
      }
      release(source, offset, elements * source_size);
    }
  }

  const ModelDirectory& model_;
  ShardedSafetensorsWriter& writer_;
  int64_t piece_elements_;
  std::function<void(uint64_t)> written_;
  std::vector<std::byte> converted_;
  std::vector<uint8_t> values_;
  std::vector<float> scales_;
};

/// config.json as the output needs it; checks that the input is quantised in no other way than can be read.
std::string converted_config(const fs::path& path, DType dtype) {
  DT_CHECK(fs::exists(path), "{} is missing; a model directory has one", path.string());
  const std::string where = path.string();
  Json config = read_json_file<Json>(path, {.where = where}, kMaxConfigBytes);
  DT_CHECK(config.is_object(), "{} must hold a JSON object, found {}", where, json_kind(config));
  if (const auto found = config.find("quantization_config"); found != config.end() && !found->is_null()) {
    const Json& quantization = *found;
    const Json block = {kFloat8BlockSize, kFloat8BlockSize};
    DT_CHECK(quantization.is_object() && quantization.value("quant_method", Json()) == "fp8" &&
                 quantization.value("weight_block_size", block) == block,
             "{}: quantization_config must be absent or fp8 with weight_block_size [128, 128], found {}", path.string(),
             shown_json(quantization));
  }
  config.erase("quantization_config");
  const char* name = dtype == DType::kF32 ? "float32" : "bfloat16";
  config["torch_dtype"] = name;
  if (config.contains("dtype")) config["dtype"] = name;
  if (dtype == DType::kF8E4M3) {
    config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                     {"fmt", "e4m3"},
                                     {"quant_method", "fp8"},
                                     {"weight_block_size", {kFloat8BlockSize, kFloat8BlockSize}}};
  }
  return write_json(config, 2) + "\n";
}

bool holds_tensors(const std::string& file_name) {
  for (const char* ending : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth",
                             ".gguf", ".onnx", ".msgpack", ".h5"}) {
    if (file_name.ends_with(ending)) return true;
  }
  return false;
}

bool lies_in(const fs::path& path, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), path.begin(), path.end()).first == directory.end();
}

/// The directory that its links may lead into: itself; in the hub's cache, whose snapshots are links to blobs beside
/// them, that of the repository.
fs::path home_of_links(const fs::path& input) {
  const fs::path directory = fs::canonical(input);
  const fs::path snapshots = directory.parent_path();
  return snapshots.filename() == "snapshots" ? snapshots.parent_path() : directory;
}

void copy_small_files(const fs::path& input, const fs::path& output) {
  const fs::path home = home_of_links(input);
  for (const auto& entry : fs::directory_iterator(input)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".") || name == "config.json" || name == kManifestFile || holds_tensors(name)) continue;
    std::error_code error;
    if (!entry.is_regular_file(error)) continue;
    const fs::path file = fs::canonical(entry.path());
    if (entry.is_symlink() && !lies_in(file, home)) {
      log_warning(fmt::format("{} is a link to {}, outside {}: not copied", shown(name), file.string(), home.string()));
      continue;
    }
    fs::copy_file(file, output / name, error);
    if (error) fail_file("copy", entry.path(), error.value());
  }
}

void check_places(const fs::path& input, const fs::path& output) {
  const fs::path from = fs::weakly_canonical(input), to = fs::weakly_canonical(output);
  DT_CHECK_USAGE(!lies_in(to, from), "the output {} lies in the input {}; choose a directory of its own",
                 output.string(), input.string());
  DT_CHECK_USAGE(!fs::exists(output) || (fs::is_directory(output) && fs::is_empty(output)),
                 "the output {} exists and is not an empty directory; choose another or remove it", output.string());
}

}  // namespace

bool is_float8_weight(std::string_view name, size_t dimensions) {
  if (dimensions != 2 || !name.ends_with(".weight")) return false;
  name.remove_suffix(std::string_view(".weight").size());
  const std::string_view module = name.substr(name.rfind('.') + 1);
  return module != "embed_tokens" && module != "lm_head" && module != "head" && module != "gate" &&
         module != "eh_proj" && !module.ends_with("norm");
}

ConvertSummary convert_directory(const fs::path& input, const fs::path& output, const ConvertOptions& options) {
  DT_CHECK_USAGE(options.dtype == DType::kBF16 || options.dtype == DType::kF32 || options.dtype == DType::kF8E4M3,
                 "a model can be converted to bf16, fp32 or fp8, not to {}", dtype_word(options.dtype));
  DT_CHECK(options.piece_elements > 0, "piece_elements must be at least 1, found {}", options.piece_elements);
  const ModelDirectory model(input);
  check_places(input, output);
  check_model_directory(input);
  const std::string config = converted_config(input / "config.json", options.dtype);
  const std::vector<Conversion> conversions = plan_conversions(model, options.dtype);
  const std::vector<TensorDeclaration> tensors = declare(conversions);

  ConvertSummary summary{static_cast<int64_t>(tensors.size()), 0};
  for (const auto& tensor : tensors) {
    summary.bytes += static_cast<uint64_t>(element_count(tensor.shape)) * dtype_size(tensor.dtype);
  }
  AtomicDirectory directory(output);
  const uint64_t free_bytes = fs::space(directory.path()).available;
  DT_CHECK(summary.bytes <= free_bytes,
           "{} needs {}, its disk has {} free; make room or choose a directory on another disk", output.string(),
           format_bytes(summary.bytes), format_bytes(free_bytes));

  ShardedSafetensorsWriter writer(directory.path(), tensors, options.max_shard_bytes);
  uint64_t written = 0;
  Converter converter(model, writer, options.piece_elements, [&](uint64_t bytes) {
    written += bytes;
    if (options.progress) options.progress(written, summary.bytes);
  });
  for (const Conversion& conversion : conversions) converter.convert(conversion);
  writer.finish();
  write_file(directory.path() / "config.json", config);
  copy_small_files(input, directory.path());
  directory.commit();
  return summary;
}

}  // namespace deeptitan
