// SPDX-License-Identifier: Apache-2.0
// Links everything behind isic::cuda; runs with and without a device.
#include <cstdio>

#include <isic/cuda/backend.hpp>

int main() {
    if (!isic::cuda::available()) {
        std::printf("no device: %s\n", isic::cuda::unavailable_reason().c_str());
        return 0;
    }
    const isic::cuda_backend backend;
    std::printf("%s\n", backend.name().c_str());
    return 0;
}
