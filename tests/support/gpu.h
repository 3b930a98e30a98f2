#pragma once

#include <gtest/gtest.h>

#include "core/device_choice.h"

/// Skips a test where no GPU is usable, and says why; else `variable` becomes the first that is. For SetUp and bodies
/// of tests.
#define DT_TAKE_GPU(variable)                                                       \
  do {                                                                              \
    const ::deeptitan::DeviceChoice dt_choice = ::deeptitan::choose_device("auto"); \
    if (dt_choice.device.kind == ::deeptitan::DeviceKind::kCpu) {                   \
      GTEST_SKIP() << "needs a GPU; runs on " << dt_choice.description;             \
    }                                                                               \
    (variable) = dt_choice.device;                                                  \
  } while (false)
