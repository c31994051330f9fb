# The HIP backend: the kernels of src/cuda for gfx942 and gfx950, and the same host code over src/hip. Off unless asked
# for; `./dev build --hip` fetches the tools and asks. Needed:
#   clang-19      host code, and device code for gfx942                                       Debian
#   ld.lld-19     joins device code into one code object for each architecture                Debian
#   zig           its clang (22) compiles for gfx950, which clang 19 does not know            PyPI: ziglang
#   HIP's headers and ocml.bc, AMD's math functions                                           PyPI: triton
# No library of AMD's is linked. The backend becomes one object that shows hip_backend and nothing else, so its names may
# be the CUDA backend's.

# Files of src/cuda that hold kernels for AMD; files that are host code alone. tests/emulator takes the same.
set(PI0_HIP_KERNELS attention attention_plain denoise_attention denoise_skinny elementwise gemm_cublaslt
                    gemm_portable)
set(PI0_HIP_HOST backend cublaslt inference load session)

set(PI0_HAVE_HIP OFF)
if(NOT PI0_HIP)
  list(APPEND PI0_SUMMARY "HIP: off")
  return()
endif()

set(PI0_HIP_TOOLS ${CMAKE_SOURCE_DIR}/.cache/hip CACHE PATH "folder with zig/ and amd/, as ./dev build --hip leaves it")
find_program(PI0_HIP_CLANG NAMES clang-19 clang)
find_program(PI0_HIP_LLD NAMES ld.lld-19 ld.lld)
find_program(PI0_HIP_ZIG zig HINTS ${PI0_HIP_TOOLS}/zig NO_DEFAULT_PATH)
find_file(PI0_HIP_OCML ocml.bc HINTS ${PI0_HIP_TOOLS}/amd/lib NO_DEFAULT_PATH)
find_path(PI0_HIP_HEADERS hip/hip_runtime_api.h HINTS ${PI0_HIP_TOOLS}/amd/include NO_DEFAULT_PATH)
foreach(tool CLANG LLD ZIG OCML HEADERS)
  if(NOT PI0_HIP_${tool})
    message(FATAL_ERROR "PI0_HIP is on, but ${tool} was not found (see cmake/hip.cmake); ./dev build --hip installs it")
  endif()
endforeach()
set(PI0_HAVE_HIP ON)
list(APPEND PI0_SUMMARY "HIP: on, for gfx942 gfx950")

set(hip_flags -x hip -std=c++17 -O3 -nogpulib -nogpuinc -Wall -fvisibility=hidden -I${CMAKE_SOURCE_DIR}/src/hip/include
              -I${CMAKE_SOURCE_DIR}/src -I${CMAKE_SOURCE_DIR}/include)
set(hip_folder ${CMAKE_BINARY_DIR}/hip)
file(MAKE_DIRECTORY ${hip_folder})
set(hip_clang ${CCACHE} ${PI0_HIP_CLANG})
set(hip_clang_gfx942 ${PI0_HIP_CLANG})
set(hip_clang_gfx950 ${PI0_HIP_ZIG} clang -isystem ${PI0_HIP_TOOLS}/zig/lib/include)

add_custom_command(OUTPUT ${hip_folder}/oclc.bc
  COMMAND ${PI0_HIP_CLANG} -target amdgcn-amd-amdhsa -Wno-unused-command-line-argument -nogpulib -x ir ${CMAKE_SOURCE_DIR}/src/hip/oclc.ll -emit-llvm -c
          -o ${hip_folder}/oclc.bc
  DEPENDS ${CMAKE_SOURCE_DIR}/src/hip/oclc.ll VERBATIM)

