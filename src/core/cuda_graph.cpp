#include "core/cuda_graph.h"

#include "core/cuda_check.h"

namespace deeptitan::cuda {
namespace {

using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, decltype(&cudaGraphDestroy)>;

// Ends a capture; where the body threw, what was captured so far is thrown away.
Graph end_capture(cudaStream_t stream, bool whole) {
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream, &graph);
  if (whole) check_cuda(status, "ending the capture of a graph");
  if (!whole) cudaGetLastError();
  return {graph, &cudaGraphDestroy};
}

}  // namespace

std::shared_ptr<void> capture_graph(void* stream, const std::function<void()>& body) {
  auto* native = static_cast<cudaStream_t>(stream);
  check_cuda(cudaStreamBeginCapture(native, cudaStreamCaptureModeThreadLocal), "beginning the capture of a graph");
  try {
    body();
  } catch (...) {
    end_capture(native, false);
    throw;
  }
  const Graph graph = end_capture(native, true);
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "instantiating a graph");
  return {executable, [](void* e) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(e)); }};
}

void launch_graph(void* graph, void* stream) {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)),
             "launching a graph");
}

}  // namespace deeptitan::cuda
