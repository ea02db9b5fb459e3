// SPDX-License-Identifier: Apache-2.0
// Edits in files: what is saved comes back, what is damaged is refused.
#include <isic/io/edit.hpp>

#include <filesystem>
#include <functional>
#include <random>
#include <string>

#include <isic/io/safetensors.hpp>
#include <isic/projection.hpp>

#include "support/data.hpp"
#include "support/edits.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/reference.hpp"

using isic::edit;
using isic::index_t;
using isic::matrix;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::full_edit;
using isic_test::get;
using isic_test::put;
using isic_test::same;
using isic_test::scratch_folder;

TEST_CASE_TEMPLATE("a loaded edit is the saved one and does what it did", T, ISIC_STORAGE) {
    const scratch_folder folder;
    const auto path = folder.file("one.edit");
    isic_test::random dice(8);
    for (const auto& [codes, width] : {std::pair{3, 2}, {50, 8}, {17, 33}}) {
        auto book = dice.matrix<T>(codes, width);
        const auto original = bytes_of(book);
        const edit e = full_edit(book, dice);
        const auto edited = bytes_of(book);
        REQUIRE(edited != original);
        isic::save_edit(path, e);
        CHECK(folder.count() == 1);  // no temporary is left, an old file is replaced
        const edit loaded = isic::load_edit(path);
        CHECK(same(loaded, e));
        loaded.undo(book);
        CHECK(bytes_of(book) == original);
        loaded.apply(book);
        CHECK(bytes_of(book) == edited);
        book(0, 0) = static_cast<T>(7.0F);
        check_throws<isic::value_error>("edit::undo", [&] { loaded.undo(book); }, {"fingerprint"});

        const std::string bytes = get(path);
        isic::save_edit(path, loaded);
        CHECK(get(path) == bytes);
    }
}

TEST_CASE("edits at the edges come back from files") {
    const scratch_folder folder;
    const auto path = folder.file("edge");
    isic_test::random dice(9);
    auto book = dice.matrix<float>(6, 3);
    const auto comes_back = [&](const edit& e) {
        isic::save_edit(path, e);
        return same(isic::load_edit(path), e);
    };
    CHECK(comes_back(edit::between(book, book)));                                      // no rows
    CHECK(comes_back(edit::between(matrix<double>(0, 4), matrix<double>(0, 4))));      // no codes
    CHECK(comes_back(edit::between(book, dice.matrix<float>(6, 3))));                  // no subspace
    CHECK(comes_back(isic::remap(book, {.target = dice.matrix(6, 3)})));               // every row
    edit e = isic::project_out(book, isic_test::subspace_of(isic_test::dense(3, 0)));  // a subspace of rank 0
    CHECK(e.removed.width() == 3);
    CHECK(comes_back(e));
    e.summary.relative_change = isic_test::not_a_number;
    e.summary.near_zero = std::numeric_limits<index_t>::max();
    e.removed.singular_values = {isic_test::infinity, -0.0, 5e-324};
    CHECK(comes_back(e));
    for (const isic::rank_rule rule : {isic::rank_rule::fixed, isic::rank_rule::energy, isic::rank_rule::gavish_donoho,
                                       isic::rank_rule::sign_flip, isic::rank_rule::budget, isic::rank_rule::data}) {
        e.removed.chosen.decided_by = rule;
        CHECK(comes_back(e));
    }
}

TEST_CASE("an edit file can be read as plain safetensors") {
    const scratch_folder folder;
    isic_test::random dice(10);
    auto book = dice.matrix<isic::bfloat16>(12, 4);
    const auto before = book;
    const edit e = full_edit(book, dice);
    isic::save_edit(folder.file("e"), e);
    const isic::tensor_file file = isic::read_safetensors(folder.file("e"));
    CHECK(file.metadata.at("format") == "isic.edit");
    CHECK(file.metadata.at("dtype") == "bf16");
    CHECK(file.metadata.at("fingerprint_before") == fmt::format("{:016x}", isic::fingerprint(before)));
    CHECK(file.tensors.at("ids").values<index_t>() == e.ids());
    const auto old_rows = file.tensors.at("before").values<isic::bfloat16>();
    const auto new_rows = file.tensors.at("after").values<isic::bfloat16>();
    for (std::size_t i = 0; i < e.ids().size(); ++i) {
        CHECK(bytes_of(std::span(old_rows).subspan(4 * i, 4)) == bytes_of(before.row(e.ids()[i])));
        CHECK(bytes_of(std::span(new_rows).subspan(4 * i, 4)) == bytes_of(book.row(e.ids()[i])));
    }
    CHECK(file.tensors.at("summary.relative_change").values<double>() == std::vector{e.summary.relative_change});
}

namespace {

/// A good file in memory, and why a changed copy of it is refused.
class file_fixture {
public:
    file_fixture() {
        isic_test::random dice(11);
        auto book = dice.matrix<float>(9, 4);
        edit_ = full_edit(book, dice);
        isic::save_edit(folder_.file("good"), edit_);
    }

