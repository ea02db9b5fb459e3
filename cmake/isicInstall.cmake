# Headers, the CMake package and the pkg-config file. The installed tree may be moved afterwards.
include(CMakePackageConfigHelpers)

set(isic_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/isic)
set(isic_pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(TARGETS isic EXPORT isicTargets)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/isic DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.hpp")
install(EXPORT isicTargets NAMESPACE isic:: DESTINATION ${isic_package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/isicConfig.cmake.in ${PROJECT_BINARY_DIR}/isicConfig.cmake
  INSTALL_DESTINATION ${isic_package_dir})
# Before 1.0 a new minor version may change names.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/isicConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/isicConfig.cmake ${PROJECT_BINARY_DIR}/isicConfigVersion.cmake
  DESTINATION ${isic_package_dir})

# isic.pc finds the tree from its own place, unless someone chose an absolute include folder.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(isic_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(isic_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH isic_pc_prefix "/${isic_pkgconfig_dir}" "/")
  string(REGEX REPLACE "/$" "" isic_pc_prefix "\${pcfiledir}/${isic_pc_prefix}")
  set(isic_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/isic.pc.in ${PROJECT_BINARY_DIR}/isic.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/isic.pc DESTINATION ${isic_pkgconfig_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/isic)
