/* Which instruction sets this CPU and operating system give us. Bits: Intel SDM volume 2, CPUID leaf 7. */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/ops.h"

enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_AMX = 0x60000 };

static unsigned long long enabled_state(void) {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

/* Linux grants the tile registers to a process that asks (arch_prctl ARCH_REQ_XCOMP_PERM). */
static bool tile_permission(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

cpu_isa cpu_isa_best(void) {
    unsigned eax, ebx, ecx, edx, features = 0;
    unsigned long long state = enabled_state();
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) features = ecx;
    bool fma = (features & bit_FMA) && (features & bit_F16C) && (features & bit_AVX);
    if (!fma || (state & XCR0_AVX) != XCR0_AVX) return CPU_ISA_PLAIN;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX2)) return CPU_ISA_PLAIN;
    unsigned needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    if ((ebx & needed) != needed || (state & XCR0_AVX512) != XCR0_AVX512) return CPU_ISA_AVX2;
    bool tiles = (edx & 1u << 22) && (edx & 1u << 24); /* AMX-BF16, AMX-TILE */
    unsigned leaves = eax;
    if (leaves < 1 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & 1u << 5)) return CPU_ISA_AVX512;
    if (tiles && (state & XCR0_AMX) == XCR0_AMX && tile_permission()) return CPU_ISA_AMX;
    return CPU_ISA_AVX512_BF16;
}

const char *cpu_isa_name(cpu_isa isa) {
    switch (isa) {
    case CPU_ISA_PLAIN:
        return "plain";
    case CPU_ISA_AVX2:
        return "avx2";
    case CPU_ISA_AVX512:
        return "avx512";
    case CPU_ISA_AVX512_BF16:
        return "avx512-bf16";
    case CPU_ISA_AMX:
        return "amx";
    }
    return NULL;
}
