// SPDX-License-Identifier: Apache-2.0
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;

namespace {

template <class T>
using arithmetic = isic::fused::arithmetic_of<T>;

template <class A, class Values>
isic::matrix<A> row_of(const Values& values) {
    isic::matrix<A> out(1, static_cast<index_t>(values.size()));
    std::ranges::transform(values, out.data(), [](auto x) { return static_cast<A>(x); });
    return out;
}

isic::subspace drawn(isic_test::random& r, index_t d, index_t rank) {
    return rank == 0 ? isic::subspace{isic::matrix<double>(d, 0), {}, {}, {}} : isic::span_of(r.matrix(d, rank));
}

/// c + s (t - c) V W V^T in float64, of the values that the kernels are given.
template <class T, class A>
isic::matrix<double> projected(const isic::matrix<T>& codes, const isic::matrix<double>& basis,
                               const isic::matrix<A>& strength, const isic::matrix<A>& center,
                               const isic::matrix<A>& weights) {
    isic::matrix<double> out = isic::detail::to_double(codes.view());
    for (index_t k = 0; k < codes.rows(); ++k) {
        const isic::matrix<double> row = isic::detail::to_double(codes.view());
        for (index_t j = 0; j < basis.cols(); ++j) {
            double product = 0;
            for (index_t c = 0; c < codes.cols(); ++c) {
                product += (static_cast<double>(center(0, c)) - row(k, c)) * basis(c, j);
            }
            product *= static_cast<double>(strength(0, k)) * static_cast<double>(weights(0, j));
            for (index_t c = 0; c < codes.cols(); ++c) {
                out(k, c) += product * basis(c, j);
            }
        }
    }
    return out;
}

/// The most by which a result is off, in roundings of T at the size of its largest values.
template <class T>
double roundings_off(const isic::matrix<T>& found, const isic::matrix<double>& expected) {
    double largest = 1;
    for (index_t k = 0; k < expected.rows(); ++k) {
        for (const double x : expected.row(k)) {
            largest = std::max(largest, std::abs(x));
        }
    }
    return isic_test::largest_difference(isic::detail::to_double(found.view()), expected) /
           (isic_test::unit<T> * largest);
}

/// What sums of d products in A, rounded to T, may be off by.
template <class T>
double allowed(index_t d) {
    return 1 + (16 + std::sqrt(static_cast<double>(d))) * isic_test::unit<arithmetic<T>> / isic_test::unit<T>;
}

}  // namespace

TEST_CASE_TEMPLATE("fused::project_out on a device is the formula, of every width, rank and stride", T, ISIC_STORAGE) {
    using A = arithmetic<T>;
    isic::cuda_backend gpu;
    isic_test::random r(61);
    for (const index_t d : {1, 3, 4, 5, 8, 9, 31, 32, 33, 64, 100, 128, 130, 256, 300, 600, 1024, 1030}) {
        for (const index_t rank : {index_t{1}, index_t{2}, index_t{8}, index_t{16}, index_t{17}, d}) {
            if (rank > d || (rank > 17 && d > 33)) {
                continue;
            }
            CAPTURE(d);
            CAPTURE(rank);
            const index_t K = d > 64 ? 3 : 37;
            const index_t gap = rank % 2 == 0 ? 4 : rank == 17 ? 3 : 0;
            const auto codes = r.matrix<T>(K, d);
            const auto harm = drawn(r, d, rank);
            auto strength = row_of<A>(r.numbers(K));
            strength(0, K / 2) = 0;
            auto center = row_of<A>(r.numbers(d));
            std::ranges::for_each(center.row(0), [](A& x) { x = x * 8 + 4; });
            const auto weights = row_of<A>(r.numbers(rank));
            isic_test::strided<T> host(codes, gap);
            auto memory = isic::upload(gpu, isic::matrix_view<T>(host.span().data() - gap, 1, gap + K * (d + gap)));
            const isic::device_span<T> rows(memory.data() + gap, K, d, d + gap);
            const auto s = isic::upload(gpu, strength);
            const auto t = isic::upload(gpu, center);
            const auto w = isic::upload(gpu, weights);
            const isic::fused::device_basis<A> basis(gpu, harm);
            CHECK(basis.rank() == rank);
            CHECK(basis.width() == d);
            isic::fused::project_out(gpu, rows, basis, {.strength = s.view(), .center = t.view(), .weights = w.view()});
            const auto found = isic::download(gpu, rows);
            const auto expected = projected(codes, harm.basis, strength, center, weights);
            CHECK(roundings_off(found, expected) <= allowed<T>(d));
            CHECK(bytes_of(found) != bytes_of(codes));
            CHECK(bytes_of(found.row(K / 2)) == bytes_of(codes.row(K / 2)));
            isic::download<T>(gpu, memory.view(), host.span().data() - gap, memory.cols());
            CHECK(host.gaps_intact());
        }
    }
}