    const edit& original() const { return edit_; }
    std::string bytes() const { return get(folder_.file("good")); }

    /// What load_edit says about these bytes: "same", "other", or the io_error's message.
    std::string verdict(const std::string& bytes) const {
        put(folder_.file("bad"), bytes);
        return verdict_of_bad();
    }
    std::string verdict(const std::function<void(isic::tensor_file&)>& change) const {
        isic::tensor_file file = isic::read_safetensors(folder_.file("good"));
        change(file);
        isic::write_safetensors(folder_.file("bad"), file);
        return verdict_of_bad();
    }

private:
    std::string verdict_of_bad() const {
        try {
            return same(isic::load_edit(folder_.file("bad")), edit_) ? "same" : "other";
        } catch (const isic::io_error& e) {
            CHECK(std::string(e.what()).find(folder_.file("bad").string()) != std::string::npos);
            return e.what();
        }
    }

    scratch_folder folder_;
    edit edit_;
};

}  // namespace

TEST_CASE("an edit file with any byte changed is refused or means the same") {
    const file_fixture files;
    const std::string good = files.bytes();
    REQUIRE(files.verdict(good) == "same");
    std::mt19937 random(12);
    int harmless = 0;
    for (std::size_t at = 0; at < good.size(); ++at) {
        std::string bytes = good;
        bytes[at] = static_cast<char>(bytes[at] ^ (1 + random() % 255));
        const std::string verdict = files.verdict(bytes);
        CHECK_MESSAGE(verdict != "other", "byte " << at);
        harmless += verdict == "same" ? 1 : 0;
    }
    CHECK(harmless <= 8);  // the spaces that pad the header
}

TEST_CASE("an edit file that was cut off or has more is refused") {
    const file_fixture files;
    const std::string good = files.bytes();
    for (std::size_t size = 0; size < good.size(); size += size < 16 || size + 16 > good.size() ? 1 : 13) {
        const std::string verdict = files.verdict(good.substr(0, size));
        CHECK_MESSAGE((verdict != "same" && verdict != "other"), size << " bytes");
    }
    CHECK(files.verdict(good + "x").find("bytes of data") != std::string::npos);
    const scratch_folder folder;
    CHECK_THROWS_AS(isic::load_edit(folder.file("missing")), isic::io_error);
    CHECK_THROWS_AS(isic::load_edit(folder.file("")), isic::io_error);
}

