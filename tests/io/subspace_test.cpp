// SPDX-License-Identifier: Apache-2.0
// Subspaces in files: what is known of each code comes back, Python's files are the same, and others are refused.
#include <isic/io/subspace.hpp>

#include <functional>
#include <string>

#include <isic/io/safetensors.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/reference.hpp"

using isic::fitted_subspace;
using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::get;
using isic_test::put;
using isic_test::scratch_folder;

namespace {

/// As in tests/python/checkpoint_test.py.
fitted_subspace example() {
    fitted_subspace out;
    out.harm.basis = isic_test::from_rows<double>({{0, 0}, {1, 0}, {0, 1}});
    out.harm.singular_values = {3, 2, 1};
    out.harm.energy = 0.9375;
    out.harm.chosen = {2, isic::rank_rule::energy};
    out.levels = 2;
    out.harmfulness = {0.25, 1, 0, 0.5};
    out.targets = isic_test::from_rows<double>({{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}});
    out.usage = {{2, 8, 0, 4}, {6, 0, 8, 4}};
    return out;
}

bool same(const fitted_subspace& a, const fitted_subspace& b) {
    return bytes_of(a.harm.basis) == bytes_of(b.harm.basis) && a.harm.width() == b.harm.width() &&
           a.harm.singular_values == b.harm.singular_values && a.harm.energy == b.harm.energy &&
           a.harm.chosen.rank == b.harm.chosen.rank && a.harm.chosen.decided_by == b.harm.chosen.decided_by &&
           a.levels == b.levels && a.harmfulness == b.harmfulness && bytes_of(a.targets) == bytes_of(b.targets) &&
           a.targets.rows() == b.targets.rows() && a.usage.harmful == b.usage.harmful && a.usage.safe == b.usage.safe;
}

/// The file that both languages write of the example; its header is padded to a multiple of eight.
std::string bytes_of_example() {
    const std::string header =
        R"({"__metadata__":{"decided_by":"energy","energy":"0.9375","format":"isic.subspace","rank":"2","version":"1"},)"
        R"("basis":{"data_offsets":[0,48],"dtype":"F64","shape":[3,2]},)"
        R"("harmfulness":{"data_offsets":[48,80],"dtype":"F64","shape":[2,2]},)"
        R"("singular_values":{"data_offsets":[80,104],"dtype":"F64","shape":[3]},)"
        R"("targets":{"data_offsets":[104,200],"dtype":"F64","shape":[2,2,3]},)"
        R"("usage.harmful":{"data_offsets":[200,232],"dtype":"F64","shape":[2,2]},)"
        R"("usage.safe":{"data_offsets":[232,264],"dtype":"F64","shape":[2,2]}} )";
    const std::vector<double> values{0, 0, 1, 0, 0, 1, 0.25, 1,  0, 0.5, 3, 2, 1, 0, 1, 2, 3,
                                     4, 5, 6, 7, 8, 9, 10,   11, 2, 8,   0, 4, 6, 0, 8, 4};
    const std::uint64_t size = header.size();
    std::string out(reinterpret_cast<const char*>(&size), sizeof(size));
    out += header;
    return out.append(reinterpret_cast<const char*>(values.data()), 8 * values.size());
}

}  // namespace

TEST_CASE("a subspace file is the same in C++ and in Python") {
    const scratch_folder folder;
    put(folder.file("python"), bytes_of_example());
    CHECK(same(isic::load_subspace(folder.file("python")), example()));
    isic::save_subspace(folder.file("own"), example());
    CHECK(get(folder.file("own")) == bytes_of_example());
}

TEST_CASE("a saved subspace comes back, with what is known of each code") {
    const scratch_folder folder;
    isic_test::random dice(3);
    const auto back = [&](const fitted_subspace& f) {
        isic::save_subspace(folder.file("s"), f);
        return same(isic::load_subspace(folder.file("s")), f);
    };
    isic::subspace harm = isic_test::subspace_of(isic_test::random_basis(dice, 8, 3));
    for (const double energy : {1.0, 0.0, 1.0 / 3, 1e-9, 0.1}) {
        harm.energy = energy;
        CHECK(back({harm}));
    }
    CHECK(back({isic::subspace{}}));
    harm.chosen.decided_by = isic::rank_rule::sign_flip;
    for (const index_t levels : {1, 3}) {
        const auto codes = static_cast<std::size_t>(5 * levels);
        const std::vector<double> known(codes, 0.5);
        CHECK(back({.harm = harm, .levels = levels, .harmfulness = known}));
        CHECK(back({.harm = harm, .levels = levels, .targets = dice.matrix(5 * levels, 8)}));
        CHECK(back({.harm = harm, .levels = levels, .usage = {known, known}}));
        CHECK(back({.harm = harm,
                    .levels = levels,
                    .harmfulness = known,
                    .targets = dice.matrix(5 * levels, 8),
                    .usage = {known, known}}));
    }
    CHECK(folder.count() == 1);
}

