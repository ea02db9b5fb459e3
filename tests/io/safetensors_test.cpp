// SPDX-License-Identifier: Apache-2.0
// Safetensors files: what is written comes back, what is malformed is refused, and a layout is exactly what the file holds.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <isic/io/safetensors.hpp>

#include "support/files.hpp"
#include "support/tensors.hpp"

namespace {

using isic::dtype;
using isic::index_t;
using isic::tensor;
using isic_test::every_type;
using isic_test::get;
using isic_test::put;
using isic_test::refusal;
using isic_test::scratch_folder;
using isic_test::some;

std::string with_length(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    return out + header + data;
}

}  // namespace

TEST_CASE("safetensors: files of every type and their metadata come back") {
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
    for (const auto& [name, t] : file.tensors) {
        CHECK(isic::read_tensor(path, name) == t);
    }
    CHECK_THROWS_WITH_AS(isic::read_tensor(path, "t/F"), doctest::Contains("t/F: expected a tensor of this name"),
                         isic::io_error);
    CHECK(folder.count() == 1);  // no temporary is left

    // every tensor starts at a multiple of its element size
    const std::string bytes = get(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    CHECK(length % 8 == 0);
    const auto header = nlohmann::json::parse(bytes.substr(8, length));
    for (const auto& [name, t] : file.tensors) {
        CHECK(header[name]["data_offsets"][0].get<index_t>() % ((isic::detail::entry_of(t.type).bits + 7) / 8) == 0);
    }
    isic::write_safetensors(path, {});
    CHECK(isic::read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: a failed write leaves the old file") {
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

TEST_CASE("safetensors: malformed files are refused with the reason") {
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
             {with_length(R"({"a":)" + good + R"(,"b":)" + entry("U8", "[4]", "[4,8]") + "}", eight),
              "expected data at offset 8, got 4"},
             {with_length(R"({"a":)" + good + R"(,"b":)" + good + "}", eight), "expected data at offset 8, got 0"},
             {with_length(R"({"a":)" + entry("U8", "[4]", "[0,4]") + R"(,"b":)" + entry("U8", "[3]", "[5,8]") + "}",
                          eight),
              "expected data at offset 4, got 5"},
             {with_length(R"({"a":)" + good + R"(,"a":)" + good + "}", eight), "'a' occurs twice"},
             {with_length(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", eight),
              "'shape' occurs twice"},
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
             {one(entry("U8", "[4294967296,4294967296,0]", "[0,8]")), "expected -1 bytes"},
             {one(entry("F4", "[15]", "[0,8]")), "expected -1 bytes"},
             {one(entry("F6_E2M3", "[8]", "[0,8]")), "expected 6 bytes"},
             {one(entry("F8_E4M3", "[2,2]", "[0,8]")), "expected 4 bytes"},
             {one(entry("C64", "[2]", "[0,8]")), "expected 16 bytes"},
             {one(entry("U8", "[1e999]", "[0,8]")), "does not fit"},
             {one(entry("U8", "[[8]]", "[0,8]")), "nested too deep"},
             {one(entry("U8", "[{}]", "[0,8]")), "expected a size"},
             {one(entry("U8", "[[[8]]]", "[0,8]")), "nested too deep"},
             {one(entry("F64", "[4611686018427387905]", "[0,8]")), "expected -1 bytes"},
             {one(entry("F8", "[8]", "[0,8]")), "known dtype, got 'F8'"},
             {one(entry("U8", "8", "[0,8]")), "expected dtype, shape and two data_offsets"},
             {one(entry("U8", "[8]", "[0,8,8]")), "expected dtype, shape and two data_offsets"},
             {one("3"), "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":"U8","shape":[8]})"), "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1})"),
              "expected dtype, shape and two data_offsets"},
             {one(R"({"dtype":1,"shape":[8],"data_offsets":[0,8]})"), "expected dtype, shape and two data_offsets"},
             {with_length(R"({"__metadata__":{"a":1}})", ""), "expected strings"},
             {with_length(R"({"__metadata__":["a"]})", ""), "expected strings"},
             {with_length(R"({"__metadata__":"a"})", ""), "expected strings"},
             {with_length(R"({"__metadata__":[]})", ""), "expected strings"},
             {with_length("{\"\xff\":1}", ""), "not JSON from its byte 3 on"},
             {with_length(R"({"\ud800":1})", ""), "not JSON from its byte"},
         }) {
        const std::string reason = why(w.bytes);
        CHECK_MESSAGE(reason.find(w.reason) != std::string::npos, w.reason << " | " << reason);
        CHECK(reason.find(folder.file("bad").string()) != std::string::npos);
    }
    CHECK_THROWS_AS(isic::read_safetensors(folder.file("missing")), isic::io_error);
    CHECK_THROWS_AS(isic::read_safetensors(folder.file("")), isic::io_error);
    CHECK_FALSE(why(with_length(std::string(100000, '['), "")).empty());
}

