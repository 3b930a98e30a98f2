#pragma once

#include <string>
#include <string_view>

#include "core/device.h"

namespace deeptitan {

/// A device for a command to run on, and what to tell the user about it.
struct DeviceChoice {
  Device device;
  std::string description;  // "cuda:0, NVIDIA H100 80GB HBM3, driver 580.159.04 ..."; "the CPU: no NVIDIA driver ..."

  /// What ranks need alike: "cpu", or the description without the number.
  std::string kind() const;
};

/// A process's place among those of this host that run together.
struct HostPlace {
  int rank = 0;
  int ranks = 1;
  bool operator==(const HostPlace&) const = default;
};

/// The device that "cpu", "cuda" (the first GPU), "cuda:N" or "auto" (the first usable GPU, else the CPU) means. A GPU
/// is usable with compute capability 8.0 or newer and a driver for this build's CUDA. Throws a usage error for other
/// words, and where the GPU asked for by name cannot be used: no CUDA in this build, no driver, too old a driver, no
/// GPU, no GPU of that number, too old a GPU, no cuBLASLt. Of several processes of a host each has a GPU of its own:
/// the r-th takes cuda:r, or the one that it sees where a launcher shows it no other; a GPU by its number is then
/// refused.
DeviceChoice choose_device(std::string_view word, const HostPlace& place = {});

/// Whether choose_device knows the word, wherever it runs.
bool is_device_word(std::string_view word);

/// The words, for a message.
inline constexpr std::string_view kDeviceWords = "cpu, cuda, cuda:N (a GPU by its number) or auto";

/// The device that a word means to a plan, which touches none.
struct PlannedDevice {
  Device device;
  std::string problem;  // why it cannot be used here; empty: it can
};

/// As choose_device, but in a build with CUDA a GPU that is named and cannot be used here is planned for all the same,
/// as one of compute capability 9.0.
PlannedDevice device_to_plan(std::string_view word);

/// Whether this build has CUDA, whatever the host has.
bool built_with_cuda();

/// Makes a GPU the one that this thread's launches go to. Nothing to do on the CPU.
void use_device(Device device);

}  // namespace deeptitan