# Device code: each file to assembly (which the tests read), that to an object, all objects to one code object.
set(hip_code "")
foreach(arch gfx942 gfx950)
  set(objects "")
  foreach(name IN LISTS PI0_HIP_KERNELS)
    set(source ${CMAKE_SOURCE_DIR}/src/cuda/${name}.cu)
    set(output ${hip_folder}/${name}.${arch})
    add_custom_command(OUTPUT ${output}.s
      COMMAND ${hip_clang_${arch}} ${hip_flags} --offload-arch=${arch} --offload-device-only --no-gpu-bundle-output
              -mcode-object-version=5 -Xclang -mlink-builtin-bitcode -Xclang ${PI0_HIP_OCML}
              -Xclang -mlink-builtin-bitcode -Xclang ${hip_folder}/oclc.bc
              -Xclang -dependency-file -Xclang ${output}.d -Xclang -MT -Xclang ${output}.s -S ${source} -o ${output}.s
      DEPENDS ${source} ${hip_folder}/oclc.bc DEPFILE ${output}.d VERBATIM COMMENT "HIP ${arch}: ${name}")
    add_custom_command(OUTPUT ${output}.o
      COMMAND ${hip_clang_${arch}} -target amdgcn-amd-amdhsa -mcpu=${arch} -Wno-unused-command-line-argument -nogpulib
              -c ${output}.s -o ${output}.o
      DEPENDS ${output}.s VERBATIM)
    list(APPEND objects ${output}.o)
  endforeach()
  add_custom_command(OUTPUT ${hip_folder}/kernels.${arch}
    COMMAND ${PI0_HIP_LLD} -shared --no-undefined ${objects} -o ${hip_folder}/kernels.${arch}
    DEPENDS ${objects} VERBATIM COMMENT "HIP ${arch}: the code object")
  list(APPEND hip_code ${hip_folder}/kernels.${arch})
endforeach()

# Host code. An empty file stands for the device code, which is loaded by hand (src/hip/modules.c).
file(WRITE ${hip_folder}/empty "")
set(hip_objects "")
foreach(source ${PI0_HIP_KERNELS} ${PI0_HIP_HOST} device)
  if(source STREQUAL device)
    set(file ${CMAKE_SOURCE_DIR}/src/hip/device.cu)
  else()
    set(file ${CMAKE_SOURCE_DIR}/src/cuda/${source}.cu)
  endif()
  set(output ${hip_folder}/${source}.host)
  add_custom_command(OUTPUT ${output}.o
    COMMAND ${PI0_HIP_CLANG} ${hip_flags} -g -fPIC -Xclang -cuid=${source} --offload-arch=gfx942 --offload-host-only -Xclang
            -fcuda-include-gpubinary -Xclang ${hip_folder}/empty -MD -MF ${output}.d -MT ${output}.o -c ${file} -o
            ${output}.o
    DEPENDS ${file} DEPFILE ${output}.d VERBATIM COMMENT "HIP host: ${source}")
  list(APPEND hip_objects ${output}.o)
endforeach()

enable_language(ASM)
add_library(pi0_hip OBJECT src/hip/library.c src/hip/modules.c src/hip/runtime.c src/hip/code_objects.S)
set_source_files_properties(src/hip/code_objects.S PROPERTIES
  COMPILE_DEFINITIONS "PI0_HIP_GFX942=\"${hip_folder}/kernels.gfx942\";PI0_HIP_GFX950=\"${hip_folder}/kernels.gfx950\""
  OBJECT_DEPENDS "${hip_code}")
target_include_directories(pi0_hip PRIVATE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_include_directories(pi0_hip SYSTEM PRIVATE ${PI0_HIP_HEADERS})

set(PI0_HIP_OBJECT ${hip_folder}/hip_backend.o)
add_custom_command(OUTPUT ${PI0_HIP_OBJECT}
  COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${PI0_HIP_OBJECT} ${hip_objects} $<TARGET_OBJECTS:pi0_hip>
  COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=hip_backend ${PI0_HIP_OBJECT}
  DEPENDS ${hip_objects} pi0_hip $<TARGET_OBJECTS:pi0_hip> COMMAND_EXPAND_LISTS VERBATIM
  COMMENT "Joining the HIP backend")
add_custom_target(pi0_hip_object DEPENDS ${PI0_HIP_OBJECT})