TEST_CASE_TEMPLATE(
    "fused::project_out on a device takes the subspace out, with more directions than fit at a time, over all blocks",
    T, float, double) {
    isic::cuda_backend gpu;
    isic_test::random r(62);
    for (const auto& [K, d, rank] :
         {std::tuple<index_t, index_t, index_t>{5, 256, 100}, {2, 1024, 40}, {1500, 8, 3}, {3, 1100, 5}}) {
        CAPTURE(d);
        const auto harm = drawn(r, d, rank);
        const auto codes = r.matrix<T>(K, d);
        auto device = isic::upload(gpu, codes);
        CHECK(isic::leakage(gpu, device, harm).total > 0.05);
        isic::fused::project_out(gpu, device, isic::fused::device_basis<T>(gpu, harm));
        CHECK(isic::leakage(gpu, device, harm).total < 32 * isic_test::unit<T>);
        isic::fused::project_out(gpu, device, isic::fused::device_basis<T>(gpu, harm), {.uniform = 0});
        const auto found = isic_test::bytes_on(gpu, device);
        isic::fused::project_out(gpu, device, isic::fused::device_basis<T>(), {.uniform = 1});
        CHECK(isic_test::bytes_on(gpu, device) == found);  // neither strength 0 nor no direction changes a byte
    }
}

TEST_CASE_TEMPLATE("NaN and infinity stay in their rows on a device", T, ISIC_STORAGE) {
    using A = arithmetic<T>;
    isic::cuda_backend gpu;
    isic_test::random r(63);
    for (const index_t d : {4, 7, 32, 33, 256, 1030}) {
        CAPTURE(d);
        const isic::fused::device_basis<A> basis(gpu, drawn(r, d, 3));
        const auto whole = r.matrix<T>(9, d);
        auto broken = whole;
        broken(4, 2) = static_cast<T>(isic_test::not_a_number);
        broken(7, 0) = static_cast<T>(isic_test::infinity);
        auto a = isic::upload(gpu, whole);
        auto b = isic::upload(gpu, broken);
        isic::fused::project_out(gpu, a, basis);
        isic::fused::project_out(gpu, b, basis);
        const auto found = isic::download(gpu, b);
        const auto expected = isic::download(gpu, a);
        for (index_t k = 0; k < 9; ++k) {
            CHECK((bytes_of(found.row(k)) == bytes_of(expected.row(k))) == (k != 4 && k != 7));
        }
        CHECK(std::isnan(static_cast<float>(found(4, 3))));
        auto kept = isic::upload(gpu, broken);
        isic::fused::project_out(gpu, kept, basis, {.uniform = 0});
        CHECK(isic_test::bytes_on(gpu, kept) == bytes_of(broken));
    }
}

TEST_CASE_TEMPLATE("fused::adam_update on a device does what adam_update does in float64", T, ISIC_STORAGE) {
    using A = arithmetic<T>;
    isic::cuda_backend gpu;
    isic_test::random r(64);
    for (const auto& [K, d, rank] : {std::tuple<index_t, index_t, index_t>{1, 1, 0},
                                     {37, 3, 1},
                                     {70, 8, 3},
                                     {40, 5, 4},
                                     {33, 32, 8},
                                     {20, 33, 5},
                                     {9, 256, 16},
                                     {5, 600, 17},
                                     {3, 1030, 2}}) {
        CAPTURE(d);
        const auto harm = drawn(r, d, rank);
        const auto codes = r.matrix<T>(K, d);
        auto expected = isic::detail::to_double(codes.view());
        auto device = isic::upload(gpu, codes);
        isic::adam_state slow;
        isic::device_adam_state<A> state;
        isic::constraint limits;
        limits.orthogonal_to = harm;
        limits.locked.assign(static_cast<std::size_t>(K), false);
        limits.locked[static_cast<std::size_t>(K / 2)] = K > 1;
        const std::vector<std::uint8_t> marks(limits.locked.begin(), limits.locked.end());
        const auto locked = isic::upload_marks(gpu, marks);
        const isic::fused::device_basis<A> basis(gpu, harm);
        for (int step = 0; step < 3; ++step) {
            const auto gradient = r.matrix<T>(K, d);
            isic::fused::adam_update(gpu, device, isic::upload(gpu, gradient), state, {.rate = 0.05},
                                     {.orthogonal_to = basis, .locked = locked.view()});
            isic::adam_update(expected, gradient, slow, {.rate = 0.05}, limits);
        }
        CHECK(state.steps == 3);
        const auto found = isic::download(gpu, device);
        CHECK(roundings_off(found, expected) <= (sizeof(T) == 8   ? 1e5
                                                 : sizeof(T) == 4 ? 4000.0
                                                                  : 4.0));  // small moments are divided by
        CHECK(roundings_off(codes, expected) > 10.0);
        CHECK((bytes_of(found.row(K / 2)) == bytes_of(codes.row(K / 2))) == (K > 1));
        const auto mean = isic::download(gpu, state.mean);
        for (index_t k = 0; k < K; ++k) {
            for (index_t c = 0; c < d; ++c) {  // the state of a locked row stays
                const double m = K > 1 && k == K / 2 ? 0.0 : slow.mean(k, c);
                CHECK(std::abs(static_cast<double>(mean(k, c)) - m) < 16 * isic_test::unit<A>);
            }
        }
    }
}

