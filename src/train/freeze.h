#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/parameter.h"

namespace deeptitan {

/// Marks as frozen every parameter (and every router's bias) whose name in a Hugging Face checkpoint matches one of
/// `patterns`: * stands for any characters, ? for one, [0-3] for one of a set, as in fnmatch(3). To be called before
/// the gradients are planned. Throws a usage error for a pattern that matches nothing, with the nearest names; for one
/// that matches some of a layer's experts and not all, or the gate or up projection and not both, which lie in one
/// tensor; and where nothing is left to train.
void freeze_parameters(ParameterList& parameters, std::span<const std::string> patterns);

/// Elements of the parameters that are frozen.
int64_t count_frozen(const ParameterList& parameters);

}  // namespace deeptitan
