// SPDX-License-Identifier: Apache-2.0
// .npy files: what is written comes back, what is malformed is refused.
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <isic/io/npy.hpp>

#include "support/files.hpp"
#include "support/tensors.hpp"

namespace {

using isic::index_t;
using isic::tensor;
using isic_test::every_type;
using isic_test::get;
using isic_test::put;
using isic_test::refusal;
using isic_test::scratch_folder;

std::string npy(const std::string& header, const std::string& data) {
    const auto length = static_cast<std::uint16_t>(header.size());
    std::string out("\x93NUMPY\x01\x00..", 10);
    std::memcpy(out.data() + 8, &length, 2);
    return out + header + data;
}

}  // namespace

TEST_CASE("npy: .npy of every type comes back") {
    const scratch_folder folder;
    const auto path = folder.file("a.npy");
    for (const tensor& t : every_type()) {
        if (std::string_view(isic::detail::entry_of(t.type).npy).empty()) {
            CHECK_THROWS_AS(isic::write_npy(path, t), isic::io_error);
            continue;
        }
        isic::write_npy(path, t);
        CHECK(isic::read_npy(path) == t);
        CHECK((get(path).size() - t.bytes.size()) % 64 == 0);
    }
    // as NumPy writes it
    put(path,
        npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }     \n", std::string("\x01\x00\xff\xff", 4)));
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{1, -1});
    put(path, npy("{\"shape\":(),'fortran_order':False,'descr':'|u1'}", "\x05"));
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{5});
    put(path, std::string("\x93NUMPY\x02\x00\x37\x00\x00\x00", 12) +
                  "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}\x07");
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{7});
}

TEST_CASE("npy: malformed .npy are refused") {
    const scratch_folder folder;
    const auto why = [&](const std::string& bytes) { return refusal(folder, bytes, isic::read_npy); };
    const std::string good = "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}";
    REQUIRE(why(npy(good, "x")).empty());
    std::string long_header = npy(good, "x"), version = long_header;
    long_header[8] = static_cast<char>(long_header[8] + 2);
    version[6] = 4;
    for (const std::string& bytes : std::vector<std::string>{
             "",
             "\x93NUMPY",
             "NUMPY.........",
             long_header,
             version,
             npy(good, ""),
             npy(good, "xy"),
             npy("", "x"),
             npy(good + "x", "x"),
             npy("{'descr': '|u1', 'fortran_order': False}", "x"),
             npy("{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", "x"),
             npy("{'descr': '>u2', 'fortran_order': False, 'shape': (1,)}", "xx"),
             npy("{'descr': '', 'fortran_order': False, 'shape': (1,)}", "xx"),
             npy("{'descr': '|u1', 'fortran_order': True, 'shape': (1,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,)}", "x"),
             npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387905,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296,4294967296,2)}", "x"),
             npy("{'descr': '|u1', 'other': False, 'shape': (1,)}", "x"),
             npy("{'descr", "x"),
             npy("{", "x")}) {
        CHECK_FALSE(why(bytes).empty());
    }
    std::mt19937 random(2);
    for (int trial = 0; trial < 5000; ++trial) {
        std::string bytes = npy(good, "x");
        bytes[random() % bytes.size()] = static_cast<char>(random());
        bytes[random() % bytes.size()] = "'(),0123456789{} :"[random() % 18];
        put(folder.file("bad"), bytes);
        try {
            const tensor t = isic::read_npy(folder.file("bad"));
            REQUIRE(static_cast<index_t>(t.bytes.size()) == isic::detail::byte_count(t.shape, t.type));
        } catch (const isic::io_error&) {}
    }
}
