# handgrad's CMake package: the one description of how a library of ops is built, handgrad's own and everybody else's.
#
#   find_package(handgrad REQUIRED)            # -Dhandgrad_DIR=$(python -m handgrad info --cmake-dir)
#   handgrad_add_library(my_ops SOURCES csrc)
#
# makes, each from the sources that its name asks for (csrc/README.md says who loads which):
#   libmy_ops            the signatures of all ops: *.cpp
#   libmy_ops_cpu_v2…v4  the CPU kernels, *_cpu.cpp, once per x86-64 level; libmy_ops_cpu elsewhere
#   libmy_ops_cuda       the CUDA kernels, *_cuda.cu, wherever nvcc is found, with a GPU at hand or without
#   libmy_ops_emulated   the same, compiled by the C++ compiler, for development (-DHANDGRAD_EMULATED=ON)
# A source is a file, or a folder in which files are found by their names down to <family>/<op>/; adding an op never means
# editing a list.
cmake_minimum_required(VERSION 3.31)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

set(HANDGRAD_LIBRARY_DIR "${CMAKE_BINARY_DIR}/lib" CACHE PATH "Where the finished libraries go")
set(HANDGRAD_CPU_LEVELS "v2;v3;v4" CACHE STRING "x86-64 levels to build the CPU library for")
if(DEFINED ENV{HANDGRAD_CUDA_ARCHS})
  set(architectures "$ENV{HANDGRAD_CUDA_ARCHS}")
else()
  # Machine code runs on later devices of its generation: that for 8.0 on 8.6 and 8.9 too, that for 12.0 on 12.1. What has
  # none here, in a gap or yet to come, compiles the PTX.
  set(architectures "75;80;90;100;120")
endif()
set(HANDGRAD_CUDA_ARCHS "${architectures}" CACHE STRING
    "CUDA architectures to build, for example 80;90; of several, PTX for all from 80 on too; none: no CUDA library")
option(HANDGRAD_EMULATED "Build the CUDA kernels for the emulator" OFF)
option(HANDGRAD_NO_SPILLS "Refuse CUDA kernels whose registers spill into memory" OFF)
set(HANDGRAD_UNITY 0 CACHE STRING
    "How many files of kernels are compiled as one; 0: each by itself. Of a whole build most is headers: it takes half the \
time with 8, and the build after a change longer")
set(HANDGRAD_SANITIZER "" CACHE STRING "address: all libraries under AddressSanitizer and UBSan; checked: the emulator's own checks")

# The headers lie beside this file in the installed package, and in csrc/ in handgrad's own source tree.
foreach(candidate IN ITEMS include csrc)
  if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/../${candidate}/common/abi/tensor.h")
    get_filename_component(HANDGRAD_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/../${candidate}" ABSOLUTE)
  endif()
endforeach()

# torch is asked where it is; find_package(Torch) would insist on a CUDA toolkit beside a CUDA build of torch.
find_package(Python REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import importlib.util as u, pathlib as p; print(p.Path(u.find_spec('torch').origin).parent)"
  OUTPUT_VARIABLE HANDGRAD_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing ERROR_QUIET)
if(torch_missing)
  message(FATAL_ERROR "No torch in ${Python_EXECUTABLE}: install torch 2.10 or newer first (pip install torch).")
endif()
find_library(HANDGRAD_TORCH_CPU torch_cpu PATHS "${HANDGRAD_TORCH_DIR}/lib" NO_DEFAULT_PATH REQUIRED)

# CUDA: the compiler decides, not a GPU. A GPU is no part of a build machine.
set(HANDGRAD_CUDA OFF)
string(REGEX MATCHALL "[^,; ]+" HANDGRAD_CUDA_REAL "${HANDGRAD_CUDA_ARCHS}")
list(FILTER HANDGRAD_CUDA_REAL EXCLUDE REGEX "^(none|NONE|OFF|off)$")
if(HANDGRAD_CUDA_REAL)
  include(CheckLanguage)
  check_language(CUDA)
  find_library(HANDGRAD_TORCH_CUDA torch_cuda PATHS "${HANDGRAD_TORCH_DIR}/lib" NO_DEFAULT_PATH)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "No CUDA library: nvcc was not found.")
  elseif(NOT HANDGRAD_TORCH_CUDA)
    message(STATUS "No CUDA library: the torch in ${HANDGRAD_TORCH_DIR} is a CPU build.")
  else()
    enable_language(CUDA)
    # -O is of what runs on the host, which checks arguments and launches: half of nvcc's time would be spent on it.
    set(CMAKE_CUDA_FLAGS_RELEASE "-O1 -DNDEBUG")
    set(HANDGRAD_CUDA ON)
  endif()
