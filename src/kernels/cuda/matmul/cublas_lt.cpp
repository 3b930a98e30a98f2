#include "kernels/cuda/matmul/cublas_lt.h"

#include "core/cuda_device.h"

namespace deeptitan::cuda {
namespace {

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(cublas_lt_library().function(name));
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt found = [] {
    CublasLt lt;
    find(lt.create, "cublasLtCreate");
    find(lt.status_string, "cublasLtGetStatusString");
    find(lt.matmul, "cublasLtMatmul");
    find(lt.algo_check, "cublasLtMatmulAlgoCheck");
    find(lt.algo_get_heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(lt.desc_create, "cublasLtMatmulDescCreate");
    find(lt.desc_destroy, "cublasLtMatmulDescDestroy");
    find(lt.desc_set_attribute, "cublasLtMatmulDescSetAttribute");
    find(lt.preference_create, "cublasLtMatmulPreferenceCreate");
    find(lt.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(lt.preference_set_attribute, "cublasLtMatmulPreferenceSetAttribute");
    find(lt.layout_create, "cublasLtMatrixLayoutCreate");
    find(lt.layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(lt.layout_set_attribute, "cublasLtMatrixLayoutSetAttribute");
    return lt;
  }();
  return found;
}

}  // namespace deeptitan::cuda
