// Loading onto a GPU through pinned pieces, beside loading tensor by tensor.

#include <cstddef>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/convert_directory.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/read_tensor.h"
#include "core/device_memory.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "model/golden_case.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using testing::GoldenCase;

class LoadingOnGpu : public ::testing::Test {
 protected:
  void SetUp() override { DT_TAKE_GPU(gpu_); }
  Device gpu_;
};

/// A directory's tensors, each of them whole.
class WholeTensors final : public ParameterSource {
 public:
  explicit WholeTensors(const std::filesystem::path& folder) : directory_(folder) {}
  void read(const Parameter& /*parameter*/, const FileTensor& tensor, DType dtype, void* values) const override {
    read_tensor(directory_, tensor.name, tensor.shape, dtype, values);
  }

 private:
  ModelDirectory directory_;
};

/// A model whose memory can be looked at as bytes.
struct ModelOnGpu {
  DeepseekModel model;
  ExecutionContext ctx;
  Arena values, prepared;
  MemoryBlock values_memory, prepared_memory;

  ModelOnGpu(const ModelConfig& config, Device gpu, DType compute, bool training)
      : model(config, {.training = training, .compute = compute, .max_positions = 1}),
        values("values", gpu),
        prepared("prepared", gpu) {
    ctx.device = gpu;
    ctx.compute = Stream(gpu);
    if (training) {  // of all residencies: trained, prepared alone, read directly
      for (Parameter& p : model.parameters().all()) {
        if (p.spec.name.find("experts") != std::string::npos || p.spec.direct) model.parameters().freeze(p);
      }
    }
    plan();
    values_memory = MemoryBlock("values", gpu, MemoryKind::kDevice, values.peak());
    prepared_memory = MemoryBlock("prepared", gpu, MemoryKind::kDevice, prepared.peak());
    values.adopt(values_memory.data(), values.peak());
    prepared.adopt(prepared_memory.data(), prepared.peak());
    plan();
  }
  void plan() {
    model.parameters().plan_values(values);
    model.parameters().plan_prepared(prepared);
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const MemoryBlock* block : {&values_memory, &prepared_memory}) {
      std::vector<std::byte> part(static_cast<size_t>(block->bytes()));
      copy_tensor(Tensor(part.data(), DType::kU8, {block->bytes()}),
                  Tensor(block->data(), DType::kU8, {block->bytes()}, ctx.device));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
};

TEST_F(LoadingOnGpu, PiecesBringWhatWholeTensorsBring) {
  for (const std::string& name : GoldenCase::names()) {
    const GoldenCase golden(name);
    const TemporaryFolder temporary;
    const auto float8 = temporary.path() / "fp8";
    ConvertOptions to_float8;
    to_float8.dtype = DType::kF8E4M3;
    convert_directory(golden.folder(), float8, to_float8);
    for (const auto& folder : {golden.folder(), float8}) {
      for (const DType compute : {DType::kF32, DType::kBF16}) {
        for (const bool training : {false, true}) {
          ModelOnGpu in_pieces(golden.config(), gpu_, compute, training);
          load_weights(in_pieces.ctx, std::make_shared<ModelDirectory>(folder), in_pieces.model);
          ModelOnGpu whole(golden.config(), gpu_, compute, training);
          whole.model.parameters().load(whole.ctx, std::make_shared<WholeTensors>(folder));
          EXPECT_TRUE(in_pieces.bytes() == whole.bytes())
              << folder << (compute == DType::kF32 ? " fp32" : " bf16") << (training ? " training" : "");
        }
      }
    }
  }
}

TEST_F(LoadingOnGpu, DrawnPiecesAreTheCpusValues) {
  const ModelConfig config = GoldenCase("v3_grouped").config();
  ModelOnGpu gpu(config, gpu_, DType::kF32, true);
  gpu.model.parameters().load(gpu.ctx, std::make_shared<DrawnValues>(5, 0.02));
  for (const Parameter& p : gpu.model.parameters().all()) {
    if (!p.value.defined()) continue;
    std::vector<float> expected(static_cast<size_t>(p.numel()));
    for (const FileTensor& tensor : p.file_tensors()) {
      DrawnValues(5, 0.02).read(p, tensor, DType::kF32, expected.data() + tensor.offset);
    }
    EXPECT_EQ(download<float>(p.value), expected) << p.spec.name;
  }
}

}  // namespace
}  // namespace deeptitan
