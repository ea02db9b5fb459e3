// SPDX-License-Identifier: Apache-2.0
#include <isic/update.hpp>

#include <algorithm>
#include <functional>
#include <tuple>
#include <type_traits>

#include <isic/subspace.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::from_dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::strided;
using isic_test::subspace_of;
using isic_test::to_dense;
using isic_test::unit;

namespace {

/// One step of each kind of update, from no state, with random input of a seed.
template <class T>
struct named_update {
    std::string_view name;
    std::function<void(isic::matrix_span<T>, std::uint64_t, const isic::constraint&)> step;
};

template <class T>
std::vector<named_update<T>> all_updates() {
    const auto batch = [](isic::matrix_span<T> c, std::uint64_t seed) {
        isic_test::random dice(seed);
        return isic::assign(dice.matrix(8 * c.rows(), c.cols(), 3.0), dice.ids(8 * c.rows(), c.rows()), c.rows());
    };
    const auto gradient = [](isic::matrix_span<T> c, std::uint64_t seed) {
        return isic_test::random(seed).matrix(c.rows(), c.cols());
    };
    return {
        {"ridge", [=](auto c, auto seed, const auto& limits) { isic::ridge_update(c, batch(c, seed), 0.5, limits); }},
        {"ema",
         [=](auto c, auto seed, const auto& limits) {
             isic::ema_state state;
             isic::ema_update(c, state, batch(c, seed), 0.5, limits);
         }},
        {"sgd",
         [=](auto c, auto seed, const auto& limits) {
             isic::sgd_state state;
             isic::sgd_update(c, gradient(c, seed), state, {.rate = 1}, limits);
         }},
        {"adam", [=](auto c, auto seed, const auto& limits) {
             isic::adam_state state;
             isic::adam_update(c, gradient(c, seed), state, {.rate = 0.7}, limits);
         }}};
}

constexpr std::tuple<index_t, index_t, index_t> constraint_shapes[] = {{4, 2, 1}, {9, 4, 1}, {20, 8, 2}, {6, 33, 7}};

/// What rounding entries of this size to T may do to a row of them.
template <class T>
double row_rounding(const dense& m) {
    return std::sqrt(static_cast<double>(m.cols())) * (unit<T> + 1e-14) * (1 + m.cwiseAbs().maxCoeff());
}

template <class T>
dense after(const isic::matrix<T>& start, const named_update<T>& update, std::uint64_t seed,
            const isic::constraint& limits) {
    strided<T> memory(start, 3);
    update.step(memory.span(), seed, limits);
    CHECK(memory.gaps_intact());
    return to_dense(memory.span());
}

double largest_row(const dense& m) {
    return m.rowwise().norm().maxCoeff();
}

}  // namespace

TEST_CASE_TEMPLATE("steps of every update are orthogonal to the subspace, and would not be otherwise", T,
                   ISIC_STORAGE) {
    for (const std::uint64_t seed : {1, 2, 3}) {
        isic_test::random dice(seed);
        for (const auto& [codes, width, rank] : constraint_shapes) {
            const auto start = dice.matrix<T>(codes, width);
            const dense v = isic_test::random_basis(dice, width, rank);
            for (const auto& update : all_updates<T>()) {
                INFO(std::string(update.name));
                const dense free = after(start, update, seed, {}) - to_dense(start);
                const dense end = after(start, update, seed, {.orthogonal_to = subspace_of(v)});
                const dense kept = end - to_dense(start);
                CHECK((free * v).norm() > 0.02 * free.norm());
                CHECK(largest_row(kept * v) <= row_rounding<T>(end));
                CHECK(kept.norm() > 0.05 * free.norm());
            }
        }
    }
}

