#include "core/device_choice.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/transfer.h"

namespace deeptitan {
namespace {

std::string message_of(std::string_view word) {
  try {
    choose_device(word);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

bool has_gpu() {
  return choose_device("auto").device.kind == DeviceKind::kCuda;
}

TEST(ChooseDevice, NamesTheWordsThatItKnows) {
  EXPECT_EQ(choose_device("cpu").device, Device{});
  for (const char* word : {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0"}) {
    EXPECT_EQ(message_of(word),
              std::string("device = ") + word + "; expected cpu, cuda, cuda:N (a GPU by its number) or auto");
  }
}

TEST(ChooseDevice, AutoSaysWhyItIsTheCpu) {
  const DeviceChoice choice = choose_device("auto");
  if (has_gpu()) {
    EXPECT_EQ(choice.description.rfind("cuda:0, ", 0), 0u) << choice.description;
  } else {
    EXPECT_EQ(choice.description.rfind("the CPU: ", 0), 0u) << choice.description;
    EXPECT_GT(choice.description.size(), 12u);
  }
}

TEST(ChooseDevice, AGpuThatIsNotThereIsAUsageError) {
  const std::string message = message_of("cuda:99");
  EXPECT_EQ(message.rfind("device = cuda:99: ", 0), 0u) << message;
  EXPECT_NE(message.find("; use cpu, or auto for a GPU where one is usable"), std::string::npos) << message;
  if (has_gpu()) {
    EXPECT_EQ(choose_device("cuda").device, (Device{DeviceKind::kCuda, 0}));
    EXPECT_NE(message.find("this host has "), std::string::npos) << message;
  } else {
    EXPECT_EQ(message_of("cuda").rfind("device = cuda: ", 0), 0u);
  }
}

TEST(DeviceToPlan, IsThatOfARunOrAGpuThatIsNotHere) {
  EXPECT_EQ(device_to_plan("cpu").device, Device{});
  EXPECT_EQ(device_to_plan("auto").device, choose_device("auto").device);
#ifdef DT_CUDA
  const PlannedDevice far = device_to_plan("cuda:99");
  EXPECT_EQ(far.device, (Device{DeviceKind::kCuda, 99}));
  EXPECT_NE(far.problem, "");
  EXPECT_EQ(device_to_plan("cuda").problem.empty(), has_gpu());
#else
  EXPECT_THROW(device_to_plan("cuda"), Error);
#endif
  EXPECT_THROW(device_to_plan("cuda:x"), Error);
}

TEST(CopyTensor, MovesBytesBetweenAnyTwoMemories) {
  std::vector<Device> devices = {{}};
  if (has_gpu()) devices.push_back({DeviceKind::kCuda, 0});
  for (const Device first : devices) {
    for (const Device second : devices) {
      Arena a("a", first), b("b", second);
      a.take(DType::kF32, {3, 5});
      b.take(DType::kF32, {15});
      a.allocate();
      b.allocate();
      const Tensor from = a.take(DType::kF32, {3, 5}), to = b.take(DType::kF32, {15});
      std::vector<float> values(15);
      for (int i = 0; i < 15; ++i) values[i] = static_cast<float>(i) + 0.5f;
      const Tensor host(values.data(), DType::kF32, {15});
      copy_tensor(from, host);
      copy_tensor(to, from);
      std::fill(values.begin(), values.end(), 0.0f);
      copy_tensor(host, to);
      for (int i = 0; i < 15; ++i) EXPECT_EQ(values[i], static_cast<float>(i) + 0.5f);
      clear_tensor(to);
      copy_tensor(host, to);
      EXPECT_EQ(values, std::vector<float>(15, 0.0f));
    }
  }
}

TEST(CopyTensor, WantsOneSizeAndDtype) {
  std::vector<float> x(6);
  const Tensor a(x.data(), DType::kF32, {6}), b(x.data(), DType::kF32, {5}), c(x.data(), DType::kI32, {6});
  EXPECT_THROW(copy_tensor(a, b), Error);
  EXPECT_THROW(copy_tensor(a, c), Error);
}

}  // namespace
}  // namespace deeptitan
