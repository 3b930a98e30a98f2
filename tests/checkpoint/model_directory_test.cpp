#include "checkpoint/model_directory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/read_tensor.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/stored_names.h"
#include "core/bfloat16.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

void write_sharded(const std::filesystem::path& directory) {
  ShardedSafetensorsWriter writer(
      directory, {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}, {"c", DType::kU8, {4}}, {"d", DType::kU8, {4}}}, 8);
  for (const char* name : {"a", "b", "c", "d"}) writer.write(name, std::string(4, *name).data(), 4);
  writer.finish();
}

TEST(ModelDirectory, FindsTensorsOfOneFileAndOfShards) {
  const TemporaryFolder sharded, single;
  write_sharded(sharded.path());
  ShardedSafetensorsWriter writer(single.path(), {{"z", DType::kU8, {1}}, {"y", DType::kU8, {1}}}, 8);
  writer.write("z", "z", 1);
  writer.write("y", "y", 1);
  writer.finish();

  const ModelDirectory one(single.path());
  EXPECT_EQ(one.names(), (std::vector<std::string>{"y", "z"}));
  EXPECT_EQ(std::memcmp(one.at("z").data, "z", 1), 0);

  const ModelDirectory many(sharded.path());
  EXPECT_EQ(many.names(), (std::vector<std::string>{"a", "b", "c", "d"}));
  EXPECT_TRUE(many.contains("c"));
  EXPECT_EQ(many.find("e"), nullptr);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const char* name : {"d", "b", "a", "c"}) {
        EXPECT_EQ(std::memcmp(many.at(name).data, std::string(4, *name).data(), 4), 0);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  many.prefetch(many.at("a"));
  many.release(many.at("a"));
  EXPECT_EQ(message_of([&] { many.at("model.norm.weight"); }),
            sharded.path().string() + " has no tensor model.norm.weight");
}

TEST(ModelDirectory, OpensOnlyTheShardsThatAreUsed) {
  const TemporaryFolder directory;
  write_sharded(directory.path());
  write_file(directory / "model-00002-of-00002.safetensors", "damaged");
  const ModelDirectory model(directory.path());
  EXPECT_NO_THROW(model.at("a"));
  EXPECT_EQ(message_of([&] { model.at("c"); }),
            (directory / "model-00002-of-00002.safetensors").string() +
                ": 7 bytes are too few for a safetensors file; it is truncated, fetch it again");
}

TEST(ModelDirectory, NamesWhatIsMissing) {
  const TemporaryFolder directory;
  const std::string path = directory.path().string();
  EXPECT_EQ(message_of([&] { ModelDirectory(directory / "no"); }), "model directory " + path + "/no does not exist");
  EXPECT_EQ(message_of([&] { ModelDirectory(directory.path()); }),
            path + " has neither model.safetensors nor model.safetensors.index.json");
  write_file(directory / "pytorch_model.bin", "");
  EXPECT_EQ(message_of([&] { ModelDirectory(directory / "pytorch_model.bin"); }),
            path +
                "/pytorch_model.bin is a file, expected a model directory with model.safetensors or "
                "model.safetensors.index.json");
  EXPECT_EQ(message_of([&] { ModelDirectory(directory.path()); }),
            path +
                " has neither model.safetensors nor model.safetensors.index.json; pytorch_model.bin cannot be read, "
                "convert it to safetensors first");
  write_sharded(directory.path());
  std::filesystem::remove(directory / "model-00002-of-00002.safetensors");
  EXPECT_EQ(message_of([&] { ModelDirectory(directory.path()); }),
            path + " lacks 1 of its 2 tensor files: model-00002-of-00002.safetensors; fetch them again");
}

TEST(ModelDirectory, IndexAndShardsMustAgree) {
  const TemporaryFolder directory;
  write_sharded(directory.path());
  const auto index = directory / "model.safetensors.index.json";
  const std::string shard = (directory / "model-00001-of-00002.safetensors").string();
  write_file(index,
             R"({"weight_map":{"a":"model-00001-of-00002.safetensors","e":"model-00001-of-00002.safetensors"}})");
  EXPECT_EQ(message_of([&] { ModelDirectory(directory.path()).at("e"); }),
            shard + " should hold tensor e by model.safetensors.index.json, but does not; fetch both again");
}

