#include "core/captured_graph.h"

#include <utility>
#ifdef DT_CUDA
#include "core/cuda_graph.h"
#endif

namespace deeptitan {

CapturedGraph::CapturedGraph(Stream stream, std::function<void()> body)
    : stream_(std::move(stream)), body_(std::move(body)) {}

CapturedGraph::~CapturedGraph() = default;

void CapturedGraph::run() {
#ifdef DT_CUDA
  if (stream_.native() != nullptr) {
    if (graph_ == nullptr) graph_ = cuda::capture_graph(stream_.native(), body_);
    return cuda::launch_graph(graph_.get(), stream_.native());
  }
#endif
  body_();
}

void CapturedGraph::reset() {
  graph_.reset();
}

}  // namespace deeptitan
