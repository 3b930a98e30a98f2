# The CUDA side of the build. Machine code for sm_80 (which all chips before Hopper's successors run) and for sm_90a
# (Hopper's own instructions); PTX for compute_80, which the driver of a later chip compiles when the program starts.
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "DT_CUDA needs nvcc 13.0 or newer; found ${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER}. "
    "Install it, or name another one with -DCMAKE_CUDA_COMPILER=.")
endif()
find_package(CUDAToolkit 13.0 REQUIRED)

if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know nvcc's option
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

# Release defines NDEBUG: an assert in a kernel is a call, and ptxas then serialises wgmma (its warning C7510).
target_compile_options(dt_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter,-ffp-contract=off>)
# fmt 9 takes its constexpr away from nvcc, which then cannot check format strings; nvcc 13 compiles it well.
target_compile_definitions(dt_options INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:DT_CUDA=1;FMT_USE_CONSTEXPR=1>)
