#include "generate/inference_weights.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "checkpoint/convert_elements.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// What another model's parameters of the same names hold.
class ValuesOfModel final : public ParameterSource {
 public:
  explicit ValuesOfModel(const ParameterList& list) : list_(list) {}

  void read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const override {
    std::vector<float> staged;
    const float* from = list_.values(same(parameter), tensor, staged);
    convert_elements(from, DType::kF32, values, dtype, tensor.numel());
  }
  Tensor view(const Parameter& parameter, const FileTensor& tensor) const override {
    const Tensor& value = same(parameter).value;
    if (!value.defined() || value.dtype() != DType::kF32 || tensor.shape.size() != 2 ||
        value.device().kind != DeviceKind::kCpu) {
      return {};
    }
    return Tensor(value.host<float>() + tensor.offset, DType::kF32, {tensor.shape[0], tensor.shape[1]});
  }

 private:
  const Parameter& same(const Parameter& parameter) const {
    const std::deque<Parameter>& all = list_.all();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Parameter& p) { return p.spec.name == parameter.spec.name; });
    DT_CHECK(found != all.end() && found->shape == parameter.shape,
             "the model in training has no parameter {} of the same shape", parameter.spec.name);
    return *found;
  }

  const ParameterList& list_;
};

}  // namespace

void copy_weights(ExecutionContext& ctx, const DeepseekModel& trained, DeepseekModel& model) {
  model.parameters().load(ctx, std::make_shared<ValuesOfModel>(trained.parameters()));
}

}  // namespace deeptitan