TEST_CASE_TEMPLATE("a step of fused::adam_update on a device is the rate at first, and does not leak", T, float,
                   double) {
    isic::cuda_backend gpu;
    isic_test::random r(65);
    auto codes = isic::upload(gpu, isic::matrix<T>(3, 9));
    isic::device_adam_state<T> state;
    const isic::fused::device_basis<T> none;
    isic::fused::adam_update(gpu, codes, isic::upload(gpu, isic::matrix<T>(3, 9, T(2))), state,
                             {.rate = 0.25, .epsilon = 1e-30}, {.orthogonal_to = none});
    const auto moved = isic::download(gpu, codes);
    for (const T x : moved.row(2)) {
        CHECK(std::abs(static_cast<double>(x) + 0.25) < 4 * isic_test::unit<T>);
    }
    const auto harm = drawn(r, 24, 4);
    const auto leak_of_step = [&](const isic::fused::device_basis<T>& basis) {
        auto at_rest = isic::upload(gpu, isic::matrix<T>(40, 24));
        isic::device_adam_state<T> fresh;
        isic::fused::adam_update(gpu, at_rest, isic::upload(gpu, r.matrix<T>(40, 24)), fresh, {.rate = 0.1},
                                 {.orthogonal_to = basis});
        return isic::leakage(gpu, at_rest, harm).total;
    };
    CHECK(leak_of_step(isic::fused::device_basis<T>()) > 0.1);
    CHECK(leak_of_step(isic::fused::device_basis<T>(gpu, harm)) < 16 * isic_test::unit<T>);
}

TEST_CASE_TEMPLATE("fused::ema_update on a device does what ema_update does in float64, the same in every run", T,
                   ISIC_STORAGE) {
    using A = arithmetic<T>;
    isic::cuda_backend gpu;
    isic_test::random r(66);
    for (const auto& [K, d, rank] : {std::tuple<index_t, index_t, index_t>{1, 1, 0},
                                     {30, 3, 1},
                                     {50, 8, 3},
                                     {33, 32, 8},
                                     {20, 33, 5},
                                     {9, 256, 16},
                                     {3, 1030, 2}}) {
        CAPTURE(d);
        const auto harm = drawn(r, d, rank);
        const auto codes = r.matrix<T>(K, d);
        auto expected = isic::detail::to_double(codes.view());
        auto device = isic::upload(gpu, codes);
        auto again = isic::upload(gpu, codes);
        isic::ema_state slow;
        isic::device_ema_state<A> state;
        isic::device_ema_state<A> other;
        isic::constraint limits;
        limits.orthogonal_to = harm;
        limits.locked.assign(static_cast<std::size_t>(K), false);
        limits.locked[0] = K > 1;
        const std::vector<std::uint8_t> marks(limits.locked.begin(), limits.locked.end());
        const auto locked = isic::upload_marks(gpu, marks);
        const isic::fused::device_basis<A> basis(gpu, harm);
        for (int step = 0; step < 3; ++step) {
            const auto vectors = r.matrix<T>(3 * K, d);
            auto ids = r.ids<std::int32_t>(3 * K, K);
            isic::ema_update(expected, slow, isic::assign(vectors, ids, K), 0.5, limits);
            const auto z = isic::upload(gpu, vectors);
            const auto narrow = isic::upload_ids(gpu, ids);
            const auto wide = isic::upload_ids(gpu, std::vector<std::int64_t>(ids.begin(), ids.end()));
            isic::fused::ema_update(gpu, device, z, narrow, state, 0.5,
                                    {.orthogonal_to = basis, .locked = locked.view()});
            isic::fused::ema_update(gpu, again, z, wide, other, 0.5, {.orthogonal_to = basis, .locked = locked.view()});
        }
        const auto found = isic::download(gpu, device);
        CHECK(roundings_off(found, expected) <= 4 * allowed<T>(d) + (sizeof(T) == 2 ? 4 : 0));
        CHECK(roundings_off(codes, expected) > 10.0 * allowed<T>(d) * (K > 1 ? 1 : 0));
        CHECK((bytes_of(found.row(0)) == bytes_of(codes.row(0))) == (K > 1));
        CHECK(isic_test::bytes_on(gpu, again) == bytes_of(found));
        const auto counts = isic::download(gpu, state.counts);
        for (index_t k = 0; k < K; ++k) {
            CHECK(static_cast<double>(counts(0, k)) ==
                  doctest::Approx(slow.counts[static_cast<std::size_t>(k)]).epsilon(1e-6));
        }
        CHECK(roundings_off(isic::download(gpu, state.sums), slow.sums) < 64);  // the state of a locked row goes on
    }
}