TEST_CASE("safetensors: a layout says where the bytes are, and costs no more where they are many") {
    const scratch_folder folder;
    const auto path = folder.file("a");
    isic::tensor_file file{{}, {{"k", "v"}}};
    for (const tensor& t : every_type()) {
        file.tensors[isic::detail::entry_of(t.type).safetensors] = t;
    }
    isic::write_safetensors(path, file);
    const isic::safetensors_layout layout = isic::read_safetensors_layout(path);
    CHECK(layout.metadata == file.metadata);
    REQUIRE(layout.tensors.size() == file.tensors.size());
    const std::string bytes = get(path);
    for (const auto& [name, t] : file.tensors) {
        const isic::tensor_place& place = layout.tensors.at(name);
        CHECK(place.type == t.type);
        CHECK(place.shape == t.shape);
        REQUIRE(place.bytes == static_cast<index_t>(t.bytes.size()));
        if (place.bytes > 0) {
            CHECK(std::memcmp(bytes.data() + place.offset, t.bytes.data(), t.bytes.size()) == 0);
        }
    }

    // 16 GB that nobody could hold: only a small part is on the disk, and only its header is read
    const index_t large = index_t{1} << 34;
    const std::string header =
        fmt::format(R"({{"x":{{"dtype":"BF16","shape":[{}],"data_offsets":[1,{}]}},)", large / 2, large + 1) +
        R"("y":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})";
    put(path, with_length(header, ""));
    std::filesystem::resize_file(path, 8 + header.size() + static_cast<std::uintmax_t>(large) + 1);
    const auto at = static_cast<index_t>(8 + header.size());
    CHECK(isic::read_safetensors_layout(path).tensors.at("x") ==
          isic::tensor_place{dtype::bf16, {large / 2}, at + 1, large});
    CHECK(isic::read_tensor(path, "y").values<int>() == std::vector<int>{0});
}

TEST_CASE("safetensors: what the format allows is accepted") {
    const scratch_folder folder;
    const auto why = [&](const std::string& bytes) { return refusal(folder, bytes, isic::read_safetensors); };
    const std::string a = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
    CHECK(why(with_length("{" + a + R"(,"__metadata__":null})", "xy")) == "");
    CHECK(why(with_length("{" + a + R"(,"__metadata__":{}})", "xy")) == "");
    CHECK(why(with_length("{ " + a + "\n}\t  ", "xy")) == "");
    const std::string none =
        R"("":{"shape":[0,5],"data_offsets":[2,2],"dtype":"F4"},"b":{"dtype":"F64","shape":[0],"data_offsets":[0,0]})";
    CHECK(why(with_length("{" + a + "," + none + "}", "xy")) == "");
    CHECK(why(with_length(R"({"b":{"dtype":"F6_E3M2","shape":[2,2],"data_offsets":[2,5]},)" + a + "}", "xyzzz")) == "");
    const isic::safetensors_layout layout = isic::read_safetensors_layout(folder.file("bad"));
    CHECK(layout.tensors.at("b").offset == layout.tensors.at("a").offset + 2);
}

namespace {

/// Files made from a seed, some valid and most not.
class file_maker {
public:
    explicit file_maker(std::uint64_t seed) : random_(seed) {}

