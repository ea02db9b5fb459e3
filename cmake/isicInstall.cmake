# SPDX-License-Identifier: Apache-2.0
# Headers, the CMake package and the pkg-config file. The installed tree may be moved afterwards.
# Where isic::cuda was built it is installed too, as the package's component `cuda`; isic.pc leaves it out.
include(CMakePackageConfigHelpers)

set(isic_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/isic)
set(isic_pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(TARGETS isic isic_header_only EXPORT isicTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
set(isic_left_out "")
if(NOT ISIC_CUDA)
  set(isic_left_out PATTERN cuda EXCLUDE PATTERN cuda.hpp EXCLUDE)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/isic DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.hpp" ${isic_left_out})
install(EXPORT isicTargets NAMESPACE isic:: DESTINATION ${isic_package_dir})
if(ISIC_CUDA)
  install(TARGETS isic_cuda EXPORT isicCudaTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT isicCudaTargets NAMESPACE isic:: DESTINATION ${isic_package_dir})
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/isicCudaLibraries.cmake DESTINATION ${isic_package_dir})
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/isicConfig.cmake.in ${PROJECT_BINARY_DIR}/isicConfig.cmake
  INSTALL_DESTINATION ${isic_package_dir})
# Before 1.0 a new minor version may change names.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/isicConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/isicConfig.cmake ${PROJECT_BINARY_DIR}/isicConfigVersion.cmake
  DESTINATION ${isic_package_dir})

# isic.pc finds the tree from its own place, unless someone chose an absolute include folder.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(isic_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(isic_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
  set(isic_pc_libdir "${CMAKE_INSTALL_FULL_LIBDIR}")
else()
  file(RELATIVE_PATH isic_pc_prefix "/${isic_pkgconfig_dir}" "/")
  string(REGEX REPLACE "/$" "" isic_pc_prefix "\${pcfiledir}/${isic_pc_prefix}")
  set(isic_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
  set(isic_pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/isic.pc.in ${PROJECT_BINARY_DIR}/isic.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/isic.pc DESTINATION ${isic_pkgconfig_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/isic)