TEST_CASE("a projected codebook stays projected over many steps, for all subspaces merged and not only the last") {
    isic_test::random dice(4);
    const dense first = isic_test::random_basis(dice, 16, 2);
    const dense second = isic_test::random_basis(dice, 16, 3);
    const isic::subspace both = merge(subspace_of(first), subspace_of(second));
    const dense start = to_dense(dice.matrix(30, 16));
    const dense v = to_dense(both.basis);
    const auto projected = from_dense(start - start * v * v.transpose());
    for (const auto& update : all_updates<double>()) {
        auto merged = projected;
        auto last_only = projected;
        for (std::uint64_t step = 0; step < 30; ++step) {
            update.step(merged, step, {.orthogonal_to = both});
            update.step(last_only, step, {.orthogonal_to = subspace_of(second)});
        }
        CHECK(isic_test::leak(to_dense(merged), first) < 1e-14);
        CHECK(isic_test::leak(to_dense(merged), second) < 1e-14);
        CHECK(isic_test::leak(to_dense(last_only), second) < 1e-14);
        CHECK(isic_test::leak(to_dense(last_only), first) > 0.01);
    }
}

TEST_CASE_TEMPLATE("locked codes keep their bytes, the others move as if nothing were locked", T, ISIC_STORAGE) {
    isic_test::random dice(5);
    for (const auto& [codes, width, rank] : constraint_shapes) {
        const auto start = dice.matrix<T>(codes, width);
        std::vector<bool> locked;
        for (index_t k = 0; k < codes; ++k) {
            locked.push_back(k % 3 == 0);
        }
        for (const auto& update : all_updates<T>()) {
            INFO(std::string(update.name));
            auto free = start;
            update.step(free, 6, {});
            strided<T> memory(start, 2);
            update.step(memory.span(), 6, {.locked = locked});
            for (index_t k = 0; k < codes; ++k) {
                CHECK(bytes_of(free.row(k)) != bytes_of(start.row(k)));
                CHECK(bytes_of(memory.span().row(k)) == bytes_of((k % 3 == 0 ? start : free).row(k)));
            }
            CHECK(memory.gaps_intact());
        }
    }
}

TEST_CASE_TEMPLATE("locked rows may be padding and hold anything, their anchors too", T, ISIC_STORAGE) {
    isic_test::random dice(6);
    for (const double content : {not_a_number, infinity, -infinity}) {
        auto start = dice.matrix<T>(7, 4);
        std::vector<bool> locked(7, false);
        for (const index_t k : {2, 6}) {
            std::ranges::fill(start.row(k), static_cast<T>(static_cast<float>(content)));
            locked[static_cast<std::size_t>(k)] = true;
        }
        for (const auto& update : all_updates<T>()) {
            INFO(std::string(update.name));
            const isic::constraint limits{.locked = locked, .within = 0.1, .anchor = from_dense(to_dense(start))};
            auto codes = start;
            CHECK_THROWS_AS(update.step(codes, 7, {}), isic::numeric_error);
            update.step(codes, 7, limits);
            for (index_t k = 0; k < 7; ++k) {
                CHECK((bytes_of(codes.row(k)) == bytes_of(start.row(k))) == locked[static_cast<std::size_t>(k)]);
            }
            auto open = limits;
            open.locked[2] = false;
            const auto before = bytes_of(codes);
            CHECK_THROWS_AS(update.step(codes, 7, open), isic::numeric_error);
            CHECK(bytes_of(codes) == before);
        }
    }
}

TEST_CASE_TEMPLATE("rows stay within the radius of their anchors, and would not otherwise", T, ISIC_STORAGE) {
    isic_test::random dice(8);
    for (const auto& [codes, width, rank] : constraint_shapes) {
        const auto start = dice.matrix<T>(codes, width);
        const auto near = from_dense(to_dense(start) + to_dense(dice.matrix(codes, width, 0.01)));
        for (const auto& update : all_updates<T>()) {
            INFO(std::string(update.name));
            const dense free = after(start, update, 9, {});
            const Eigen::VectorXd distances = (free - to_dense(near)).rowwise().norm();
            for (const double radius : {0.05, 0.5 * (distances.minCoeff() + distances.maxCoeff()), 1e3}) {
                const dense held = after(start, update, 9, {.within = radius, .anchor = near});
                for (index_t k = 0; k < codes; ++k) {
                    const Eigen::RowVectorXd anchor = to_dense(near).row(k);
                    CHECK((held.row(k) - anchor).norm() <= radius + row_rounding<T>(held));
                    // The nearest point of the ball: on the line to where the row would have gone, or that place itself.
                    const double share = std::min(1.0, radius / distances(k));
                    CHECK((held.row(k) - anchor - share * (free.row(k) - anchor)).norm() <= 3 * row_rounding<T>(free));
                }
            }
            CHECK(distances.maxCoeff() > 0.05 + row_rounding<T>(free));
        }
    }
}