TEST_CASE("what is wrong in an edit file is named with what was expected") {
    const file_fixture files;
    using isic::tensor;
    using isic::tensor_file;
    REQUIRE(files.verdict([](tensor_file&) {}) == "same");
    struct wrong {
        std::function<void(tensor_file&)> change;
        std::vector<std::string> words;
    };
    const auto meta = [](std::string key, std::string value) {
        return [=](tensor_file& f) { f.metadata[key] = value; };
    };
    const auto numbers = [](std::string name, std::vector<double> values, std::vector<index_t> shape) {
        return [=](tensor_file& f) { f.tensors[name] = tensor::of(std::span<const double>(values), shape); };
    };
    const auto ids = [](index_t at, index_t value) {
        return [=](tensor_file& f) {
            auto list = f.tensors["ids"].values<index_t>();
            list[static_cast<std::size_t>(at)] = value;
            f.tensors["ids"] = tensor::of(std::span<const index_t>(list), {static_cast<index_t>(list.size())});
        };
    };
    std::vector<wrong> all{
        {meta("format", "isic.subspace"), {"format: expected 'isic.edit', got 'isic.subspace'"}},
        {meta("version", "2"), {"version: expected '1', got '2'"}},
        {meta("dtype", "f8"), {"dtype: expected f32, f64, f16 or bf16, got 'f8'"}},
        {meta("dtype", "f64"), {"before: expected F64 [8, 4], got F32 [8, 4]"}},
        {meta("codes", "8"), {"ids: expected ascending ids below 8, got 8"}},
        {meta("codes", "10"), {"checksum: expected "}},
        {meta("codes", "-9"), {"codes: expected a size, got '-9'"}},
        {meta("codes", "9 "), {"codes: expected a size, got '9 '"}},
        {meta("codes", ""), {"codes: expected a size, got ''"}},
        {meta("codes", "99999999999999999999"), {"codes: expected a size"}},
        {meta("width", "5"), {"before: expected F32 [8, 5], got F32 [8, 4]"}},
        {meta("width", "0x4"), {"width: expected a size, got '0x4'"}},
        {meta("fingerprint_before", "12345"), {"fingerprint_before: expected 16 hexadecimal digits, got '12345'"}},
        {meta("fingerprint_before", "0123456789abcdeg"), {"fingerprint_before: expected 16 hexadecimal digits"}},
        {meta("fingerprint_after", "-123456789abcdef"), {"fingerprint_after: expected 16 hexadecimal digits"}},
        {meta("fingerprint_after", "0x23456789abcdef"), {"fingerprint_after: expected 16 hexadecimal digits"}},
        {meta("fingerprint_after", "00000000000000000"), {"fingerprint_after: expected 16 hexadecimal digits"}},
        {meta("fingerprint_after", "0123456789abcdef"), {"checksum: expected "}},
        {meta("rank_rule", "guess"), {"rank_rule: expected the name of a rule, got 'guess'"}},
        {meta("rank_rule", "data"), {"checksum: expected "}},
        {meta("checksum", "nonsense"), {"checksum: expected 16 hexadecimal digits"}},
        {meta("note", "more"), {"checksum: expected "}},
        {ids(0, -1), {"ids: expected ascending ids below 9, got -1"}},
        {ids(0, 1), {"ids: expected ascending ids below 9, got 1"}},
        {ids(7, 9), {"ids: expected ascending ids below 9, got 9"}},
        {ids(1, 7), {"ids: expected ascending ids below 9, got 3"}},
        {numbers("ids", {0, 1}, {2}), {"ids: expected I64 [any], got F64 [2]"}},
        {numbers("before", std::vector<double>(32), {8, 4}), {"before: expected F32 [8, 4], got F64 [8, 4]"}},
        {numbers("removed.basis", std::vector<double>(8), {8}),
         {"removed.basis: expected F64 [any, any], got F64 [8]"}},
        {numbers("removed.basis", std::vector<double>(6), {3, 2}),
         {"removed.basis: expected 4 rows and at most 4 columns, got 3 and 2"}},
        {numbers("removed.basis", std::vector<double>(20), {4, 5}),
         {"removed.basis: expected 4 rows and at most 4 columns, got 4 and 5"}},
        {numbers("removed.basis", {}, {0, 2}), {"got 0 and 2"}},
        {numbers("removed.basis", {}, {3, 0}), {"got 3 and 0"}},
        {numbers("removed.basis", std::vector<double>(8), {4, 2}), {"checksum: expected "}},
        {numbers("center", {1, 2, 3}, {3}), {"center: expected 0 or 4 values, got 3"}},
        {numbers("center", {1, 2, 3, 4}, {2, 2}), {"center: expected F64 [any], got F64 [2, 2]"}},
        {numbers("summary.moved", {1}, {}), {"summary.moved: expected I64 [], got F64 []"}},
        {numbers("summary.before.total", {1}, {1}), {"summary.before.total: expected F64 [], got F64 [1]"}},
        {numbers("more", {1}, {}), {"checksum: expected "}},
        {[](tensor_file& f) { std::swap(f.tensors["before"], f.tensors["after"]); }, {"checksum: expected "}},
        {[](tensor_file& f) { std::swap(f.metadata["fingerprint_before"], f.metadata["fingerprint_after"]); },
         {"checksum: expected "}},
        {[](tensor_file& f) { f.tensors["after"].bytes[0] ^= std::byte{1}; }, {"checksum: expected "}},
        {[](tensor_file& f) {
             f.tensors["after"].bytes.resize(28 * 4);
             f.tensors["after"].shape = {7, 4};
         },
         {"after: expected F32 [8, 4], got F32 [7, 4]"}},
    };
    const tensor_file names = isic::detail::file_of_edit(files.original());
    for (const auto& entry : names.tensors) {
        all.push_back({[=](tensor_file& f) { f.tensors.erase(entry.first); },
                       {entry.first + ": expected ", ", got no such tensor"}});
    }
    for (const auto& entry : names.metadata) {
        all.push_back({[=](tensor_file& f) { f.metadata.erase(entry.first); },
                       {entry.first + ": expected metadata of an edit, got none"}});
    }
    for (const wrong& w : all) {
        const std::string verdict = files.verdict(w.change);
        for (const std::string& word : w.words) {
            CHECK_MESSAGE(verdict.find(word) != std::string::npos, word << " | " << verdict);
        }
    }
}

TEST_CASE("what could not be loaded is not saved, and an old file stays") {
    const scratch_folder folder;
    const auto path = folder.file("e");
    isic_test::random dice(13);
    auto book = dice.matrix<float>(5, 4);
    const edit good = full_edit(book, dice);
    isic::save_edit(path, good);
    const auto refused = [&](const edit& e, const std::string& words) {
        try {
            isic::save_edit(path, e);
            FAIL_CHECK("saved");
        } catch (const isic::io_error& error) {
            CHECK_MESSAGE(std::string(error.what()).find(words) != std::string::npos, error.what());
            CHECK(std::string(error.what()).find(path.string()) != std::string::npos);
        }
        CHECK(same(isic::load_edit(path), good));
        CHECK(folder.count() == 1);
    };
    refused(edit(), "codes: expected an edit of a codebook, got an empty edit");
    edit bad = good;
    bad.center = {1, 2, 3};
    refused(bad, "center: expected 0 or 4 values, got 3");
    bad = good;
    bad.removed.basis = matrix<double>(3, 1, 1.0);
    refused(bad, "removed.basis: expected 4 rows");
    CHECK_THROWS_AS(isic::save_edit(folder.file("no/such/folder"), good), isic::io_error);
    CHECK(folder.count() == 1);
}