// A shard may hold what the index does not list (left over from a conversion, or of another model): transformers reads
// what the index lists.
TEST(ModelDirectory, TheIndexCounts) {
  const TemporaryFolder directory;
  write_sharded(directory.path());
  write_file(directory / "model.safetensors.index.json",
             R"({"weight_map":{"a":"model-00001-of-00002.safetensors","d":"model-00002-of-00002.safetensors"}})");
  const ModelDirectory model(directory.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"a", "d"}));
  EXPECT_EQ(std::memcmp(model.at("a").data, "aaaa", 4), 0);
  EXPECT_EQ(model.find("b"), nullptr);
}

// torch.compile and DistributedDataParallel put their names into those of the tensors.
TEST(ModelDirectory, ReadsTheNamesOfWrappedModules) {
  const TemporaryFolder directory;
  ShardedSafetensorsWriter writer(directory.path(),
                                  {{"_orig_mod.lm_head.weight", DType::kU8, {1}},
                                   {"module.model.layers.0._orig_mod.mlp._orig_mod.up_proj.weight", DType::kU8, {1}}},
                                  8);
  writer.write("_orig_mod.lm_head.weight", "h", 1);
  writer.write("module.model.layers.0._orig_mod.mlp._orig_mod.up_proj.weight", "u", 1);
  writer.finish();
  const ModelDirectory model(directory.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"lm_head.weight", "model.layers.0.mlp.up_proj.weight"}));
  EXPECT_EQ(std::memcmp(model.at("lm_head.weight").data, "h", 1), 0);
  EXPECT_EQ(plain_tensor_name("x_orig_mod.a"), "x_orig_mod.a");

  const TemporaryFolder twice;
  ShardedSafetensorsWriter both(twice.path(), {{"a", DType::kU8, {1}}, {"_orig_mod.a", DType::kU8, {1}}}, 8);
  both.write("a", "a", 1);
  both.write("_orig_mod.a", "a", 1);
  both.finish();
  EXPECT_EQ(message_of([&] { ModelDirectory{twice.path()}; }),
            (twice / "model.safetensors").string() + ": two tensors are tensor a of the model");
}

// As transformers 5 holds the experts of a layer: gate and up projections in one tensor, the gate's rows first.
TEST(ModelDirectory, SplitsFusedExperts) {
  const std::string up = "model.layers.1.mlp.experts.gate_up_proj", down = "model.layers.1.mlp.experts.down_proj";
  const std::string up_bytes = "AAAAbbbbCCCCdddd", down_bytes = "112233445566";
  for (const uint64_t shard_bytes : {uint64_t{1} << 20, uint64_t{16}}) {
    const TemporaryFolder directory;
    ShardedSafetensorsWriter writer(
        directory.path(), {{up, DType::kU8, {2, 4, 2}}, {down, DType::kU8, {2, 3, 2}}, {"z", DType::kU8, {1}}},
        shard_bytes);
    writer.write(up, up_bytes.data(), 16);
    writer.write(down, down_bytes.data(), 12);
    writer.write("z", "z", 1);
    writer.finish();
    const ModelDirectory model(directory.path());
    const std::string prefix = "model.layers.1.mlp.experts.";
    EXPECT_EQ(model.names(),
              (std::vector<std::string>{prefix + "0.down_proj.weight", prefix + "0.gate_proj.weight",
                                        prefix + "0.up_proj.weight", prefix + "1.down_proj.weight",
                                        prefix + "1.gate_proj.weight", prefix + "1.up_proj.weight", "z"}));
    const auto bytes = [&](const std::string& name) {
      const TensorEntry& tensor = model.at(prefix + name + ".weight");
      EXPECT_EQ(tensor.shape.size(), 2u);
      return std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
    };
    EXPECT_EQ(bytes("0.gate_proj"), "AAAA");
    EXPECT_EQ(bytes("0.up_proj"), "bbbb");
    EXPECT_EQ(bytes("1.gate_proj"), "CCCC");
    EXPECT_EQ(bytes("1.up_proj"), "dddd");
    EXPECT_EQ(bytes("0.down_proj"), "112233");
    EXPECT_EQ(bytes("1.down_proj"), "445566");
    EXPECT_EQ(model.at(prefix + "1.down_proj.weight").shape, (std::vector<int64_t>{3, 2}));
  }
  const TemporaryFolder wrong;
  ShardedSafetensorsWriter writer(wrong.path(), {{up, DType::kU8, {2, 3, 2}}}, 1 << 20);
  writer.write(up, up_bytes.data(), 12);
  writer.finish();
  EXPECT_EQ(message_of([&] { ModelDirectory{wrong.path()}; }),
            (wrong / "model.safetensors").string() + ": tensor " + up +
                " has shape [2, 3, 2]; expected that of all experts' matrices, [experts, 2 * width, hidden]");
}