TEST_CASE_TEMPLATE("norms are kept if they shall be", T, ISIC_STORAGE) {
    isic_test::random dice(10);
    for (const auto& [codes, width, rank] : constraint_shapes) {
        const auto start = dice.matrix<T>(codes, width);
        const Eigen::VectorXd norms = to_dense(start).rowwise().norm();
        for (const auto& update : all_updates<T>()) {
            INFO(std::string(update.name));
            const dense free = after(start, update, 11, {});
            const dense kept = after(start, update, 11, {.keep_norms = true});
            CHECK((free.rowwise().norm() - norms).cwiseAbs().maxCoeff() > 0.05);
            CHECK((kept.rowwise().norm() - norms).cwiseAbs().maxCoeff() <= row_rounding<T>(kept));
            for (index_t k = 0; k < codes; ++k) {  // the same direction
                CHECK(kept.row(k).normalized().dot(free.row(k).normalized()) >
                      1 - 1e-12 - 40 * unit<T> * unit<T> - 2 * row_rounding<T>(kept) / norms(k));
            }
        }
    }
}

TEST_CASE_TEMPLATE("all limits together, in every combination, are the documented formula in plain loops", T,
                   ISIC_STORAGE) {
    isic_test::random dice(12);
    for (const auto& [codes, width, rank] : constraint_shapes) {
        const auto start = dice.matrix<T>(codes, width);
        const auto gradient = dice.matrix<float>(codes, width);
        const auto anchor = dice.matrix(codes, width, 0.8);
        const dense v = isic_test::random_basis(dice, width, rank);
        for (int which = 0; which < 16; ++which) {
            isic::constraint limits;
            if (which & 1) {
                limits.locked.assign(static_cast<std::size_t>(codes), false);
                limits.locked.front() = true;
            }
            if (which & 2) {
                limits.orthogonal_to = subspace_of(v);
            }
            limits.keep_norms = (which & 4) != 0;
            if (which & 8) {
                limits.within = 0.6;
                limits.anchor = anchor;
            }
            const dense c = to_dense(start);
            dense expected = c;
            for (index_t k = which & 1 ? 1 : 0; k < codes; ++k) {
                std::vector<double> step(static_cast<std::size_t>(width));
                for (index_t j = 0; j < width; ++j) {
                    step[static_cast<std::size_t>(j)] = -static_cast<double>(gradient(k, j));
                    for (index_t r = 0; which & 2 && r < rank; ++r) {
                        for (index_t i = 0; i < width; ++i) {
                            step[static_cast<std::size_t>(j)] +=
                                static_cast<double>(gradient(k, i)) * v(i, r) * v(j, r);
                        }
                    }
                }
                double old_square = 0;
                double square = 0;
                for (index_t j = 0; j < width; ++j) {
                    expected(k, j) += step[static_cast<std::size_t>(j)];
                    old_square += c(k, j) * c(k, j);
                    square += expected(k, j) * expected(k, j);
                }
                double distance = 0;
                for (index_t j = 0; j < width; ++j) {
                    expected(k, j) *= which & 4 ? std::sqrt(old_square / square) : 1;
                    distance += (expected(k, j) - anchor(k, j)) * (expected(k, j) - anchor(k, j));
                }
                for (index_t j = 0; which & 8 && j < width; ++j) {
                    expected(k, j) =
                        anchor(k, j) + (expected(k, j) - anchor(k, j)) * std::min(1.0, 0.6 / std::sqrt(distance));
                }
            }
            isic::sgd_state state;
            auto codes_now = start;
            isic::sgd_update(codes_now, gradient, state, {.rate = 1}, limits);
            CHECK((to_dense(codes_now) - expected).cwiseAbs().maxCoeff() <= row_rounding<T>(expected));
        }
    }
}

