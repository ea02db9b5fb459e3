# SPDX-License-Identifier: Apache-2.0
# The program of a section of packaging/README.md, as a project of its own, configured, built and run with this checkout.
#
#   cmake -D way=SECTION -D isic=CHECKOUT -D work=FOLDER -D generator=GENERATOR -D compiler=CXX -P snippet.cmake
file(READ ${isic}/packaging/README.md text)
string(FIND "${text}" "## ${way}\n" begin)
if(begin EQUAL -1)
  message(FATAL_ERROR "packaging/README.md has no section ${way}")
endif()
string(SUBSTRING "${text}" ${begin} -1 text)
string(REGEX MATCH "```cmake\n([^`]*)```" text "${text}")
set(snippet "${CMAKE_MATCH_1}")
if(NOT snippet MATCHES "isic::isic")
  message(FATAL_ERROR "the section ${way} of packaging/README.md does not link isic::isic:\n${snippet}")
endif()
string(REPLACE "<the address of this repository>" "https://repository.invalid/isic.git" snippet "${snippet}")

# The library is built by the other consumers; here the headers alone do, which takes less time.
string(REPLACE "PRIVATE isic::isic" "PRIVATE isic::header_only" snippet "${snippet}")
file(WRITE ${work}/source/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)\nproject(program LANGUAGES CXX)\n${snippet}")
file(COPY_FILE ${isic}/packaging/conan/test_package/main.cpp ${work}/source/main.cpp ONLY_IF_DIFFERENT)
# In place of CPM.cmake: adds CPM_<NAME>_SOURCE, as CPM.cmake does when that is set.
file(WRITE ${work}/source/CPM.cmake [[
function(CPMAddPackage)
  cmake_parse_arguments(PARSE_ARGV 0 CPM "" "NAME;GIT_REPOSITORY;GIT_TAG" "")
  if(CPM_UNPARSED_ARGUMENTS OR NOT CPM_NAME OR NOT CPM_GIT_REPOSITORY OR NOT CPM_GIT_TAG)
    message(FATAL_ERROR "CPMAddPackage(${ARGN})")
  endif()
  add_subdirectory(${CPM_${CPM_NAME}_SOURCE} ${CPM_NAME})
endfunction()
]])

foreach(command IN ITEMS
    "-G;${generator};-S;${work}/source;-B;${work}/build;-DCMAKE_BUILD_TYPE=Debug;-DCMAKE_CXX_COMPILER=${compiler};-DFETCHCONTENT_SOURCE_DIR_ISIC=${isic};-DCPM_isic_SOURCE=${isic}"
    "--build;${work}/build;--target;program")
  execute_process(COMMAND ${CMAKE_COMMAND} ${command} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
execute_process(COMMAND ${work}/build/program COMMAND_ERROR_IS_FATAL ANY)