TEST_CASE("what could not be loaded again is not saved") {
    const scratch_folder folder;
    const auto change = [&](const std::function<void(fitted_subspace&)>& how) {
        return [&, how] {
            fitted_subspace f = example();
            how(f);
            isic::save_subspace(folder.file("s"), f);
        };
    };
    check_throws<isic::shape_error>("save_subspace", change([](fitted_subspace& f) { f.levels = 0; }),
                                    {"harmfulness", "4 of 0 levels"});
    check_throws<isic::shape_error>("save_subspace", change([](fitted_subspace& f) { f.levels = -2; }), {"-2 levels"});
    check_throws<isic::shape_error>("save_subspace", change([](fitted_subspace& f) { f.levels = 3; }),
                                    {"4 of 3 levels"});
    const auto refused = [&](const std::function<void(fitted_subspace&)>& how, const std::string& word) {
        std::string said = "nothing was thrown";
        try {
            change(how)();
        } catch (const isic::io_error& e) {
            said = e.what();
        }
        CHECK_MESSAGE(said.find(word) != std::string::npos, word << " | " << said);
    };
    refused([](fitted_subspace& f) { f.harm.basis(1, 1) = isic_test::not_a_number; },
            "basis: expected finite values, got nan");
    refused([](fitted_subspace& f) { f.harm.energy = isic_test::infinity; }, "energy: expected a number, got 'inf'");
    refused([](fitted_subspace& f) { f.harm.chosen.rank = -1; }, "rank: expected a size, got '-1'");
    refused([](fitted_subspace& f) { f.harmfulness[3] = 1.5; }, "harmfulness: expected values in [0, 1], got 1.5");
    refused([](fitted_subspace& f) { f.harmfulness.resize(6); }, "targets: expected F64 [2, 3, 3], got F64 [2, 2, 3]");
    refused([](fitted_subspace& f) { f.targets = isic::matrix<double>(4, 2); },
            "targets: expected F64 [2, 2, 3], got F64 [2, 2, 2]");
    refused([](fitted_subspace& f) { f.targets(0, 0) = -isic_test::infinity; },
            "targets: expected finite values, got -inf");
    refused([](fitted_subspace& f) { f.usage.safe.pop_back(), f.usage.safe.pop_back(); },
            "usage.safe: expected F64 [2, 2], got F64 [2, 1]");
    CHECK(folder.count() == 0);
}

TEST_CASE("files that hold no subspace are refused, and the file and the part are named") {
    const scratch_folder folder;
    isic::save_subspace(folder.file("good"), example());
    const isic::tensor_file good = isic::read_safetensors(folder.file("good"));
    const auto refused = [&](const std::function<void(isic::tensor_file&)>& how, const std::string& word) {
        isic::tensor_file bad = good;
        how(bad);
        isic::write_safetensors(folder.file("bad"), bad);
        std::string said = "nothing was thrown";
        try {
            isic::load_subspace(folder.file("bad"));
        } catch (const isic::io_error& e) {
            said = e.what();
        }
        CHECK_MESSAGE(said.find("bad: ") != std::string::npos, said);
        CHECK_MESSAGE(said.find(word) != std::string::npos, word << " | " << said);
    };
    refused([](isic::tensor_file& f) { f.metadata["format"] = "isic.edit"; },
            "format: expected 'isic.subspace', got 'isic.edit'");
    refused([](isic::tensor_file& f) { f.metadata["version"] = "2"; }, "version: expected '1', got '2'");
    refused([](isic::tensor_file& f) { f.metadata["energy"] = "all"; }, "energy: expected a number, got 'all'");
    refused([](isic::tensor_file& f) { f.metadata["decided_by"] = "luck"; },
            "decided_by: expected the name of a rule, got 'luck'");
    for (const auto& entry : good.metadata) {
        refused([&](isic::tensor_file& f) { f.metadata.erase(entry.first); },
                entry.first + ": expected metadata of a subspace, got none");
    }
    for (const char* name : {"basis", "singular_values", "usage.harmful", "usage.safe"}) {
        refused([&](isic::tensor_file& f) { f.tensors.erase(name); }, std::string(name) + ": expected F64 [");
    }
    for (const auto& entry : good.tensors) {
        refused([&](isic::tensor_file& f) { f.tensors[entry.first].type = isic::dtype::i64; },
                entry.first + ": expected F64");
    }
    refused([](isic::tensor_file& f) { f.tensors["harmfulness"].shape = {2, 2, 1}; },
            "harmfulness: expected [K] or [L, K], got F64 [2, 2, 1]");
    refused([](isic::tensor_file& f) { f.tensors["harmfulness"].shape = {4}; },
            "targets: expected F64 [4, 3], got F64 [2, 2, 3]");
}
