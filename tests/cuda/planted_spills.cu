// SPDX-License-Identifier: Apache-2.0
// What tests/cuda/check_spills.py must find: kernels that keep something in local memory, and one that does not.

// An array that is written at places known only at run time lies on the stack.
__global__ void with_a_stack_frame(float* values, const int* at) {
    float kept[64] = {};
    for (int i = 0; i < 1000; ++i)
        kept[at[i] % 64] += values[i];
    values[0] = kept[at[0] % 64];
}

// Compiled for 32 registers, and 96 values are alive at the same time.
__global__ void __launch_bounds__(1024, 2) with_spills(float* values) {
    float kept[96];
#pragma unroll
    for (int i = 0; i < 96; ++i)
        kept[i] = values[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; ++i)
        values[(95 - i) * 1024 + threadIdx.x] = kept[i] * kept[(i * 7 + 3) % 96];
}

__global__ void innocent(float* values) {
    values[threadIdx.x] *= 2;
}
