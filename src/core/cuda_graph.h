#pragma once

#include <functional>
#include <memory>

// The CUDA side of core/captured_graph, compiled only with DT_CUDA. A graph is a cudaGraphExec_t.

namespace deeptitan::cuda {

std::shared_ptr<void> capture_graph(void* stream, const std::function<void()>& body);
void launch_graph(void* graph, void* stream);

}  // namespace deeptitan::cuda
