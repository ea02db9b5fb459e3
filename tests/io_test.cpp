// Files: what is written comes back, what is malformed is refused.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <isic/io.hpp>

#include "support/files.hpp"

namespace {

using isic::dtype;
using isic::index_t;
using isic::tensor;
using isic_test::get;
using isic_test::put;
using isic_test::scratch_folder;

std::string with_length(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    return out + header + data;
}

std::string npy(const std::string& header, const std::string& data) {
    const auto length = static_cast<std::uint16_t>(header.size());
    std::string out("\x93NUMPY\x01\x00..", 10);
    std::memcpy(out.data() + 8, &length, 2);
    return out + header + data;
}

// The message of the io_error that reading these bytes causes, or "" if they are accepted.
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
tensor some(std::vector<index_t> shape) {
    std::vector<T> values;
    const index_t n = isic::detail::element_count(shape);
    for (index_t j = 0; j < n; ++j) {
        values.push_back(static_cast<T>(static_cast<float>(j % 7) + 1));
    }
    return tensor::of<T>(values, shape);
}

std::vector<tensor> every_type() {
    tensor boolean = some<std::uint8_t>({2});
    boolean.type = dtype::boolean;
    boolean.bytes[1] = std::byte{0};
    return {boolean,
            some<std::uint8_t>({3}),
            some<std::int8_t>({1, 5}),
            some<std::uint16_t>({2, 2}),
            some<std::int16_t>({7}),
            some<std::uint32_t>({3}),
            some<std::int32_t>({2, 3, 2}),
            some<std::uint64_t>({}),
            some<std::int64_t>({4}),
            some<Eigen::half>({5}),
            some<Eigen::bfloat16>({3, 3}),
            some<float>({2, 0, 3}),
            some<double>({6})};
}

}  // namespace

