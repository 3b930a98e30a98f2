#include "kernels/cuda/matmul/cublas_lt.h"

#include "core/cuda_device.h"

namespace deeptitan::cuda {

const CublasLt& cublas_lt() {
  static const CublasLt found = [] {
    const SharedLibrary& library = cublas_lt_library();
    CublasLt lt;
    library.find(lt.create, "cublasLtCreate");
    library.find(lt.status_string, "cublasLtGetStatusString");
    library.find(lt.matmul, "cublasLtMatmul");
    library.find(lt.algo_check, "cublasLtMatmulAlgoCheck");
    library.find(lt.algo_get_heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.find(lt.desc_create, "cublasLtMatmulDescCreate");
    library.find(lt.desc_destroy, "cublasLtMatmulDescDestroy");
    library.find(lt.desc_set_attribute, "cublasLtMatmulDescSetAttribute");
    library.find(lt.preference_create, "cublasLtMatmulPreferenceCreate");
    library.find(lt.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    library.find(lt.preference_set_attribute, "cublasLtMatmulPreferenceSetAttribute");
    library.find(lt.layout_create, "cublasLtMatrixLayoutCreate");
    library.find(lt.layout_destroy, "cublasLtMatrixLayoutDestroy");
    library.find(lt.layout_set_attribute, "cublasLtMatrixLayoutSetAttribute");
    return lt;
  }();
  return found;
}

}  // namespace deeptitan::cuda
