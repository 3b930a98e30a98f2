# One library a folder of src/, named dt_<folder>; one test program a folder of tests/, named <folder>_test.

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)

add_library(dt_options INTERFACE)
target_include_directories(dt_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
# Warnings are errors. Contraction is off so that arithmetic which decides something (router scores, rounding)
# gives the same bits in every translation unit; kernels ask for fused multiply-add by name. The baseline is AVX2;
# what is faster with a wider instruction set is compiled for each and chosen at run time.
target_compile_options(dt_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v3 -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Werror -ffp-contract=off>
  # Clang, which builds the fuzzers, warns of loops that are to vectorise and do not under a sanitizer.
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-pass-failed>)
if(DT_SANITIZE)
  # g++ 12 takes std::regex for uninitialized under sanitizers (GCC bug 105562).
  target_compile_options(dt_options INTERFACE
    # A finding ends the program: what only prints fails nothing.
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>
    # Clang takes libstdc++'s error categories, whose classes are its own, for other objects.
    $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-fno-sanitize=vptr>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-maybe-uninitialized>)
  target_link_options(dt_options INTERFACE -fsanitize=${DT_SANITIZE})
endif()
if(DT_FUZZ)
  target_compile_options(dt_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

# A library's or test program's sources are compiled eight at a time (presets release and cuda): headers are read and
# templates instantiated once for all of them, which halves a clean build. The other presets take
# each file alone, which holds that it includes what it uses. The kernels compile fast, and stay apart.
option(DT_UNITY "Compile the sources of a library or test program in batches" OFF)
function(dt_set_unity target)
  if(NOT target MATCHES "kernels|comm")
    set_target_properties(${target} PROPERTIES UNITY_BUILD ${DT_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# Release is -O3 for the kernels. -O2 serves what is around them as well, and compiles a quarter faster.
function(dt_set_optimization target)
  if(NOT target MATCHES "kernels")
    target_compile_options(${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-O2>)
  endif()
endfunction()

# Libraries whose sources read DT_CUDA, beside the tests and cli/device_peaks.cpp (scripts/check_includes holds it). All
# else is compiled alike with CUDA and without: DT_HOST_BUILD names the build folder of the preset release, whose objects
# are then taken in place of a second compilation.
set(DT_READS_CUDA core ops parallel)
set(DT_HOST_BUILD "" CACHE PATH "With DT_CUDA: a build folder of the preset release to take what does not depend on CUDA from")

# dt_built_objects(<variable> <target>): the objects of a target in DT_HOST_BUILD, of sources that do not read DT_CUDA.
function(dt_built_objects variable target)
  file(RELATIVE_PATH folder ${CMAKE_BINARY_DIR} ${CMAKE_CURRENT_BINARY_DIR})
  set(path "${folder}/CMakeFiles/${target}.dir/")
  file(STRINGS ${DT_HOST_BUILD}/compile_commands.json objects REGEX "\"command\": .* -o ${path}")
  if(NOT objects)
    message(FATAL_ERROR "DT_HOST_BUILD = ${DT_HOST_BUILD} has no ${target}: build the preset release there first")
  endif()
  list(TRANSFORM objects REPLACE "^.* -o (${path}[^ ]*).*$" "${DT_HOST_BUILD}/\\1")
  list(FILTER objects EXCLUDE REGEX "/device_peaks.cpp.o$")
  set(${variable} ${objects} PARENT_SCOPE)
endfunction()

# dt_add_library(<folder> SOURCES ... [LINK ...] [LINK_PRIVATE ...])
function(dt_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LINK_PRIVATE" ${ARGN})
  if(DT_HOST_BUILD AND NOT name IN_LIST DT_READS_CUDA AND NOT name MATCHES "cuda|nccl")
    dt_built_objects(ARG_SOURCES dt_${name})
  endif()
  add_library(dt_${name} STATIC ${ARG_SOURCES})
  if(DT_CUDA AND name IN_LIST DT_READS_CUDA)
    target_compile_definitions(dt_${name} PRIVATE DT_CUDA=1)
  endif()
  set_target_properties(dt_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON LINKER_LANGUAGE CXX)
  target_link_libraries(dt_${name} PUBLIC dt_options ${ARG_LINK} PRIVATE ${ARG_LINK_PRIVATE})
  dt_set_unity(dt_${name})
  dt_set_optimization(dt_${name})
endfunction()

# dt_add_test(<program> SOURCES ... LINK ... [LABELS cpu|mpi|gpu|multi_gpu|slow ...])
# Every TEST becomes a ctest case; fixtures are found through DT_TEST_DATA_DIR.
function(dt_add_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE dt_options ${ARG_LINK} GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE DT_TEST_DATA_DIR="${CMAKE_SOURCE_DIR}/tests" $<$<BOOL:${DT_CUDA}>:DT_CUDA=1>)
  # What is tested is compiled as it ships; the tests themselves need to compile fast.
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O1>)
  dt_set_unity(${name})
  include(GoogleTest)
  # Tests are small and may share their cores with others: a thread that waits should sleep.
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 NO_PRETTY_VALUES
    PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT "OMP_WAIT_POLICY=passive" TIMEOUT 300)
endfunction()

# A program of tests that mpirun starts as one process a GPU: with two ranks and with four. They are skipped, and say
# why, where there are fewer GPUs.
function(dt_add_gpu_ranks_test program name)
  target_include_directories(${program} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_options(${program} PRIVATE -O1)
  add_dependencies(${program} deeptitan_mpi)
  foreach(ranks 2 4)
    add_test(NAME ${name}.Ranks${ranks}
      COMMAND mpirun --allow-run-as-root --oversubscribe -np ${ranks} $<TARGET_FILE:${program}>)
    set_tests_properties(${name}.Ranks${ranks} PROPERTIES LABELS multi_gpu TIMEOUT 300
      ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=2" SKIP_REGULAR_EXPRESSION "SKIPPED")
  endforeach()
endfunction()
