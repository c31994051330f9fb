# The kernels and the host code of src/cuda as C++ for the host, over an emulated GPU (emulator.h), once for each kind of
# GPU that the kernels know. Not under sanitizers, which know no fibers.
# build/tests/pi0_emulated_KIND is the command `pi0` whose HIP backend that GPU is.
if(NOT TARGET pi0 OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR PI0_SANITIZE)
  return()
endif()

set(emulator_kernels ${PI0_HIP_KERNELS} ${PI0_HIP_HOST})
list(TRANSFORM emulator_kernels PREPEND ${CMAKE_SOURCE_DIR}/src/cuda/)
list(TRANSFORM emulator_kernels APPEND .cu)
list(APPEND emulator_kernels ${CMAKE_SOURCE_DIR}/src/hip/device.cu)
set_source_files_properties(${emulator_kernels} PROPERTIES LANGUAGE CXX)

set_source_files_properties(emulator/test_emulator.cu PROPERTIES LANGUAGE CXX)

# The compiler's calls for its race detector, whose library is not linked: detect.cc has the functions.
set(emulated_options -x c++ -fsanitize=thread -fno-strict-aliasing -Wno-unknown-pragmas -Wno-unused-parameter
    -Wno-unused-variable $<$<CXX_COMPILER_ID:GNU>:-fno-extern-tls-init>)

function(pi0_emulator kind)
  add_library(emulated_${kind} OBJECT emulator/schedule.cc emulator/instructions.cc emulator/detect.cc
              emulator/runtime.cc)
  add_library(emulated_kernels_${kind} OBJECT ${emulator_kernels})
  target_compile_options(emulated_kernels_${kind} PRIVATE ${emulated_options})
  foreach(target emulated_${kind} emulated_kernels_${kind})
    target_include_directories(${target} PRIVATE emulator/include emulator ${CMAKE_SOURCE_DIR}/src
                                                 ${CMAKE_SOURCE_DIR}/include)
    target_compile_definitions(${target} PRIVATE PI0_EMULATOR ${ARGN})
    target_compile_options(${target} PRIVATE -O2 -g1 -fno-exceptions)
  endforeach()
  # one object that shows hip_backend and nothing else: its names are those of CUDA's backend and run-time library
  set(object ${CMAKE_CURRENT_BINARY_DIR}/emulated_${kind}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${object} $<TARGET_OBJECTS:emulated_${kind}>
            $<TARGET_OBJECTS:emulated_kernels_${kind}>
    COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=hip_backend ${object}
    DEPENDS emulated_${kind} emulated_kernels_${kind} $<TARGET_OBJECTS:emulated_${kind}>
            $<TARGET_OBJECTS:emulated_kernels_${kind}> COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Joining the emulated backend, ${kind}")
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  add_executable(pi0_emulated_${kind} ${CMAKE_SOURCE_DIR}/src/pi0.c $<TARGET_OBJECTS:pi0> ${object})
  target_compile_definitions(pi0_emulated_${kind} PRIVATE PI0_WITH_HIP)
  target_compile_options(pi0_emulated_${kind} PRIVATE -UPI0_WITH_CUDA)
  pi0_link_test(pi0_emulated_${kind})
  if(CMOCKA_FOUND)
    add_executable(test_emulator_${kind} emulator/test_emulator.cu $<TARGET_OBJECTS:emulated_${kind}>)
    target_compile_options(test_emulator_${kind} PRIVATE ${emulated_options})
    target_compile_definitions(test_emulator_${kind} PRIVATE PI0_EMULATOR ${ARGN})
    target_include_directories(test_emulator_${kind} PRIVATE emulator/include emulator ${CMAKE_SOURCE_DIR}/src
                                                             ${CMAKE_SOURCE_DIR}/include)
    target_link_libraries(test_emulator_${kind} PRIVATE PkgConfig::CMOCKA Threads::Threads ${CMAKE_DL_LIBS})
    target_link_options(test_emulator_${kind} PRIVATE -rdynamic)
    set_target_properties(test_emulator_${kind} PROPERTIES CXX_VISIBILITY_PRESET default LINKER_LANGUAGE CXX)
    add_test(NAME test_emulator_${kind} COMMAND test_emulator_${kind})
    pi0_register_test(test_emulator_${kind} emulator 120)
  endif()
  foreach(problem tiny_pi0 tiny_pi05)
    set(name emulated_${kind}_${problem})
    add_test(NAME ${name} COMMAND pi0_emulated_${kind} verify ${CMAKE_SOURCE_DIR}/tests/data/golden/${problem}.safetensors
                                  --backend hip)
    pi0_register_test(${name} emulator 600)
  endforeach()
endfunction()

pi0_emulator(warp32)
pi0_emulator(gfx942 PI0_AMD)
pi0_emulator(gfx950 PI0_AMD PI0_GFX950)