TEST_CASE_TEMPLATE("a code whose count has faded away stays where it is", T, float, double) {
    isic::cuda_backend gpu;
    isic_test::random r(69);
    for (const index_t d : {8, 40, 41}) {
        CAPTURE(d);
        const auto codes = r.matrix<T>(3, d);
        isic::matrix<T> counts(1, 3, std::numeric_limits<T>::denorm_min());
        counts(0, 1) = std::numeric_limits<T>::min() / 8;
        counts(0, 2) = 1;
        auto sums = codes;
        for (index_t k = 0; k < 3; ++k) {
            std::ranges::for_each(sums.row(k), [&](T& x) { x *= counts(0, k); });
        }
        auto device = isic::upload(gpu, codes);
        isic::device_ema_state<T> state{isic::upload(gpu, counts), isic::upload(gpu, sums)};
        const isic::fused::device_basis<T> none;
        isic::fused::ema_update(gpu, device, isic::device_matrix<T>(gpu, 0, d),
                                isic::upload_ids(gpu, std::vector<std::int32_t>()), state, 0.5,
                                {.orthogonal_to = none});
        CHECK(roundings_off(isic::download(gpu, device), isic::detail::to_double(codes.view())) < 4);
        const auto left = isic::download(gpu, state.counts);
        CHECK(left(0, 0) == 0);
        CHECK(left(0, 1) == 0);
        CHECK(left(0, 2) == T(0.5));
        const auto kept = isic::download(gpu, state.sums);
        CHECK(std::ranges::all_of(kept.row(1), [](T x) { return x == 0; }));
        CHECK(kept(2, 0) == sums(2, 0) / 2);
    }
}

TEST_CASE("codes without vectors fade, ids that are none and no vectors at all are left out") {
    isic::cuda_backend gpu;
    isic_test::random r(67);
    const auto codes = r.matrix<float>(4, 8);
    const isic::fused::device_basis<float> none;
    auto device = isic::upload(gpu, codes);
    isic::device_ema_state<float> state;
    const std::vector<std::int32_t> ids{1, 4, -1, 1};
    isic::fused::ema_update(gpu, device, isic::upload(gpu, isic::matrix<float>(4, 8, 2.0F)), isic::upload_ids(gpu, ids),
                            state, 0.5, {.orthogonal_to = none});
    const auto counts = isic::download(gpu, state.counts);
    CHECK(counts(0, 0) == 0.5F);
    CHECK(counts(0, 1) == 1.5F);
    CHECK(counts(0, 3) == 0.5F);
    const auto found = isic::download(gpu, device);
    CHECK(isic_test::largest_difference(isic::detail::to_double(found.view()), isic::detail::to_double(codes.view())) >
          0.1);
    CHECK(std::abs(found(0, 3) - codes(0, 3)) < 1e-6F);
    CHECK(std::abs(found(1, 3) - (codes(1, 3) * 0.5F + 2.0F) / 1.5F) < 1e-6F);
    const std::vector<std::int32_t> no_ids;
    isic::fused::ema_update(gpu, device, isic::device_matrix<float>(gpu, 0, 8), isic::upload_ids(gpu, no_ids), state,
                            0.5, {.orthogonal_to = none});
    CHECK(isic::download(gpu, state.counts)(0, 1) == 0.75F);
    CHECK(isic_test::largest_difference(isic::detail::to_double(isic::download(gpu, device).view()),
                                        isic::detail::to_double(found.view())) < 1e-6);
}