endif()

# One library: the stable ABI of torch 2.10 and nothing else. Its target is appended to `targets` of the caller.
function(_handgrad_add_one name)
  cmake_parse_arguments(ARG "" "" "SOURCES;OPTIONS" ${ARGN})
  add_library(${name} SHARED ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${HANDGRAD_INCLUDE_DIR}/common")
  target_include_directories(${name} SYSTEM PRIVATE "${HANDGRAD_TORCH_DIR}/include")
  target_compile_definitions(${name} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)
  # No -ffast-math: NaN and infinity keep their meaning. What is given up is only errno and floating-point traps, which
  # stand in the way of vectorising selections. -fopenmp-simd reads the simd pragmas and brings no OpenMP library.
  set(flags -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd -Wall -Wextra -Werror)
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${flags};${ARG_OPTIONS}>")
  target_link_libraries(${name} PRIVATE "${HANDGRAD_TORCH_CPU}")
  # torch is found by the name of its library, which the process has loaded already; no path is written into ours.
  set_target_properties(${name} PROPERTIES SKIP_BUILD_RPATH ON LIBRARY_OUTPUT_DIRECTORY "${HANDGRAD_LIBRARY_DIR}"
                        CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
                        VISIBILITY_INLINES_HIDDEN ON)
  if(HANDGRAD_UNITY GREATER 0)
    set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${HANDGRAD_UNITY})
  endif()
  if(HANDGRAD_SANITIZER STREQUAL "address")
    # Warnings are the plain build's business: the sanitizers' own code makes the compiler see ghosts.
    set(sanitizers -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O1 -g ${sanitizers} -Wno-error>)
    target_link_options(${name} PRIVATE -fsanitize=address,undefined)
  elseif(NOT HANDGRAD_SANITIZER)
    target_link_options(${name} PRIVATE $<$<PLATFORM_ID:Linux>:-Wl,--as-needed,--gc-sections,-s>)
  endif()
  set(targets ${targets} ${name} PARENT_SCOPE)
endfunction()