TEST_CASE("io: safetensors of every type and their metadata come back") {
    const scratch_folder folder;
    isic::tensor_file file;
    for (const tensor& t : every_type()) {
        file.tensors[fmt::format("t/{}", isic::detail::entry_of(t.type).safetensors)] = t;
    }
    REQUIRE(file.tensors.size() == isic::detail::dtypes.size());
    file.metadata = {{"heads", "4"}, {"name \"quoted\"", "ü\n"}};
    const auto path = folder.file("a.safetensors");
    isic::write_safetensors(path, file);
    const isic::tensor_file back = isic::read_safetensors(path);
    CHECK(back.tensors == file.tensors);
    CHECK(back.metadata == file.metadata);
    CHECK(folder.count() == 1);  // no temporary is left

    // every tensor starts at a multiple of its element size
    const std::string bytes = get(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    CHECK(length % 8 == 0);
    const auto header = nlohmann::json::parse(bytes.substr(8, length));
    for (const auto& [name, t] : file.tensors) {
        CHECK(header[name]["data_offsets"][0].get<index_t>() % isic::detail::entry_of(t.type).size == 0);
    }
    isic::write_safetensors(path, {});
    CHECK(isic::read_safetensors(path).tensors.empty());
}

TEST_CASE("io: a failed write leaves the old file") {
    const scratch_folder folder;
    const auto path = folder.file("a.safetensors");
    isic::write_safetensors(path, {{{"x", some<float>({2})}}, {}});
    isic::tensor_file bad{{{"x", some<float>({2})}}, {}};
    bad.tensors["x"].bytes.pop_back();
    CHECK_THROWS_AS(isic::write_safetensors(path, bad), isic::io_error);
    CHECK_THROWS_AS(isic::write_safetensors(path, {{{"\xff", some<float>({2})}}, {}}), isic::io_error);
    CHECK_THROWS_AS(isic::write_safetensors(path, {{{"__metadata__", some<float>({2})}}, {}}), isic::io_error);
    bad.tensors["x"].shape = {-1};
    CHECK_THROWS_AS(isic::write_safetensors(path, bad), isic::io_error);
    CHECK_THROWS_AS(isic::write_safetensors(folder.file("no/such/folder"), {}), isic::io_error);
    CHECK(isic::read_safetensors(path).tensors.at("x") == some<float>({2}));

    // a folder in the way of the rename
    std::filesystem::create_directory(folder.file("taken"));
    put(folder.file("taken") / "inside", "x");
    CHECK_THROWS_AS(isic::write_safetensors(folder.file("taken"), {}), isic::io_error);
    CHECK(folder.count() == 2);
}

TEST_CASE("io: values convert where nothing is lost") {
    const tensor half = some<Eigen::half>({3}), brain = some<Eigen::bfloat16>({3});
    CHECK(half.values<float>() == std::vector<float>{1, 2, 3});
    CHECK(brain.values<double>() == std::vector<double>{1, 2, 3});
    CHECK(some<std::int32_t>({2}).values<std::int64_t>() == std::vector<std::int64_t>{1, 2});
    CHECK(some<double>({2}).values<Eigen::half>()[1] == Eigen::half(2.0f));
    const std::vector<float> third{1.0f / 3};
    CHECK(tensor::of<float>(third, {1}).values<double>()[0] == static_cast<double>(third[0]));
    const std::vector<int> large{-1, 300};
    CHECK_THROWS_AS(tensor::of<int>(large, {2}).values<std::uint8_t>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(std::span(large).first(1), {1}).values<std::uint64_t>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(std::span(large).last(1), {1}).values<std::int8_t>(), isic::value_error);
    CHECK(tensor::of<int>(large, {2}).values<std::int16_t>() == std::vector<std::int16_t>{-1, 300});
    CHECK_THROWS_AS(some<float>({2}).values<int>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(large, {3}), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(large, {-2, -1}), isic::value_error);
    tensor broken = some<float>({2});
    broken.bytes.pop_back();
    CHECK_THROWS_AS(broken.values<float>(), isic::value_error);
}

TEST_CASE("io: malformed safetensors are refused with the reason") {
    const scratch_folder folder;
    const auto why = [&](const std::string& bytes) { return refusal(folder, bytes, isic::read_safetensors); };
    const auto entry = [](const std::string& type, const std::string& shape, const std::string& offsets) {
        return R"({"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
    };
    const std::string eight(8, 'x'), good = entry("F32", "[2]", "[0,8]");
    REQUIRE(why(with_length(R"({"a":)" + good + "}", eight)).empty());
    REQUIRE(why(with_length(R"({"a":)" + good + "}   ", eight)).empty());

    struct wrong {
        std::string bytes;
        std::string reason;
    };
    const auto one = [&](const std::string& e) { return with_length(R"({"a":)" + e + "}", eight); };
    std::string too_long = with_length("{}", ""), endless = too_long, giant = too_long;
    too_long[0] = 3;
    endless.replace(0, 8, std::string(8, '\xff'));
    giant.replace(0, 8, std::string("\x01\xe1\xf5\x05\x00\x00\x00\x00", 8));  // 100 000 001
    for (const wrong& w : std::vector<wrong>{
             {"", "found 0 bytes"},
             {"1234567", "found 7 bytes"},
             {too_long, "a header of 3 bytes in a file of 10"},
             {endless, "a header of 18446744073709551615 bytes"},
             {giant, "a header of 100000001 bytes"},
             {with_length("", ""), "not JSON"},
             {with_length("{", ""), "not JSON"},
             {with_length("[]", ""), "not an object"},
             {with_length(" {}", ""), "not an object"},
             {with_length(std::string("{}\0", 3), ""), "zero byte"},
             {with_length(std::string("{}\0{}", 5), ""), "zero byte"},
             {with_length("{}", "x"), "expected 0 bytes of data, found 1"},
             {with_length(R"({"a":)" + good + "}", eight + "x"), "expected 8 bytes of data, found 9"},
             {with_length(R"({"a":)" + good + "}", "1234567"), "expected 8 bytes of data, found 7"},
             {with_length(R"({"a":)" + good + R"(,"b":)" + entry("U8", "[4]", "[4,8]") + "}", eight), "expected data at offset 8, got 4"},
             {with_length(R"({"a":)" + good + R"(,"b":)" + good + "}", eight), "expected data at offset 8, got 0"},
             {with_length(R"({"a":)" + entry("U8", "[4]", "[0,4]") + R"(,"b":)" + entry("U8", "[3]", "[5,8]") + "}", eight),
              "expected data at offset 4, got 5"},
             {with_length(R"({"a":)" + good + R"(,"a":)" + good + "}", eight), "'a' occurs twice"},
             {with_length(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", eight), "'shape' occurs twice"},
             {one(entry("F32", "[2]", "[8,0]")), "got offsets 8 to 0"},
             {one(entry("F32", "[2]", "[0,4]")), "expected 8 bytes"},
             {one(entry("F32", "[3]", "[0,8]")), "expected 12 bytes"},
             {one(entry("F16", "[2]", "[0,8]")), "expected 4 bytes"},
             {one(entry("U8", "[8]", "[-8,0]")), "expected a size, got -8"},
             {one(entry("U8", "[-8]", "[0,8]")), "expected a size, got -8"},
             {one(entry("U8", "[8.0]", "[0,8]")), "expected a size, got 8.0"},
             {one(entry("U8", "[\"8\"]", "[0,8]")), "expected a size"},
             {one(entry("U8", "[8]", "[0,99999999999999999999]")), "expected a size"},
             {one(entry("U8", "[8]", "[0,18446744073709551615]")), "expected a size"},
             {one(entry("U8", "[4294967296,4294967296,2]", "[0,8]")), "expected -1 bytes"},
             {one(entry("F64", "[4611686018427387905]", "[0,8]")), "expected -1 bytes"},
             {one(entry("F8", "[8]", "[0,8]")), "known dtype, got 'F8'"},
             {one(entry("U8", "8", "[0,8]")), "expected dtype, shape and two data_offsets"},
             {one(entry("U8", "[8]", "[0,8,8]")), "expected dtype, shape and two data_offsets"},
             {one("3"), "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":"U8","shape":[8]})"), "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1})"), "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":1,"shape":[8],"data_offsets":[0,8]})"), "expected dtype, shape and two data_offsets"},
             {with_length(R"({"__metadata__":{"a":1}})", ""), "expected strings"},
             {with_length(R"({"__metadata__":["a"]})", ""), "expected strings"},
             {with_length(R"({"__metadata__":"a"})", ""), "expected strings"},
         }) {
        const std::string reason = why(w.bytes);
        CHECK_MESSAGE(reason.find(w.reason) != std::string::npos, w.reason << " | " << reason);
        CHECK(reason.find(folder.file("bad").string()) != std::string::npos);
    }
    CHECK_THROWS_AS(isic::read_safetensors(folder.file("missing")), isic::io_error);
    CHECK_THROWS_AS(isic::read_safetensors(folder.file("")), isic::io_error);
    CHECK_FALSE(why(with_length(std::string(100000, '['), "")).empty());
}