TEST_CASE("the inner loops on a device refuse what does not fit, and write nothing") {
    isic::cuda_backend gpu;
    isic_test::random r(68);
    const auto harm = drawn(r, 6, 2);
    const isic::fused::device_basis<float> basis(gpu, harm);
    const auto codes = r.matrix<float>(4, 6);
    auto device = isic::upload(gpu, codes);
    const auto three = isic::upload(gpu, isic::matrix<float>(1, 3));
    check_throws<isic::shape_error>(
        "fused::project_out",
        [&] { isic::fused::project_out(gpu, device, isic::fused::device_basis<float>(gpu, drawn(r, 5, 2))); },
        {"6", "5"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(gpu, device, basis, {.strength = three.view()}); },
                                    {"strength", "4", "3"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(gpu, device, basis, {.center = three.view()}); },
                                    {"center", "6", "3"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(gpu, device, basis, {.weights = three.view()}); },
                                    {"weights", "2", "3"});
    const isic::device_view<float> column(device.data(), 4, 1, 6);
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(gpu, device, basis, {.strength = column}); },
                                    {"without gaps", "6"});
    auto wide = isic::device_matrix<float>(gpu, 1, 4097);
    check_throws<isic::value_error>(
        "fused::project_out",
        [&] { isic::fused::project_out(gpu, wide, isic::fused::device_basis<float>(gpu, drawn(r, 4097, 1))); },
        {"4096", "4097"});
    isic::device_adam_state<float> adam;
    const auto gradient = isic::upload(gpu, codes);
    check_throws<isic::shape_error>("fused::adam_update",
                                    [&] {
                                        isic::fused::adam_update(gpu, device, isic::upload(gpu, r.matrix<float>(3, 6)),
                                                                 adam, {}, {.orthogonal_to = basis});
                                    },
                                    {"4", "3"});
    check_throws<isic::value_error>(
        "fused::adam_update",
        [&] { isic::fused::adam_update(gpu, device, gradient, adam, {.rate = 0}, {.orthogonal_to = basis}); },
        {"rate > 0"});
    check_throws<isic::value_error>(
        "fused::adam_update",
        [&] { isic::fused::adam_update(gpu, device, device, adam, {}, {.orthogonal_to = basis}); }, {"overlapping"});
    const auto marks = isic::upload_marks(gpu, std::vector<std::uint8_t>(3));
    check_throws<isic::shape_error>("fused::adam_update",
                                    [&] {
                                        isic::fused::adam_update(gpu, device, gradient, adam, {},
                                                                 {.orthogonal_to = basis, .locked = marks.view()});
                                    },
                                    {"locked", "4", "3"});
    check_throws<isic::shape_error>("fused::adam_update",
                                    [&] {
                                        isic::fused::adam_update(gpu, isic::device_matrix<float>(gpu, 0, 6),
                                                                 isic::device_matrix<float>(gpu, 0, 6), adam, {},
                                                                 {.orthogonal_to = basis});
                                    },
                                    {"0 x 6"});
    CHECK(adam.steps == 0);
    CHECK(adam.mean.empty());
    isic::device_ema_state<float> ema;
    const auto ema_with = [&](const std::vector<int>& ids, double decay) {
        isic::fused::ema_update(gpu, device, isic::upload(gpu, r.matrix<float>(2, 6)), isic::upload_ids(gpu, ids), ema,
                                decay, {.orthogonal_to = basis});
    };
    check_throws<isic::shape_error>("fused::ema_update", [&] { ema_with({0}, 0.5); }, {"ids", "2", "1"});
    check_throws<isic::value_error>("fused::ema_update", [&] { ema_with({0, 1}, 1.0); }, {"decay in [0, 1)"});
    CHECK(ema.counts.empty());
    isic::subspace skewed = harm;
    skewed.basis(0, 0) += 0.5;
    check_throws<isic::value_error>("fused::basis", [&] { isic::fused::device_basis<float>(gpu, skewed); },
                                    {"orthonormal"});
    CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
    isic::fused::project_out(gpu, isic::device_matrix<float>(gpu, 0, 6), basis);  // nothing to do
}
