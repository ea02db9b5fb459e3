// SPDX-License-Identifier: Apache-2.0
// What is patched in the tests of crashes: some bytes in the middle of every file become others.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <isic/io/patch.hpp>

namespace isic_test {

class patch_case {
public:
    patch_case(std::vector<std::filesystem::path> files, std::size_t size) : files_(std::move(files)) {
        for (std::size_t i = 0; i < size; ++i) {
            before_.push_back(static_cast<char>(i * i >> 3));
            after_.push_back(static_cast<char>(before_.back() ^ (i % 16)));  // some bytes stay
        }
    }

    std::vector<isic::file_patch> patches() const {
        std::vector<isic::file_patch> out;
        for (const auto& file : files_) {
            const auto at = static_cast<isic::index_t>(head.size());
            out.push_back({file, at, std::as_bytes(std::span(before_)), std::as_bytes(std::span(after_))});
        }
        return out;
    }

    const std::vector<std::filesystem::path>& files() const { return files_; }
    std::string old_file() const { return std::string(head) + before_ + "tail"; }
    std::string new_file() const { return std::string(head) + after_ + "tail"; }

private:
    static constexpr std::string_view head = "head and more of it";

    std::vector<std::filesystem::path> files_;
    std::string before_, after_;
};

}  // namespace isic_test