    /// Entries in any order and spelling, padded or not, with their data: valid.
    std::string valid() {
        static const char* const types[] = {"BOOL", "U8",      "I16",     "BF16", "F32",    "F64",
                                            "C64",  "F8_E4M3", "F8_E8M0", "F4",   "F6_E2M3"};
        static const char* const shape_texts[] = {"", "1", "0", "2,4", "8", "0,9999999", "1,1,8"};
        static const std::uint64_t counts[] = {1, 1, 0, 8, 8, 0, 8};
        static const std::uint64_t bits[] = {8, 8, 16, 16, 32, 64, 64, 8, 8, 4, 6};
        std::vector<std::string> entries;
        std::uint64_t at = 0;
        for (std::uint64_t i = 0, n = below(5); i < n; ++i) {
            const std::uint64_t type = below(std::size(types)), shape = below(std::size(shape_texts)),
                                size = bits[type] * counts[shape];
            if (size % 8 == 0) {
                entries.push_back(fmt::format(R"("t{}{}":{{"dtype":"{}",{}"shape":[{}],"data_offsets":[{},{}{}]}})", i,
                                              below(2) ? "ü" : "\\u00e9", types[type], space(), shape_texts[shape], at,
                                              space(), at + size / 8));
                at += size / 8;
            }
        }
        if (below(2)) {
            entries.push_back(R"("__metadata__":{"format":"pt","":"a\n"})");
        }
        std::shuffle(entries.begin(), entries.end(), random_);
        return with_length(fmt::format("{{{}}}{}", fmt::join(entries, ","), std::string(below(9), ' ')),
                           std::string(at, 'd'));
    }

    /// A valid file with one to three faults; half of the time the length before the header fits its new text.
    std::string mutated() {
        std::string bytes = valid();
        const std::uint64_t length = header_length(bytes);
        std::string header = bytes.substr(8, length), data = bytes.substr(8 + length);
        for (std::uint64_t faults = 1 + below(3); faults > 0; --faults) {
            spoil(header, data);
        }
        std::string out = with_length(header, data);
        if (below(2)) {
            std::memcpy(out.data(), &length, 8);
        }
        if (below(20) == 0) {
            out[below(8)] = static_cast<char>(below(256));
        }
        if (below(20) == 0) {
            out.resize(below(out.size() + 1));
        }
        return out;
    }

    static std::uint64_t header_length(const std::string& bytes) {
        std::uint64_t length = 0;
        std::memcpy(&length, bytes.data(), 8);
        return length;
    }

private:
    void spoil(std::string& header, std::string& data) {
        static const std::string alphabet = "0123456789-,:.[]{}\"abcFU e\\\n";
        const std::uint64_t at = below(header.size() + 1);
        switch (below(11)) {
            case 0: header.insert(at, 1, static_cast<char>(below(256))); break;
            case 1: header.insert(at, 1, alphabet[below(alphabet.size())]); break;
            case 2: header.erase(at, 1 + below(6)); break;
            case 3: replace_digits(header, at); break;
            case 4: copy_entry(header, at); break;
            case 5: header.insert(at, std::string(1 + below(3000), "[{"[below(2)])); break;
            case 6: header.insert(at, below(2) ? "\xc0\x80" : "\\ud800"); break;
            case 7: header.insert(at, below(2) ? "\"a\":1," : "\"__metadata__\":{},"); break;
            case 8: data.resize(below(data.size() + 3), 'd'); break;
            case 9: replace_type(header, at); break;
            default:
                if (at < header.size()) {
                    header[at] = static_cast<char>(below(256));
                }
        }
    }

    void replace_digits(std::string& text, std::uint64_t from) {
        static const char* const numbers[] = {"0",
                                              "1",
                                              "8",
                                              "-1",
                                              "-0",
                                              "3.0",
                                              "1e3",
                                              "1e999",
                                              "00",
                                              "2147483648",
                                              "4294967296",
                                              "9223372036854775807",
                                              "9223372036854775808",
                                              "18446744073709551615",
                                              "18446744073709551616",
                                              "99999999999999999999999",
                                              "null",
                                              "\"1\""};
        const std::size_t at = text.find_first_of("0123456789", from);
        if (at != std::string::npos) {
            text.replace(at, text.find_first_not_of("0123456789", at) - at, numbers[below(std::size(numbers))]);
        }
    }

