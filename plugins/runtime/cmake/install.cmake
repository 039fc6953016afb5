# cmake --install BUILD --component embed: what a C or C++ program needs.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/moe_export)
install(TARGETS moe_export EXPORT moe_exportTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT embed NAMELINK_COMPONENT embed)
install(EXPORT moe_exportTargets NAMESPACE moe_export:: DESTINATION ${package} COMPONENT embed)
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/../include/moe_export
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT embed)
# The kernels lie where the library looks for them.
install(TARGETS moe_export_ort
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/moe_export COMPONENT embed)

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/moe_exportConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/moe_exportConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/moe_exportConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/moe_exportConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/moe_exportConfigVersion.cmake DESTINATION ${package} COMPONENT embed)

# Found from the file itself, so that an installation may be moved.
file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/moe_export.pc.in
  ${CMAKE_CURRENT_BINARY_DIR}/moe_export.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/moe_export.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT embed)