TEST(ModelDirectory, RefusesIndexesThatAreNotOne) {
  const TemporaryFolder directory;
  const auto index = directory / "model.safetensors.index.json";
  const auto refusal = [&](const std::string& text) {
    write_file(index, text);
    return message_of([&] { ModelDirectory model(directory.path()); });
  };
  EXPECT_EQ(refusal("{"), index.string() + ": not valid JSON: it ends too early (byte 2); fetch it again");
  EXPECT_EQ(refusal("{}"),
            index.string() + " has no object \"weight_map\"; it is not the index of a safetensors checkpoint");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":1}})"), index.string() + ": the file of tensor a must be text, found number");
  for (const char* name : {"../secret", "/etc/passwd", "..", "x/y", ""}) {
    EXPECT_EQ(refusal(std::string(R"({"weight_map":{"a":")") + name + "\"}}"),
              index.string() + ": the file of tensor a must be a file beside the index, found \"" + name + "\"");
  }
}

TEST(ModelDirectory, NamesReachNoTerminalRaw) {
  const TemporaryFolder directory;
  write_file(directory / "model.safetensors.index.json", R"({"weight_map":{"\u001b]0;x\u0007\u202e":1}})");
  const std::string message = message_of([&] { ModelDirectory model(directory.path()); });
  EXPECT_NE(message.find("the file of tensor \\x1b]0;x\\x07\\u202e must be text"), std::string::npos) << message;
}

TEST(ReadTensor, ConvertsAndDequantises) {
  const TemporaryFolder directory;
  ShardedSafetensorsWriter writer(directory.path(),
                                  {{"w.weight", DType::kF8E4M3, {2, 130}},
                                   {"w.weight_scale_inv", DType::kF32, {1, 2}},
                                   {"plain", DType::kF8E4M3, {2}},
                                   {"bias", DType::kBF16, {3}},
                                   {"ids", DType::kI64, {1}},
                                   {"bad.weight", DType::kF8E4M3, {2, 130}},
                                   {"bad.weight_scale_inv", DType::kF32, {2, 1}}},
                                  1 << 20);
  const std::vector<uint8_t> ones(260, 0x38);  // 1.0
  const float scales[] = {0.5f, 3.0f};
  const uint16_t bias[] = {0x3f80, 0xc000, 0x7f80};
  const int64_t id = 5;
  writer.write("w.weight", ones.data(), 260);
  writer.write("w.weight_scale_inv", scales, 8);
  writer.write("plain", ones.data(), 2);
  writer.write("bias", bias, 6);
  writer.write("ids", &id, 8);
  writer.write("bad.weight", ones.data(), 260);
  writer.write("bad.weight_scale_inv", scales, 8);
  writer.finish();

  const ModelDirectory model(directory.path());
  const std::string path = model.path().string();
  std::vector<float> weights(260);
  read_tensor(model, "w.weight", {2, 130}, DType::kF32, weights.data());
  for (size_t i = 0; i < 260; ++i) EXPECT_EQ(weights[i], i % 130 < 128 ? 0.5f : 3.0f) << i;
  std::vector<bfloat16> rounded(260);
  read_tensor(model, "w.weight", {2, 130}, DType::kBF16, rounded.data());
  EXPECT_EQ(rounded[129].bits, 0x4040);
  float values[3];
  read_tensor(model, "bias", {3}, DType::kF32, values);
  EXPECT_EQ(values[1], -2.0f);
  read_tensor(model, "plain", {2}, DType::kF32, values);
  EXPECT_EQ(values[0], 1.0f);

  EXPECT_TRUE(is_float8_scale(model, "w.weight_scale_inv"));
  EXPECT_FALSE(is_float8_scale(model, "w.weight"));
  EXPECT_EQ(message_of([&] { read_tensor(model, "bias", {4}, DType::kF32, values); }),
            path + ": tensor bias has shape [3], the model needs [4]");
  EXPECT_EQ(message_of([&] { read_tensor(model, "ids", {1}, DType::kF32, values); }),
            path + ": tensor ids is i64; the model needs fp32, bf16, fp16, fp64 or fp8");
  EXPECT_EQ(
      message_of([&] {
        read_tensor(model, "bad.weight", {2, 130}, DType::kF32, weights.data());
      }),
      path +
          ": tensor bad.weight_scale_inv is fp32 [2, 1]; the 128x128 blocks of bad.weight [2, 130] need fp32 [1, 2]");
}

