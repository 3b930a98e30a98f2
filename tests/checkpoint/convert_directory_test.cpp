#include "checkpoint/convert_directory.h"

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/convert_elements.h"
#include "checkpoint/read_tensor.h"
#include "checkpoint/safetensors_writer.h"
#include "core/bfloat16.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kProjection = "model.layers.2.self_attn.kv_a_proj_with_mqa.weight";
constexpr const char* kProjection10 = "model.layers.10.mlp.experts.0.up_proj.weight";
constexpr const char* kRouter = "model.layers.2.mlp.gate.weight";
constexpr const char* kBias = "model.layers.2.mlp.gate.e_score_correction_bias";
constexpr const char* kNorm = "model.norm.weight";
constexpr const char* kIds = "ids";

const std::vector<TensorDeclaration> kTensors = {{kNorm, DType::kF32, {300}},
                                                 {kProjection10, DType::kF32, {129, 200}},
                                                 {kProjection, DType::kF32, {300, 257}},
                                                 {kEmbedding, DType::kF32, {150, 300}},
                                                 {kRouter, DType::kF32, {4, 300}},
                                                 {kBias, DType::kF32, {4}},
                                                 {kIds, DType::kI64, {3}}};

std::vector<float> values_of(const TensorDeclaration& tensor) {
  std::mt19937 random(static_cast<uint32_t>(tensor.name.size()));
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(static_cast<size_t>(element_count(tensor.shape)));
  for (float& x : values) x = normal(random);
  return values;
}

/// Puts a value in the place of a tensor's last one.
bool put(const fs::path& file, const char* name, float value) {
  std::string bytes = read_file(file);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto json = nlohmann::json::parse(bytes.substr(sizeof header, header));
  if (!json.contains(name)) return false;
  const uint64_t end = sizeof header + header + json[name]["data_offsets"][1].get<uint64_t>();
  std::memcpy(bytes.data() + end - sizeof value, &value, sizeof value);
  write_file(file, bytes);
  return true;
}

/// A small fp32 model with the files that lie beside one.
void write_model(const fs::path& directory) {
  ShardedSafetensorsWriter writer(directory, kTensors, 1 << 30);
  for (const auto& tensor : kTensors) {
    if (tensor.dtype == DType::kI64) {
      const int64_t ids[] = {1, -2, INT64_MAX};
      writer.write(tensor.name, ids, sizeof ids);
    } else {
      const std::vector<float> values = values_of(tensor);
      writer.write(tensor.name, values.data(), values.size() * 4);
    }
  }
  writer.finish();
  write_file(directory / "config.json",
             R"({"model_type": "deepseek_v3", "rms_norm_eps": 1e-06, "torch_dtype": "float32", "hidden_size": 300})");
  write_file(directory / "tokenizer.json", "{\"a\": \"\xc3\xa4\"}");
  write_file(directory / "generation_config.json", "{}");
  write_file(directory / "manifest.json", "digests of other files than the output's");
  write_file(directory / "pytorch_model.bin", "not wanted");
  fs::create_directory(directory / "training_state");
}

std::vector<float> read_all(const ModelDirectory& model, const TensorDeclaration& tensor) {
  std::vector<float> values(static_cast<size_t>(element_count(tensor.shape)));
  read_tensor(model, tensor.name, tensor.shape, DType::kF32, values.data());
  return values;
}

ConvertOptions to(DType dtype) {
  ConvertOptions options;
  options.dtype = dtype;
  return options;
}

bool same_bytes(const TensorEntry& a, const TensorEntry& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes) == 0;
}

TEST(IsFloat8Weight, FollowsDeepSeeksFiles) {
  for (const char* name :
       {"model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.self_attn.o_proj.weight", "model.layers.3.mlp.experts.255.gate_proj.weight",
        "model.layers.3.mlp.shared_experts.down_proj.weight"}) {
    EXPECT_TRUE(is_float8_weight(name, 2)) << name;
    EXPECT_FALSE(is_float8_weight(name, 1)) << name;
  }
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.61.shared_head.head.weight",
        "model.layers.3.mlp.gate.weight", "model.layers.61.eh_proj.weight", "model.norm.weight",
        "model.layers.0.self_attn.kv_a_layernorm.weight", "model.layers.0.self_attn.q_a_proj.bias"}) {
    EXPECT_FALSE(is_float8_weight(name, 2)) << name;
  }
}

