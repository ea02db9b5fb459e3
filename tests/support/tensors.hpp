// SPDX-License-Identifier: Apache-2.0
// Tensors to write, and what a reader says about bytes that are none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <isic/io/tensor.hpp>

#include "support/files.hpp"

namespace isic_test {

using isic::tensor;

/// The message of the io_error that reading these bytes causes, or "" if they are accepted.
template <class Read>
std::string refusal(const scratch_folder& folder, const std::string& bytes, Read read) {
    put(folder.file("bad"), bytes);
    try {
        read(folder.file("bad"));
    } catch (const isic::io_error& e) {
        return e.what();
    }
    return "";
}

template <class T>
tensor some(std::vector<isic::index_t> shape) {
    std::vector<T> values;
    const isic::index_t n = isic::detail::element_count(shape);
    for (isic::index_t j = 0; j < n; ++j) {
        values.push_back(static_cast<T>(static_cast<float>(j % 7) + 1));
    }
    return tensor::of<T>(values, shape);
}

/// One of every type.
inline std::vector<tensor> every_type() {
    tensor boolean = some<std::uint8_t>({2});
    boolean.type = isic::dtype::boolean;
    boolean.bytes[1] = std::byte{0};
    std::vector<tensor> out{boolean,
                            some<std::uint8_t>({3}),
                            some<std::int8_t>({1, 5}),
                            some<std::uint16_t>({2, 2}),
                            some<std::int16_t>({7}),
                            some<std::uint32_t>({3}),
                            some<std::int32_t>({2, 3, 2}),
                            some<std::uint64_t>({}),
                            some<std::int64_t>({4}),
                            some<isic::half>({5}),
                            some<isic::bfloat16>({3, 3}),
                            some<float>({2, 0, 3}),
                            some<double>({6})};
    for (const auto& entry : isic::detail::dtypes) {  // those that isic only carries
        if (std::ranges::none_of(out, [&](const tensor& t) { return t.type == entry.type; })) {
            out.push_back(
                {entry.type, {2, 4}, std::vector<std::byte>(static_cast<std::size_t>(entry.bits), std::byte{0x5a})});
        }
    }
    return out;
}

}  // namespace isic_test
