#include "checkpoint/stored_names.h"

#include <array>

#include "core/error.h"
#include "core/shown_text.h"

namespace deeptitan {
namespace {

constexpr std::string_view kCompiled = "_orig_mod.";
constexpr std::string_view kDistributed = "module.";
constexpr std::string_view kGateUp = ".experts.gate_up_proj";
constexpr std::string_view kDown = ".experts.down_proj";
constexpr std::string_view kScale = "_scale_inv";

std::string_view without_scale(std::string_view name) {
  if (name.ends_with(kScale)) name.remove_suffix(kScale.size());
  return name;
}

}  // namespace

std::string plain_tensor_name(std::string_view name) {
  std::string plain(name.starts_with(kDistributed) ? name.substr(kDistributed.size()) : name);
  for (size_t at = plain.find(kCompiled); at != std::string::npos; at = plain.find(kCompiled, at)) {
    const bool whole_part = at == 0 || plain[at - 1] == '.';
    if (whole_part) {
      plain.erase(at, kCompiled.size());
    } else {
      at += kCompiled.size();
    }
  }
  return plain;
}

bool is_fused_experts(std::string_view name) {
  const std::string_view weight = without_scale(name);
  return weight.ends_with(kGateUp) || weight.ends_with(kDown);
}

std::vector<TensorEntry> split_fused_experts(const TensorEntry& tensor, std::string_view file) {
  const std::string_view weight = without_scale(tensor.name);
  const bool gate_up = weight.ends_with(kGateUp);
  const std::vector<int64_t>& shape = tensor.shape;
  DT_CHECK(shape.size() == 3 && (!gate_up || shape[1] % 2 == 0),
           "{}: tensor {} has shape {}; expected that of all experts' matrices, {}", file, shown(tensor.name),
           shape_text(shape), gate_up ? "[experts, 2 * width, hidden]" : "[experts, hidden, width]");
  const size_t last_part = weight.rfind('.');
  const std::string_view suffix = std::string_view(tensor.name).substr(weight.size());
  const std::array<std::string_view, 2> names =
      gate_up ? std::array<std::string_view, 2>{"gate_proj", "up_proj"} : std::array<std::string_view, 2>{"down_proj"};
  const int64_t parts = gate_up ? 2 : 1;
  const int64_t rows = shape[1] / parts;
  const size_t bytes = static_cast<size_t>(rows * shape[2]) * dtype_size(tensor.dtype);
  std::vector<TensorEntry> matrices;
  matrices.reserve(static_cast<size_t>(shape[0] * parts));
  for (int64_t i = 0; i < shape[0] * parts; ++i) {
    const std::string name = fmt::format("{}.{}.{}.weight{}", weight.substr(0, last_part), i / parts,
                                         names[static_cast<size_t>(i % parts)], suffix);
    matrices.push_back({name, tensor.dtype, {rows, shape[2]}, tensor.data + static_cast<size_t>(i) * bytes, bytes});
  }
  return matrices;
}

}  // namespace deeptitan
