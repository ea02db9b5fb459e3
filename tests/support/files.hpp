// SPDX-License-Identifier: Apache-2.0
// Files of a test's own: a folder that is gone afterwards, bytes in and out.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include <fmt/format.h>

#include <isic/matrix.hpp>

namespace isic_test {

class scratch_folder {
public:
    scratch_folder() {
        std::random_device random;
        path_ = std::filesystem::temp_directory_path() / fmt::format("isic_test_{:08x}", random());
        std::filesystem::create_directory(path_);
    }
    ~scratch_folder() { std::filesystem::remove_all(path_); }
    scratch_folder(const scratch_folder&) = delete;
    scratch_folder& operator=(const scratch_folder&) = delete;

    std::filesystem::path file(const std::string& name) const { return path_ / name; }
    isic::index_t count() const { return std::distance(std::filesystem::directory_iterator(path_), {}); }

private:
    std::filesystem::path path_;
};

inline void put(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string get(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::string out(std::filesystem::exists(path) ? std::filesystem::file_size(path) : 0, '\0');
    in.read(out.data(), static_cast<std::streamsize>(out.size()));
    return out;
}

}  // namespace isic_test
