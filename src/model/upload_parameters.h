#pragma once

#include <vector>

#include "model/parameter.h"

namespace deeptitan {

/// Rows of a file tensor, and where on a device they belong.
struct ParameterUpload {
  const Parameter* parameter;
  FileTensor tensor;
  DType dtype;          // there
  std::byte* to;        // of the tensor's first row, or of the first head's band
  HeadRows heads = {};  // heads > 0: only these bands of rows belong there, one under another
};

/// Brings what the source has of each to the device, through pinned memory and in pieces that threads read side by
/// side; the source reads rows (ParameterSource::reads_rows).
void upload_parameters(Device device, const ParameterSource& source, const std::vector<ParameterUpload>& uploads);

}  // namespace deeptitan