TEST(ConvertDirectory, ToBf16RoundsEveryTensorButTheBias) {
  const TemporaryFolder parent;
  fs::create_directory(parent / "in");
  write_model(parent / "in");
  uint64_t last = 0, total = 0;
  ConvertOptions options = to(DType::kBF16);
  options.max_shard_bytes = 100'000;
  options.progress = [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  const ConvertSummary summary = convert_directory(parent / "in", parent / "out", options);
  EXPECT_EQ(summary.tensors, 7);
  EXPECT_EQ(last, summary.bytes);
  EXPECT_EQ(total, summary.bytes);

  const ModelDirectory out(parent / "out");
  for (const auto& tensor : kTensors) {
    const TensorEntry& written = out.at(tensor.name);
    if (tensor.name == kIds) {
      EXPECT_TRUE(same_bytes(written, ModelDirectory(parent / "in").at(kIds)));
      continue;
    }
    EXPECT_EQ(written.dtype, tensor.name == kBias ? DType::kF32 : DType::kBF16) << tensor.name;
    const std::vector<float> source = values_of(tensor), result = read_all(out, tensor);
    for (size_t i = 0; i < source.size(); ++i) {
      ASSERT_EQ(result[i], tensor.name == kBias ? source[i] : to_float(to_bfloat16(source[i]))) << tensor.name;
    }
  }
  EXPECT_EQ(read_file(parent / "out" / "config.json"), R"({
  "model_type": "deepseek_v3",
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16",
  "hidden_size": 300
}
)");
  EXPECT_EQ(read_file(parent / "out" / "tokenizer.json"), "{\"a\": \"\xc3\xa4\"}");
  EXPECT_TRUE(fs::exists(parent / "out" / "generation_config.json"));
  EXPECT_FALSE(fs::exists(parent / "out" / "manifest.json"));
  EXPECT_FALSE(fs::exists(parent / "out" / "pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(parent / "out" / "training_state"));
  // Layer 2 stands before layer 10: the shards follow the layers.
  EXPECT_NE(read_file(parent / "out" / "model.safetensors.index.json").find("model-00001-of-"), std::string::npos);
  EXPECT_EQ(SafetensorsFile(parent / "out" / "model-00002-of-00003.safetensors").find(kProjection10), nullptr);
}

TEST(ConvertDirectory, ToFp8AndBackIsWithinTheFormat) {
  const TemporaryFolder parent;
  fs::create_directory(parent / "in");
  write_model(parent / "in");
  const ConvertSummary summary = convert_directory(parent / "in", parent / "fp8", to(DType::kF8E4M3));
  EXPECT_EQ(summary.tensors, 9);  // two matrices have scales
  const ModelDirectory out(parent / "fp8");
  for (const auto& tensor : kTensors) {
    const bool quantized = tensor.name == kProjection || tensor.name == kProjection10;
    if (tensor.name == kIds) continue;
    EXPECT_EQ(out.at(tensor.name).dtype,
              quantized ? DType::kF8E4M3 : (tensor.name == kBias ? DType::kF32 : DType::kBF16))
        << tensor.name;
    if (!quantized) continue;
    const std::vector<float> source = values_of(tensor);
    const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
    std::vector<uint8_t> values(source.size());
    std::vector<float> scales(static_cast<size_t>(((rows + 127) / 128) * ((columns + 127) / 128)));
    quantize_float8_blocks(source.data(), DType::kF32, rows, columns, values.data(), scales.data());
    EXPECT_EQ(std::memcmp(out.at(tensor.name).data, values.data(), values.size()), 0);
    EXPECT_EQ(std::memcmp(out.at(tensor.name + "_scale_inv").data, scales.data(), scales.size() * 4), 0);
  }
  EXPECT_EQ(read_file(parent / "fp8" / "config.json"), R"({
  "model_type": "deepseek_v3",
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16",
  "hidden_size": 300,
  "quantization_config": {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [
      128,
      128
    ]
  }
}
)");

  // fp8 to fp8 copies bit for bit; fp8 to fp32 dequantises and drops the scales and the quantization_config.
  convert_directory(parent / "fp8", parent / "copy", to(DType::kF8E4M3));
  const ModelDirectory copy(parent / "copy");
  EXPECT_EQ(copy.names(), out.names());
  for (const std::string& name : out.names()) EXPECT_TRUE(same_bytes(copy.at(name), out.at(name))) << name;
  convert_directory(parent / "fp8", parent / "fp32", to(DType::kF32));
  const ModelDirectory restored(parent / "fp32");
  EXPECT_EQ(restored.names().size(), kTensors.size());
  EXPECT_EQ(restored.at(kProjection).dtype, DType::kF32);
  EXPECT_EQ(read_all(restored, kTensors[2]), read_all(out, kTensors[2]));
  EXPECT_EQ(read_file(parent / "fp32" / "config.json").find("quantization_config"), std::string::npos);
}

TEST(ConvertDirectory, PiecesMakeNoDifference) {
  const TemporaryFolder parent;
  fs::create_directory(parent / "in");
  write_model(parent / "in");
  fs::path source = parent / "in";
  // fp32 -> fp8, fp8 -> fp8, fp8 -> bf16, bf16 -> fp32
  for (const DType dtype : {DType::kF8E4M3, DType::kF8E4M3, DType::kBF16, DType::kF32}) {
    ConvertOptions options = to(dtype);
    const fs::path whole = source.string() + "-whole", pieces = source.string() + "-pieces";
    convert_directory(source, whole, options);
    options.piece_elements = 7;
    convert_directory(source, pieces, options);
    EXPECT_EQ(read_file(whole / "model.safetensors"), read_file(pieces / "model.safetensors")) << dtype_name(dtype);
    source = whole;
  }
}

TEST(ConvertDirectory, RefusesPlacesThatHoldSomething) {
  const TemporaryFolder parent;
  const fs::path in = parent / "in";
  fs::create_directory(in);
  write_model(in);
  const auto refusal = [&](const fs::path& output) {
    return message_of([&] { convert_directory(in, output, to(DType::kBF16)); });
  };
  for (const fs::path& inside : {in, in / "", in / "new", in / ".." / "in"}) {
    EXPECT_EQ(refusal(inside), "the output " + inside.string() + " lies in the input " + in.string() +
                                   "; choose a directory of its own");
  }
  fs::create_directory(parent / "full");
  write_file(parent / "full" / "notes", "mine");
  EXPECT_EQ(refusal(parent / "full"), "the output " + (parent / "full").string() +
                                          " exists and is not an empty directory; choose another or remove it");
  EXPECT_EQ(read_file(parent / "full" / "notes"), "mine");
  fs::create_directory(parent / "empty");
  EXPECT_EQ(refusal(parent / "empty"), "no error");
}

// Indentation multiplies with depth: 41 kB of brackets made 800 MB.
TEST(ConvertDirectory, WritesNoMoreThanItReads) {
  const TemporaryFolder parent;
  const fs::path in = parent / "in";
  fs::create_directory(in);
  write_model(in);
  write_file(in / "config.json", "{\"a\": " + std::string(20'000, '[') + std::string(20'000, ']') + "}");
  const std::string refusal = message_of([&] { convert_directory(in, parent / "out", to(DType::kBF16)); });
  EXPECT_NE(refusal.find("nested more than 100 deep"), std::string::npos) << refusal;
  // What Python writes beyond JSON is carried along as it is.
  write_file(in / "config.json", R"({"limits": [0.0, Infinity], "name": "x\ud83d", "big": 1e999})");
  convert_directory(in, parent / "out", to(DType::kBF16));
  const std::string config = read_file(parent / "out" / "config.json");
  EXPECT_NE(config.find("Infinity"), std::string::npos) << config;
  EXPECT_NE(config.find("\"x\\ud83d\""), std::string::npos) << config;
  EXPECT_NE(config.find("1e999"), std::string::npos) << config;
}

// No load would accept it; 3.4e38 is a number in fp32 and none in bf16.
TEST(ConvertDirectory, WritesNothingThatIsNotFinite) {
  const std::map<const char*, float> bad = {{kProjection, NAN}, {kNorm, INFINITY}, {kEmbedding, 3.4e38f}};
  for (const auto& [name, value] : bad) {
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF8E4M3}) {
      const TemporaryFolder parent;
      const fs::path in = parent / "in";
      fs::create_directory(in);
      write_model(in);
      ASSERT_TRUE(put(in / "model.safetensors", name, value));
      const std::string refusal = message_of([&] { convert_directory(in, parent / "out", to(dtype)); });
      const bool refused =
          refusal.starts_with(in.string() + ": tensor " + name + " has a value that is not finite as ");
      EXPECT_EQ(refused, dtype != DType::kF32 || !std::isfinite(value)) << refusal;
      EXPECT_NE(fs::exists(parent / "out"), refused);
    }
  }
}