    /// An entry again: the same key twice, or the same place under another name.
    void copy_entry(std::string& text, std::uint64_t from) {
        const std::size_t at = text.find("\"t", from), end = text.find("},", at);
        if (at != std::string::npos && end != std::string::npos) {
            std::string copy = text.substr(at, end + 2 - at);
            if (below(2)) {
                copy[2] = 'z';
            }
            text.insert(at, copy);
        }
    }

    void replace_type(std::string& text, std::uint64_t from) {
        static const char* const names[] = {"F4", "F8", "I32", "bf16", "C64", "F16"};
        const std::size_t at = text.find("dtype\":\"", from);
        if (at != std::string::npos) {
            const std::size_t end = text.find('"', at + 8);
            text.replace(at + 8, end == std::string::npos ? end : end - at - 8, names[below(std::size(names))]);
        }
    }

    std::string space() { return std::string(below(2), ' '); }
    std::uint64_t below(std::uint64_t n) { return random_() % n; }

    std::mt19937_64 random_;
};

/// Why a layout is not exactly what the bytes hold, or "": the format once more, from its description.
std::string disagreement(const std::string& bytes, const isic::safetensors_layout& layout) {
    static const std::map<std::string, std::uint64_t> bits{
        {"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"U16", 16},    {"I16", 16},    {"U32", 32}, {"I32", 32},
        {"U64", 64},    {"I64", 64},    {"F16", 16},    {"BF16", 16},   {"F32", 32},    {"F64", 64}, {"C64", 64},
        {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
    const std::uint64_t data = 8 + file_maker::header_length(bytes);
    const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, data - 8));
    std::vector<int> covered(bytes.size() - data, 0);
    std::size_t tensors = 0;
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__") {
            continue;
        }
        ++tensors;
        const isic::tensor_place& place = layout.tensors.at(name);
        std::uint64_t size = bits.at(entry["dtype"].get<std::string>());
        for (const auto& n : entry["shape"]) {
            size *= n.get<std::uint64_t>();
        }
        const auto begin = entry["data_offsets"][0].get<std::uint64_t>(),
                   end = entry["data_offsets"][1].get<std::uint64_t>();
        const isic::tensor_place expected{place.type, entry["shape"].get<std::vector<index_t>>(),
                                          static_cast<index_t>(data + begin), static_cast<index_t>(size / 8)};
        if (size % 8 != 0 || end - begin != size / 8 || end > covered.size() || place != expected ||
            entry["dtype"] != isic::detail::entry_of(place.type).safetensors) {
            return "another place for " + name;
        }
        std::for_each(covered.begin() + static_cast<index_t>(begin), covered.begin() + static_cast<index_t>(end),
                      [](int& n) { ++n; });
    }
    if (tensors != layout.tensors.size()) {
        return "other tensors";
    }
    return std::ranges::all_of(covered, [](int n) { return n == 1; }) ? "" : "bytes without a tensor, or with two";
}

}  // namespace

TEST_CASE("safetensors: whatever the bytes are, they are refused or exactly covered") {
    // ISIC_FUZZ=1000000 tries more
    const char* const wanted = std::getenv("ISIC_FUZZ");
    const std::uint64_t trials = wanted == nullptr ? 10000 : std::stoull(wanted);
    const scratch_folder folder;
    file_maker make(1);
    std::uint64_t accepted = 0, refused = 0;
    for (std::uint64_t trial = 0; trial < trials; ++trial) {
        const bool valid = trial % 10 == 0;
        const std::string bytes = valid ? make.valid() : make.mutated();
        put(folder.file("fuzz"), bytes);
        try {
            const isic::safetensors_layout layout = isic::read_safetensors_layout(folder.file("fuzz"));
            const std::string why = disagreement(bytes, layout);
            REQUIRE_MESSAGE(why.empty(), why << " in " << bytes.substr(8));
            ++accepted;
        } catch (const isic::io_error& e) {
            REQUIRE_MESSAGE(!valid, e.what() << " in " << bytes.substr(8));
            ++refused;
        }
    }
    CHECK(accepted > trials / 9);  // all that are valid, and those whose fault is none, as in a name
    CHECK(refused > trials / 2);
}
