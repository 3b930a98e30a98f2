#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace deeptitan {

/// All ranks' texts, in their order, on all of them. The group exchanges what lies in the host's memory.
std::vector<std::string> gather_texts(Communicator& ranks, const std::string& mine);

/// Rank `root`'s text, on all ranks.
std::string broadcast_text(Communicator& ranks, const std::string& text, int root);

/// What `work` returns on the first rank, on all ranks; the others wait meanwhile. What it throws there all throw.
/// nullptr stands for this rank alone.
std::string on_first_rank(Communicator* ranks, const std::function<std::string()>& work);

/// What `work` returns on each rank, in their order, on all of them. Where it throws, all throw what the first of those
/// ranks does.
std::vector<std::string> on_each_rank(Communicator* ranks, const std::function<std::string()>& work);

}  // namespace deeptitan