TEST_CASE("around a projected codebook both limits hold, and no allowed row is nearer to where the step went") {
    for (const std::uint64_t seed : {1, 2, 3, 4}) {
        isic_test::random dice(seed);
        const dense v = isic_test::random_basis(dice, 6, 2);
        const dense raw = to_dense(dice.matrix(5, 6));
        const dense start = raw - raw * v * v.transpose();
        const auto gradient = dice.matrix(5, 6, 2.0);
        const double radius = 0.7;
        auto codes = from_dense(start);
        isic::sgd_state state;
        isic::sgd_update(codes, gradient, state, {.rate = 1},
                         {.orthogonal_to = subspace_of(v), .within = radius, .anchor = from_dense(start)});
        const dense wanted = start - to_dense(gradient);
        const dense got = to_dense(codes);
        CHECK(isic_test::leak(got, v) < 1e-14);
        CHECK(largest_row(got - start) <= radius * (1 + 1e-14));
        CHECK(isic_test::leak(wanted, v) > 0.05);
        CHECK(largest_row(wanted - start) > radius);
        for (int attempt = 0; attempt < 300; ++attempt) {
            dense other = to_dense(dice.matrix(5, 6));
            other -= other * v * v.transpose();
            for (index_t k = 0; k < 5; ++k) {
                const Eigen::RowVectorXd feasible = start.row(k) + other.row(k).normalized() * radius * dice.uniform();
                CHECK((feasible - wanted.row(k)).norm() > (got.row(k) - wanted.row(k)).norm());
            }
        }

        // Around anchors that were not projected, the radius comes last and pulls the harm back in.
        const dense harmful = start + 3 * dense::Ones(5, 1) * v.col(0).transpose();
        auto pulled = from_dense(start);
        isic::sgd_state fresh;
        isic::sgd_update(pulled, gradient, fresh, {.rate = 1},
                         {.orthogonal_to = subspace_of(v), .within = radius, .anchor = from_dense(harmful)});
        CHECK(isic_test::leak(to_dense(pulled), v) > 0.1);
    }
}

TEST_CASE("limits that do not fit are typed errors, and nothing is written") {
    isic_test::random dice(13);
    const auto start = dice.matrix<float>(5, 4);
    const dense v = isic_test::random_basis(dice, 4, 2);
    const auto refused = [&]<class Error>(std::type_identity<Error>, const isic::constraint& limits,
                                          std::initializer_list<std::string_view> words) {
        check_throws<Error>("anywhere", [&] { isic::detail::check("anywhere", limits, 5, 4); }, words);
        for (const auto& update : all_updates<float>()) {
            auto codes = start;
            check_throws<Error>(std::string(update.name) + "_update", [&] { update.step(codes, 1, limits); }, words);
            CHECK(bytes_of(codes) == bytes_of(start));
        }
    };
    const std::type_identity<isic::shape_error> shape;
    const std::type_identity<isic::value_error> value;
    const std::type_identity<isic::numeric_error> numeric;
    refused(shape, {.locked = {true}}, {"locked", "got 1"});
    refused(value, {.execution = {.threads = -1}}, {"threads >= 0", "got -1"});
    refused(shape, {.orthogonal_to = subspace_of(isic_test::random_basis(dice, 5, 2))}, {"orthogonal_to", "got 5"});
    refused(value, {.orthogonal_to = subspace_of(1.01 * v)}, {"orthonormal"});
    refused(numeric, {.orthogonal_to = subspace_of(not_a_number * v)}, {"basis"});
    for (const double radius : {0.0, -1.0, not_a_number}) {
        refused(value, {.within = radius, .anchor = dice.matrix(5, 4)}, {"within"});
    }
    refused(shape, {.within = 1}, {"anchor", "got 0"});
    refused(shape, {.within = 1, .anchor = dice.matrix(4, 4)}, {"anchor", "got 4"});
    refused(shape, {.within = 1, .anchor = dice.matrix(5, 3)}, {"anchor", "got 3"});
    auto anchor = dice.matrix(5, 4);
    anchor(4, 1) = not_a_number;
    refused(numeric, {.within = 1, .anchor = anchor}, {"anchor", "row 4, column 1"});
    isic::detail::check("anywhere", isic::constraint{.within = infinity, .anchor = anchor}, 5,
                        4);  // not needed, not read
    isic::detail::check("anywhere", isic::constraint{}, 5, 4);
}