function(handgrad_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  set(files)
  foreach(source IN LISTS ARG_SOURCES)
    get_filename_component(source "${source}" ABSOLUTE)
    if(IS_DIRECTORY "${source}")
      foreach(depth IN ITEMS "" "*/" "*/*/")
        file(GLOB found CONFIGURE_DEPENDS "${source}/${depth}*.cpp" "${source}/${depth}*_cuda.cu")
        list(APPEND files ${found})
      endforeach()
    else()
      list(APPEND files "${source}")
    endif()
  endforeach()
  # handgrad's own csrc holds the common headers and the emulator beside its ops.
  list(FILTER files EXCLUDE REGEX "^${HANDGRAD_INCLUDE_DIR}/(common|emulator)/")
  set(cpu_sources ${files})
  list(FILTER cpu_sources INCLUDE REGEX "_cpu\\.cpp$")
  set(cuda_sources ${files})
  list(FILTER cuda_sources INCLUDE REGEX "_cuda\\.cu$")
  list(FILTER files INCLUDE REGEX "\\.cpp$")
  list(FILTER files EXCLUDE REGEX "_cpu\\.cpp$")
  if(NOT files OR NOT cpu_sources)
    message(FATAL_ERROR "handgrad_add_library(${name}): ${ARG_SOURCES} must hold at least one schema, <family>/<op>/<op>.cpp, "
                        "and one file of CPU kernels, <family>/<op>/<op>_cpu.cpp.")
  endif()

  # For the loader, which asks the driver and the GPUs before it lets the CUDA kernels run.
  set(build "")
  if(HANDGRAD_CUDA AND cuda_sources)
    list(TRANSFORM HANDGRAD_CUDA_REAL APPEND "-real" OUTPUT_VARIABLE architectures)
    # PTX takes as long as an architecture, and as many bytes: who names one device builds for that one alone.
    list(LENGTH HANDGRAD_CUDA_REAL count)
    if(count GREATER 1)
      list(APPEND architectures 80-virtual)
    endif()
    string(JOIN " " build ${CMAKE_CUDA_COMPILER_VERSION} ${architectures})
  endif()
  set(says "${CMAKE_BINARY_DIR}/built/${name}.cpp")
  file(CONFIGURE OUTPUT "${says}" CONTENT
    "extern \"C\" __attribute__((visibility(\"default\"))) const char* handgrad_cuda_build() { return \"${build}\"; }\n")

  set(targets)
  _handgrad_add_one(${name} SOURCES ${files} "${says}")
  # Schemas are a few lines each, below headers that take seconds to read: all in one translation unit.
  set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    foreach(level IN LISTS HANDGRAD_CPU_LEVELS)
      # GCC keeps to 256-bit vectors on v4 unless told; these loops are long enough to earn the wide ones.
      set(wide $<$<STREQUAL:${level},v4>:-mprefer-vector-width=512>)
      _handgrad_add_one(${name}_cpu_${level} SOURCES ${cpu_sources} OPTIONS -march=x86-64-${level} ${wide})
    endforeach()
  else()
    _handgrad_add_one(${name}_cpu SOURCES ${cpu_sources})
  endif()

  if(HANDGRAD_CUDA AND cuda_sources)
    _handgrad_add_one(${name}_cuda SOURCES ${cuda_sources})
    set_target_properties(${name}_cuda PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON
                          CUDA_RUNTIME_LIBRARY Static CUDA_ARCHITECTURES "${architectures}")
    target_compile_definitions(${name}_cuda PRIVATE USE_CUDA)
    # Host constants are used in device code. Machine code for many architectures is large: it is compressed, and lines
    # for profilers (-lineinfo), which double it, are left to whoever profiles. What nvcc 12 compresses for size, drivers
    # of CUDA 12.0 to 12.3 cannot read.
    set(compress -Xfatbin=-compress-all)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
      set(compress --compress-mode=size)
    endif()
    target_compile_options(${name}_cuda PRIVATE --expt-relaxed-constexpr ${compress} -Xcompiler=-fopenmp-simd)
    if(HANDGRAD_NO_SPILLS)
      target_compile_options(${name}_cuda PRIVATE -Xptxas=-warn-spills,-Werror)
    endif()
    target_link_libraries(${name}_cuda PRIVATE "${HANDGRAD_TORCH_CUDA}")
  endif()

  if(HANDGRAD_EMULATED AND cuda_sources)
    # The C++ compiler is to compile the .cu files; CMake goes by a file's ending, so each gets a wrapper of one line,
    # which is the same wherever the sources lie: a cache of compiled files knows it then.
    set(emulated_sources)
    foreach(source IN LISTS cuda_sources)
      get_filename_component(stem "${source}" NAME_WE)
      set(wrapper "${CMAKE_BINARY_DIR}/emulated/${name}/${stem}.cpp")
      file(RELATIVE_PATH from_wrapper "${CMAKE_BINARY_DIR}/emulated/${name}" "${source}")
      file(CONFIGURE OUTPUT "${wrapper}" CONTENT "#include \"${from_wrapper}\"\n")
      list(APPEND emulated_sources "${wrapper}")
    endforeach()
    file(GLOB emulator_sources CONFIGURE_DEPENDS "${HANDGRAD_INCLUDE_DIR}/emulator/src/*.cpp")
    _handgrad_add_one(${name}_emulated SOURCES ${emulated_sources} ${emulator_sources} OPTIONS -O1 -Wno-unknown-pragmas)
    target_include_directories(${name}_emulated BEFORE PRIVATE "${HANDGRAD_INCLUDE_DIR}/emulator/include")
    target_compile_definitions(${name}_emulated PRIVATE HANDGRAD_EMULATED)
    set_source_files_properties(${emulator_sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    if(HANDGRAD_SANITIZER STREQUAL "address")
      # UBSan makes the compiler know ThreadSanitizer's functions, which the emulator defines in its own way.
      set_source_files_properties(${emulator_sources} PROPERTIES COMPILE_OPTIONS "-fno-sanitize=undefined;-fno-builtin")
    elseif(HANDGRAD_SANITIZER STREQUAL "checked")
      # For the kernels alone, and never linked: docs/emulator.md says why.
      set_source_files_properties(${emulated_sources} PROPERTIES COMPILE_OPTIONS
        "-O1;-g;-fno-tree-loop-im;--param;tsan-distinguish-volatile=1;-fsanitize=thread;-fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero;-fno-gnu-unique;-Wno-error")
    endif()
  endif()

  # For setup.py, which removes what an earlier build with other settings has left.
  list(TRANSFORM targets REPLACE "(.+)" "$<TARGET_FILE_NAME:\\1>" OUTPUT_VARIABLE names)
  list(JOIN names "\n" names)
  file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/libraries/${name}.txt" CONTENT "${names}\n")
endfunction()
