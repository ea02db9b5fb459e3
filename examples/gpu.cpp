// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <vector>

#include <fmt/format.h>
#include <isic/cuda.hpp>

int main() {
    if (!isic::cuda::available()) {
        fmt::print("no GPU: {}\n", isic::cuda::unavailable_reason());
        return 0;
    }
    isic::cuda_backend gpu;  // a device, a stream, and cuBLAS and cuSOLVER on it

    // Your codebook on the device: isic::device_span<float>(pointer, rows, columns). Here a copy of one on the host, in
    // which codes 0 to 9 are codes 10 to 19 and 3 more in column 2.
    isic::matrix<float> host(40, 8);
    for (isic::index_t i = 0; i < 320; ++i) {
        host.data()[i] = static_cast<float>((i * 37 + i * i % 11) % 19) / 19.0F;
    }
    std::vector<std::int32_t> harmful;
    std::vector<std::int32_t> safe;
    for (std::int32_t k = 0; k < 10; ++k) {
        std::ranges::copy(host.row(k + 10), host.row(k).begin());
        host(k, 2) += 3.0F;
        harmful.push_back(k);
        safe.push_back(k + 10);
    }
    auto codes = isic::upload(gpu, host);

    isic::device_accumulator pairs(gpu, codes.view());
    pairs.add(isic::upload_ids(gpu, harmful), isic::upload_ids(gpu, safe));
    const isic::device_fit found = isic::fit_subspace(pairs);
    const isic::device_edit edit = isic::project_out(gpu, codes, found.subspace);
    fmt::print("rank {} by {}, {} codes moved, leakage {:.2f} -> {:.2f}\n", found.subspace.rank(),
               isic::to_string(found.solver), edit.summary().moved, edit.summary().before.total,
               edit.summary().after.total);
    edit.undo(codes);  // every byte as it was
}
