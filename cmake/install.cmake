# What `cmake --install` puts where, and how other programs find it: pkg-config's pi0.pc and find_package(pi0).
include(CMakePackageConfigHelpers)

# What a program that links libpi0.a needs besides: Debian's names, as flags. libpi0.so brings its own.
set(PI0_PRIVATE_LIBS -ljansson -lmsgpackc)
if(PI0_HAVE_ONEDNN)
  list(APPEND PI0_PRIVATE_LIBS -ldnnl)
endif()
if(PI0_HAVE_IMAGES)
  list(APPEND PI0_PRIVATE_LIBS -lturbojpeg -lspng)
endif()
if(PI0_HAVE_TOKENIZER)
  list(APPEND PI0_PRIVATE_LIBS -lsentencepiece -lstdc++)
endif()
if(PI0_HAVE_CUDA)
  list(APPEND PI0_PRIVATE_LIBS -lstdc++ -lrt)
endif()
list(APPEND PI0_PRIVATE_LIBS ${OpenMP_C_FLAGS} -lpthread -lm -ldl)
list(REMOVE_DUPLICATES PI0_PRIVATE_LIBS)
string(REPLACE ";" " " PI0_PC_PRIVATE_LIBS "${PI0_PRIVATE_LIBS}")

set(PI0_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/pi0)
file(RELATIVE_PATH PI0_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/pi0.pc.in pi0.pc @ONLY)
configure_package_config_file(cmake/pi0-config.cmake.in pi0-config.cmake INSTALL_DESTINATION ${PI0_CMAKE_DIR}
                              PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(pi0-config-version.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS pi0_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${PI0_STATIC} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/pi0.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/pi0.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/pi0-config.cmake ${CMAKE_BINARY_DIR}/pi0-config-version.cmake
        DESTINATION ${PI0_CMAKE_DIR})
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET pi0)
  install(TARGETS pi0 RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
