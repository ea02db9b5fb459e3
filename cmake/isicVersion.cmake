# SPDX-License-Identifier: Apache-2.0
# The project's version and include/isic/version.hpp must say the same, as numbers and as text.
set(isic_version_header ${CMAKE_CURRENT_SOURCE_DIR}/include/isic/version.hpp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${isic_version_header})
file(READ ${isic_version_header} isic_version_text)

set(isic_version_numbers "")
foreach(part IN ITEMS MAJOR MINOR PATCH)
  if(NOT isic_version_text MATCHES "#define ISIC_VERSION_${part} ([0-9]+)")
    message(FATAL_ERROR "include/isic/version.hpp does not define ISIC_VERSION_${part}")
  endif()
  list(APPEND isic_version_numbers ${CMAKE_MATCH_1})
endforeach()
list(JOIN isic_version_numbers "." isic_version_numbers)
if(NOT isic_version_text MATCHES "#define ISIC_VERSION_STRING \"([^\"]*)\"")
  message(FATAL_ERROR "include/isic/version.hpp does not define ISIC_VERSION_STRING")
endif()
set(isic_version_string "${CMAKE_MATCH_1}")

if(NOT isic_version_numbers STREQUAL PROJECT_VERSION OR NOT isic_version_string STREQUAL PROJECT_VERSION)
  message(FATAL_ERROR "The version differs: CMakeLists.txt says ${PROJECT_VERSION}, include/isic/version.hpp says "
    "${isic_version_numbers} in numbers and \"${isic_version_string}\" in text")
endif()
