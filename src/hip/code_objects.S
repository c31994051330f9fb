/* The code objects of src/cuda's kernels, as the build made them; modules.c hands them to the device. */
    .section .rodata
    .global hip_code_gfx942
    .global hip_code_gfx950
    .balign 4096
hip_code_gfx942:
    .incbin PI0_HIP_GFX942
    .balign 4096
hip_code_gfx950:
    .incbin PI0_HIP_GFX950
    .section .note.GNU-stack, "", %progbits