TEST(ConvertDirectory, FollowsLinksInTheCacheAndNowhereElse) {
  const TemporaryFolder parent;
  const fs::path in = parent / "in", secret = parent / "secret.txt";
  fs::create_directory(in);
  write_model(in);
  write_file(secret, "secret");
  fs::create_symlink(secret, in / "notes.txt");
  fs::create_symlink("tokenizer.json", in / "same.json");
  convert_directory(in, parent / "out", to(DType::kBF16));
  EXPECT_FALSE(fs::exists(parent / "out" / "notes.txt"));
  EXPECT_EQ(read_file(parent / "out" / "same.json"), read_file(in / "tokenizer.json"));

  // The hub's cache: a snapshot's files are links to blobs of the same repository.
  const fs::path repository = parent / "models--a--b", snapshot = repository / "snapshots" / "1";
  fs::create_directories(snapshot);
  fs::create_directories(repository / "blobs");
  for (const auto& entry : fs::directory_iterator(in)) {
    if (!entry.is_regular_file() || entry.is_symlink()) continue;
    const fs::path name = entry.path().filename();
    fs::copy_file(entry.path(), repository / "blobs" / name);
    fs::create_symlink(fs::path("../../blobs") / name, snapshot / name);
  }
  convert_directory(snapshot, parent / "from_cache", to(DType::kBF16));
  EXPECT_EQ(read_file(parent / "from_cache" / "tokenizer.json"), read_file(in / "tokenizer.json"));
  EXPECT_FALSE(fs::is_symlink(parent / "from_cache" / "tokenizer.json"));
}