TEST_CASE("io: mutated safetensors are refused or consistent") {
    const scratch_folder folder;
    isic::tensor_file file;
    file.tensors = {{"a", some<float>({2, 2})}, {"bb", some<std::uint8_t>({3})}, {"c", some<Eigen::half>({1})}};
    file.metadata = {{"k", "v"}};
    isic::write_safetensors(folder.file("good"), file);
    const std::string good = get(folder.file("good"));
    const std::string alphabet = "0123456789-,:.[]{}\"abcFU e";
    std::mt19937 random(1);
    int accepted = 0, refused = 0;
    for (int trial = 0; trial < 20000; ++trial) {
        std::string bytes = good;
        for (auto edits = 1 + random() % 3; edits > 0; --edits) {
            const std::size_t at = random() % bytes.size();
            switch (random() % 4) {
                case 0: bytes[at] = static_cast<char>(random()); break;
                case 1: bytes[at] = alphabet[random() % alphabet.size()]; break;
                case 2: bytes.erase(at, 1 + random() % 4); break;
                default: bytes.insert(at, 1, alphabet[random() % alphabet.size()]);
            }
            if (bytes.empty()) {
                break;
            }
        }
        put(folder.file("bad"), bytes);
        try {
            const isic::tensor_file read = isic::read_safetensors(folder.file("bad"));
            ++accepted;
            std::size_t total = 0;
            for (const auto& [name, t] : read.tensors) {
                REQUIRE(static_cast<index_t>(t.bytes.size()) == isic::detail::byte_count(t.shape, t.type));
                REQUIRE(static_cast<index_t>(t.values<double>().size()) == t.size());
                total += t.bytes.size();
            }
            std::uint64_t length = 0;
            std::memcpy(&length, bytes.data(), 8);
            REQUIRE(total + 8 + length == bytes.size());
        } catch (const isic::io_error&) {
            ++refused;
        }
    }
    CHECK(accepted > 100);  // edits of names and data are harmless
    CHECK(refused > 10000);
}

TEST_CASE("io: .npy of every type comes back") {
    const scratch_folder folder;
    const auto path = folder.file("a.npy");
    for (const tensor& t : every_type()) {
        if (t.type == dtype::bf16) {
            CHECK_THROWS_AS(isic::write_npy(path, t), isic::io_error);
            continue;
        }
        isic::write_npy(path, t);
        CHECK(isic::read_npy(path) == t);
        CHECK((get(path).size() - t.bytes.size()) % 64 == 0);
    }
    // as NumPy writes it
    put(path, npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }     \n", std::string("\x01\x00\xff\xff", 4)));
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{1, -1});
    put(path, npy("{\"shape\":(),'fortran_order':False,'descr':'|u1'}", "\x05"));
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{5});
    put(path, std::string("\x93NUMPY\x02\x00\x37\x00\x00\x00", 12) + "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}\x07");
    CHECK(isic::read_npy(path).values<int>() == std::vector<int>{7});
}

TEST_CASE("io: malformed .npy are refused") {
    const scratch_folder folder;
    const auto why = [&](const std::string& bytes) { return refusal(folder, bytes, isic::read_npy); };
    const std::string good = "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}";
    REQUIRE(why(npy(good, "x")).empty());
    std::string long_header = npy(good, "x"), version = long_header;
    long_header[8] = static_cast<char>(long_header[8] + 2);
    version[6] = 4;
    for (const std::string& bytes : std::vector<std::string>{
             "", "\x93NUMPY", "NUMPY.........", long_header, version, npy(good, ""), npy(good, "xy"), npy("", "x"),
             npy(good + "x", "x"), npy("{'descr': '|u1', 'fortran_order': False}", "x"),
             npy("{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", "x"),
             npy("{'descr': '>u2', 'fortran_order': False, 'shape': (1,)}", "xx"),
             npy("{'descr': '', 'fortran_order': False, 'shape': (1,)}", "xx"),
             npy("{'descr': '|u1', 'fortran_order': True, 'shape': (1,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,)}", "x"),
             npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387905,)}", "x"),
             npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296,4294967296,2)}", "x"),
             npy("{'descr': '|u1', 'other': False, 'shape': (1,)}", "x"), npy("{'descr", "x"), npy("{", "x")}) {
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
        } catch (const isic::io_error&) {
        }
    }
}
