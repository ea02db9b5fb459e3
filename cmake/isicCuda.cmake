# SPDX-License-Identifier: Apache-2.0
# What the CUDA backend is compiled with: nvcc and the libraries of isicCudaLibraries.cmake. Where something is missing, ISIC_CUDA=ON
# stops, and ISIC_CUDA=AUTO goes on without the backend.
macro(isic_no_cuda what)  # what else, without semicolons: how to get it
  if(ISIC_CUDA STREQUAL AUTO)
    message(STATUS "isic: without CUDA: ${what}; -DISIC_CUDA=ON says how to get it")
    set(ISIC_CUDA OFF)
    return()
  endif()
  string(CONCAT isic_cuda_help ${ARGN})
  message(FATAL_ERROR "ISIC_CUDA is ON, but ${what}.\n${isic_cuda_help}")
endmacro()

set(isic_cuda_wheels_help "Where NVIDIA's wheels are, if not in the Python on PATH: virtual environments or site-packages")
set(ISIC_CUDA_WHEELS "" CACHE STRING "${isic_cuda_wheels_help}")

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "Machine code for 8.0 and 9.0; PTX of 9.0 for what comes later")
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(ISIC_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin
    DOC "NVIDIA's CUDA compiler")
  if(NOT ISIC_NVCC)
    isic_no_cuda("there is no nvcc: not on PATH, not in $CUDA_HOME/bin, not in /usr/local/cuda/bin"
      "Install NVIDIA's CUDA toolkit 12.0 or later (https://developer.nvidia.com/cuda-downloads), of which isic needs nvcc, cudart "
      "and CCCL, or say where it is with CUDACXX=<toolkit>/bin/nvcc.")
  endif()
  set(ENV{CUDACXX} ${ISIC_NVCC})
endif()
if(ISIC_CUDA STREQUAL AUTO)
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    isic_no_cuda("nvcc is there and compiles nothing")
  endif()
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL NVIDIA OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
  isic_no_cuda("the CUDA compiler is ${CMAKE_CUDA_COMPILER_ID} ${CMAKE_CUDA_COMPILER_VERSION}"
    "isic needs nvcc 12.0 or later, which knows C++20 (CUDACXX=<toolkit>/bin/nvcc).")
endif()
if(CMAKE_VERSION VERSION_LESS 3.26)  # does not know that nvcc knows C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

include(${CMAKE_CURRENT_LIST_DIR}/isicCudaLibraries.cmake)
if(isic_cuda_missing)
  list(JOIN isic_cuda_missing ", " isic_cuda_missing)
  isic_no_cuda("nvcc is ${CMAKE_CUDA_COMPILER}, and this is missing: ${isic_cuda_missing}"
    "Install the rest of the CUDA toolkit, or, for CUDA 13, NVIDIA's wheels into the Python that is on PATH:\n"
    "  python3 -m pip install 'nvidia-cublas==13.*' 'nvidia-cusolver==12.*'\n"
    "If they are elsewhere: -DISIC_CUDA_WHEELS=<virtual environment or site-packages>.")
endif()
set(ISIC_CUDA ON)
if(isic_cuda_wheel_used)
  message(STATUS "isic: CUDA ${CUDAToolkit_VERSION}, cuBLAS and cuSOLVER of ${isic_cuda_wheel_used}")
  if(NOT ISIC_CUDA_WHEELS)  # the next run of CMake may see another PATH
    set(ISIC_CUDA_WHEELS ${isic_cuda_wheel_used} CACHE STRING "${isic_cuda_wheels_help}" FORCE)
  endif()
else()
  message(STATUS "isic: CUDA ${CUDAToolkit_VERSION}, cuBLAS and cuSOLVER of the toolkit")
endif()