// Rows in any pieces are those of the whole, for every type that a file may have.
TEST(ReadTensor, RowsAreThoseOfTheWhole) {
  struct Case {
    const char* name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  const std::vector<Case> cases = {{"f64", DType::kF64, {300, 7}},         {"f32", DType::kF32, {257, 130}},
                                   {"f16", DType::kF16, {140, 3}},         {"bf16", DType::kBF16, {300, 257}},
                                   {"blocks", DType::kF8E4M3, {300, 257}}, {"e4m3", DType::kF8E4M3, {129, 5}},
                                   {"vector", DType::kBF16, {401}}};
  const TemporaryFolder directory;
  std::vector<TensorDeclaration> declared;
  for (const Case& c : cases) declared.push_back({c.name, c.dtype, c.shape});
  declared.push_back({"blocks_scale_inv", DType::kF32, {3, 3}});
  ShardedSafetensorsWriter writer(directory.path(), declared, 1 << 18);
  std::mt19937 random(3);
  for (const TensorDeclaration& tensor : declared) {
    std::vector<uint8_t> bytes(static_cast<size_t>(element_count(tensor.shape)) * dtype_size(tensor.dtype));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % 0x70);  // all finite
    writer.write(tensor.name, bytes.data(), bytes.size());
  }
  writer.finish();
  const ModelDirectory model(directory.path());
  for (const Case& c : cases) {
    for (const DType to : {DType::kF32, DType::kBF16}) {
      const size_t row = static_cast<size_t>(element_count(c.shape) / c.shape[0]) * dtype_size(to);
      std::vector<std::byte> whole(static_cast<size_t>(c.shape[0]) * row), rows(whole.size());
      read_tensor(model, c.name, c.shape, to, whole.data());
      for (int64_t first = 0; first < c.shape[0]; first += 128) {
        const int64_t count = std::min<int64_t>(128, c.shape[0] - first);
        read_tensor_rows(model, c.name, c.shape, first, count, to, rows.data() + static_cast<size_t>(first) * row);
      }
      EXPECT_TRUE(rows == whole) << c.name;
    }
  }
  float values[4];
  const std::string path = model.path().string();
  expect_runtime_error([&] { read_tensor_rows(model, "vector", {401}, 400, 2, DType::kF32, values); },
                       path + ": rows 400 to 401 of tensor vector were asked for, which has 401");
  expect_runtime_error(
      [&] {
        read_tensor_rows(model, "blocks", {300, 257}, 1, 2, DType::kF32, values);
      },
      path + ": rows 1 to 2 of tensor blocks were asked for, which has 300 in blocks of 128");
}

}  // namespace
}  // namespace deeptitan
