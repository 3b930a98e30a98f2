# One library a folder of src/, named dt_<folder>; one test program a folder of tests/, named <folder>_test.

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)

add_library(dt_options INTERFACE)
target_include_directories(dt_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
# Warnings are errors. Contraction is off so that arithmetic which decides something (router scores, rounding)
# gives the same bits in every translation unit; kernels ask for fused multiply-add by name. The baseline is AVX2;
# what is faster with a wider instruction set is compiled for each and chosen at run time.
target_compile_options(dt_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v3 -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Werror -ffp-contract=off>)
if(DT_SANITIZE)
  target_compile_options(dt_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DT_SANITIZE} -fno-omit-frame-pointer>)
  target_link_options(dt_options INTERFACE -fsanitize=${DT_SANITIZE})
endif()
if(DT_FUZZ)
  target_compile_options(dt_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

# dt_add_library(<folder> SOURCES ... [LINK ...] [LINK_PRIVATE ...])
function(dt_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LINK_PRIVATE" ${ARGN})
  add_library(dt_${name} STATIC ${ARG_SOURCES})
  set_target_properties(dt_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(dt_${name} PUBLIC dt_options ${ARG_LINK} PRIVATE ${ARG_LINK_PRIVATE})
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
  target_compile_definitions(${name} PRIVATE DT_TEST_DATA_DIR="${CMAKE_SOURCE_DIR}/tests")
  # What is tested is compiled as it ships; the tests themselves need to compile fast.
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O1>)
  include(GoogleTest)
  # Tests are small and may share their cores with others: a thread that waits should sleep.
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 NO_PRETTY_VALUES
    PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT "OMP_WAIT_POLICY=passive")
endfunction()