TEST(ConvertDirectory, RefusesInputsItCannotRead) {
  const TemporaryFolder parent;
  const fs::path in = parent / "in", config = in / "config.json";
  fs::create_directory(in);
  write_model(in);
  const auto refusal = [&] { return message_of([&] { convert_directory(in, parent / "out", to(DType::kBF16)); }); };
  write_file(config, R"({"quantization_config": {"quant_method": "gptq"}})");
  EXPECT_EQ(refusal(), config.string() +
                           ": quantization_config must be absent or fp8 with weight_block_size [128, 128], found "
                           "{\"quant_method\":\"gptq\"}");
  write_file(config, R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}})");
  EXPECT_NE(refusal().find("found {\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}"), std::string::npos);
  write_file(config, "[");
  EXPECT_EQ(refusal(), config.string() + ": not valid JSON: it ends too early (byte 2, at [0])");
  fs::remove(config);
  EXPECT_EQ(refusal(), config.string() + " is missing; a model directory has one");
  EXPECT_FALSE(fs::exists(parent / "out"));
  EXPECT_EQ(message_of([&] { convert_directory(in, parent / "out", to(DType::kI32)); }),
            "a model can be converted to bf16, fp32 or fp8, not to i32");
}

}  // namespace
}  // namespace deeptitan
