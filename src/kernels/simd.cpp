#include "targets.hpp"

namespace isic::kernels {

namespace {

simd detect() {
#if HWY_ARCH_X86 && (defined(__GNUC__) || defined(__clang__))
    // These builtins ask the system too: registers that it does not save count as missing.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool vnni = __builtin_cpu_supports("avx512vnni");
    return !avx2 ? simd::baseline : !avx512 ? simd::avx2 : !vnni ? simd::avx512 : simd::avx512_vnni;
#else
    return simd::baseline;
#endif
}

}  // namespace

simd best_simd() {
    static const simd best = detect();  // a constant of the machine
    return best;
}

}  // namespace isic::kernels
