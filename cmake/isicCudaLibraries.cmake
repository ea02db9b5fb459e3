# SPDX-License-Identifier: Apache-2.0
# CUDA::cudart_static, CUDA::cublas and CUDA::cusolver: from the CUDA toolkit, or, where it has no cuBLAS or cuSOLVER, from
# NVIDIA's PyPI wheels (pip install nvidia-cublas nvidia-cusolver), which is also where torch has them.
#
# Wheels are looked for in ISIC_CUDA_WHEELS (virtual environments, site-packages folders or the nvidia/cu13 in one), then in
# what the active virtual environment's Python and the others on PATH import from.
#
# isic_cuda_missing says what was not found; isic_cuda_rpath is where a program installed into site-packages/isic finds the wheels.
# The installed package brings this file along. CUDA's language need not be enabled.
find_package(CUDAToolkit 12.0 QUIET)

# Folders with the wheels' include/ and lib/, best first.
function(isic_find_cuda_wheels result)
  set(inside nvidia/cu${CUDAToolkit_VERSION_MAJOR})
  set(folders "")
  foreach(hint IN LISTS ISIC_CUDA_WHEELS)
    get_filename_component(hint "${hint}" ABSOLUTE BASE_DIR ${CMAKE_SOURCE_DIR})
    file(GLOB in_environment ${hint}/lib/python3*/site-packages/${inside})
    list(APPEND folders ${hint} ${hint}/${inside} ${in_environment})
  endforeach()
  # All of PATH: a cmake that was installed by pip or pyenv may have put its own Python first.
  file(TO_CMAKE_PATH "$ENV{PATH}" path)
  list(TRANSFORM path APPEND /python3)
  foreach(python IN ITEMS $ENV{VIRTUAL_ENV}/bin/python3 $ENV{CONDA_PREFIX}/bin/python3 ${Python_EXECUTABLE} ${path})
    if(EXISTS ${python})
      execute_process(COMMAND ${python} -c "import sys; print(';'.join(f'{p}/${inside}' for p in sys.path if p), end='')"
        OUTPUT_VARIABLE in_python ERROR_QUIET)
      list(APPEND folders ${in_python})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES folders)
  set(found "")
  foreach(folder IN LISTS folders)
    if(EXISTS ${folder}/include AND EXISTS ${folder}/lib)
      list(APPEND found ${folder})
    endif()
  endforeach()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# Makes CUDA::<library> of a wheel where the toolkit has not made it, and sees to it that its header is found.
function(isic_provide_cuda_library library header)
  set(folder "")
  foreach(candidate IN LISTS isic_cuda_wheels)
    file(GLOB file ${candidate}/lib/lib${library}.so.*)
    if(file AND EXISTS ${candidate}/include/${header})
      set(folder ${candidate})
      break()
    endif()
  endforeach()
  find_path(in_toolkit ${header} PATHS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH NO_CACHE)
  if(folder AND NOT TARGET CUDA::${library})
    get_filename_component(soname ${file} NAME)
    add_library(CUDA::${library} SHARED IMPORTED)
    set_target_properties(CUDA::${library} PROPERTIES IMPORTED_LOCATION ${file} IMPORTED_SONAME ${soname})
    set(isic_cuda_wheel_used ${folder} PARENT_SCOPE)
    set(in_toolkit FALSE)  # the header that belongs to this library
  endif()
  if(TARGET CUDA::${library} AND folder AND NOT in_toolkit)
    target_include_directories(CUDA::${library} SYSTEM INTERFACE ${folder}/include)
  elseif(NOT TARGET CUDA::${library} OR NOT in_toolkit)
    list(APPEND isic_cuda_missing "lib${library} with ${header}")
    set(isic_cuda_missing "${isic_cuda_missing}" PARENT_SCOPE)
  endif()
endfunction()

set(isic_cuda_missing "")
set(isic_cuda_wheel_used "")
if(CUDAToolkit_FOUND)
  set(isic_cuda_rpath "$ORIGIN/../nvidia/cu${CUDAToolkit_VERSION_MAJOR}/lib")
  isic_find_cuda_wheels(isic_cuda_wheels)
  isic_provide_cuda_library(cublas cublas_v2.h)
  isic_provide_cuda_library(cusolver cusolverDn.h)
else()
  set(isic_cuda_missing "the CUDA toolkit, 12.0 or later")
endif()
