// SPDX-License-Identifier: Apache-2.0
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::check_throws;

namespace {

template <class T>
std::vector<std::int64_t> found_on_device(const isic::cuda_backend& gpu, const isic::matrix<T>& vectors,
                                          const isic::matrix<T>& codes, isic::metric metric = isic::metric::l2,
                                          std::span<const index_t> padding = {}) {
    const auto book = isic::upload(gpu, codes);
    const isic::device_code_index index(gpu, book, metric, padding);
    return isic_test::ids_on(gpu, index.nearest(isic::upload(gpu, vectors)));
}

template <class T>
void check_as_on_cpu(const isic::cuda_backend& gpu, const isic::matrix<T>& vectors, const isic::matrix<T>& codes,
                     std::span<const index_t> padding = {}) {
    const std::vector<index_t> expected = isic::nearest_codes(vectors, codes, isic::metric::l2, padding);
    const std::vector<std::int64_t> found = found_on_device(gpu, vectors, codes, isic::metric::l2, padding);
    CHECK(std::ranges::equal(found, expected));
}

}  // namespace

TEST_CASE_TEMPLATE("an index finds the CPU's codes, whatever the width, over more codes than one part", T,
                   ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(71);
    for (const auto& [n, K, d] : {std::tuple<index_t, index_t, index_t>{1, 1, 1},
                                  {130, 129, 3},
                                  {150, 300, 4},
                                  {70, 1000, 8},
                                  {129, 260, 9},
                                  {60, 400, 16},
                                  {140, 270, 17},
                                  {20, 2400, 3},
                                  {12, 2500, 8},
                                  {9, 2400, 17},
                                  {200, 1200, 20},
                                  {65, 140, 31},
                                  {33, 500, 33},
                                  {20, 150, 100},
                                  {9, 300, 256}}) {
        CAPTURE(n);
        CAPTURE(d);
        check_as_on_cpu(gpu, r.matrix<T>(n, d), r.matrix<T>(K, d));
    }
}

TEST_CASE("ties go to the lowest id, and near ties beyond float32 to the nearest") {
    isic::cuda_backend gpu;
    isic_test::random r(72);
    for (const index_t d : {2, 8, 12, 24, 70}) {
        CAPTURE(d);
        auto codes = r.matrix<float>(400, d);
        for (index_t k = 7; k < 400; k += 13) {  // each is there many times, in this group and in others
            std::ranges::copy(codes.row(k % 5), codes.row(k).begin());
        }
        check_as_on_cpu(gpu, r.matrix<float>(150, d), codes);
        check_as_on_cpu(gpu, codes, codes);
        // The same but for a last place, in another part: as far apart as float32 can see, and no further.
        auto twins = r.matrix<float>(400, d);
        for (index_t k = 0; k < 40; ++k) {
            std::ranges::copy(twins.row(k), twins.row(360 + k).begin());
            float& x = twins(360 + k, k % d);
            x = std::nextafter(x, k % 2 == 0 ? 100.0F : -100.0F);
        }
        check_as_on_cpu(gpu, twins, twins);
        check_as_on_cpu(gpu, r.matrix<float>(600, d, 3), twins);
        // Steps of a last place from one vector: scores in float32 cannot tell these apart, distances can.
        auto close = isic::matrix<float>(300, d);
        auto near = isic::matrix<float>(80, d);
        const auto middle = r.matrix<float>(1, d);
        const auto draw = [&](isic::matrix<float>& m) {
            for (index_t k = 0; k < m.rows(); ++k) {
                for (index_t c = 0; c < d; ++c) {
                    m(k, c) = middle(0, c) * (1.0F + 1e-6F * static_cast<float>(r.normal()));
                }
            }
        };
        draw(close);
        draw(near);
        std::ranges::fill(close.row(200), 50.0F);  // so that what is near is far from the mean
        check_as_on_cpu(gpu, near, close);
    }
}

TEST_CASE("values whose scores overflow float32 are told apart in float64") {
    isic::cuda_backend gpu;
    isic_test::random r(73);
    for (const index_t d : {3, 8, 20}) {
        CAPTURE(d);
        check_as_on_cpu(gpu, r.matrix<float>(70, d, 1e19), r.matrix<float>(150, d, 1e19));
        check_as_on_cpu(gpu, r.matrix<float>(70, d, 3e37), r.matrix<float>(150, d, 3e37));
        check_as_on_cpu(gpu, r.matrix<double>(70, d, 1e150), r.matrix<double>(150, d, 1e150));
        check_as_on_cpu(gpu, r.matrix<double>(20, d, 1e-150), r.matrix<double>(30, d, 1e-150));
        check_as_on_cpu(gpu, r.matrix<double>(20, d, 1e200),
                        r.matrix<double>(30, d, 1e200));  // where squares do not fit float64
        check_as_on_cpu(gpu, r.matrix<double>(20, d, 1e-200), r.matrix<double>(30, d, 1e-200));
        const auto small = r.matrix<double>(30, d, 1e-200);
        check_as_on_cpu(gpu, small, small);
        auto with_giant = r.matrix<float>(150, d);
        std::ranges::fill(with_giant.row(149), 1e20F);
        check_as_on_cpu(gpu, r.matrix<float>(70, d), with_giant);
        auto shifted = r.matrix<float>(150, d, 1e-3);
        for (index_t k = 0; k < 150; ++k) {
            std::ranges::for_each(shifted.row(k), [](float& x) { x += 1000; });
        }
        check_as_on_cpu(gpu, shifted, shifted);
    }
}

TEST_CASE("padding never wins, at the front, at the end of a panel or but one") {
    isic::cuda_backend gpu;
    isic_test::random r(74);
    auto codes = r.matrix<float>(140, 8);
    for (index_t k = 100; k < 139; ++k) {
        std::ranges::fill(codes.row(k), std::numeric_limits<float>::quiet_NaN());
    }
    std::vector<index_t> padding{0, 1, 127, 128, 139};
    for (index_t k = 100; k < 139; ++k) {
        if (k != 127 && k != 128) {
            padding.push_back(k);
        }
    }
    const auto vectors = r.matrix<float>(50, 8);
    check_as_on_cpu(gpu, vectors, codes, padding);
    std::vector<index_t> all_but_77;
    for (index_t k = 0; k < 140; ++k) {
        if (k != 77) {
            all_but_77.push_back(k);
        }
    }
    for (const std::int64_t id : found_on_device(gpu, vectors, codes, isic::metric::l2, all_but_77)) {
        CHECK(id == 77);
    }
}

TEST_CASE(
    "an index serves many calls, asks no one to wait, and answers vectors that are not finite with the first code") {
    isic::cuda_backend gpu;
    isic_test::random r(75);
    const auto codes = r.matrix<float>(50, 6);
    const auto book = isic::upload(gpu, codes);
    const std::vector<index_t> padding{0};
    const isic::device_code_index index(gpu, book, isic::metric::l2, padding);
    for (int call = 0; call < 3; ++call) {
        auto vectors = r.matrix<float>(30, 6);
        const auto expected = isic::nearest_codes(vectors, codes, isic::metric::l2, padding);
        vectors(4, 5) = std::numeric_limits<float>::quiet_NaN();
        vectors(9, 0) = std::numeric_limits<float>::infinity();
        const auto found = isic_test::ids_on(gpu, index.nearest(isic::upload(gpu, vectors)));
        for (std::size_t i = 0; i < found.size(); ++i) {
            CHECK(found[i] == (i == 4 || i == 9 ? 1 : expected[i]));
        }
    }
    CHECK(isic_test::ids_on(gpu, index.nearest(isic::device_matrix<float>(gpu, 0, 6))).empty());
    const auto half = r.matrix<isic::half>(20, 6);
    const auto found = isic_test::ids_on(gpu, index.nearest(isic::upload(gpu, half)));  // of another storage
    CHECK(std::ranges::equal(found, isic::nearest_codes(half, codes, isic::metric::l2, padding)));
    check_throws<isic::shape_error>("nearest_codes", [&] { index.nearest(isic::device_matrix<float>(gpu, 3, 5)); },
                                    {"6", "5"});
    check_throws<isic::numeric_error>("nearest_codes",
                                      [&] {
                                          auto bad = codes;
                                          bad(3, 1) = std::numeric_limits<float>::infinity();
                                          const isic::device_code_index refused(gpu, isic::upload(gpu, bad));
                                      },
                                      {"row 3", "column 1"});
}

TEST_CASE_TEMPLATE("nearest codes are the CPU's, ties to the lowest id, padding never", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(21);
    for (const auto& [n, K, d] :
         {std::tuple<index_t, index_t, index_t>{1, 1, 1}, {70, 65, 4}, {130, 200, 8}, {65, 300, 21}}) {
        CAPTURE(d);
        auto codes = r.matrix<T>(K, d);
        const auto vectors = r.matrix<T>(n, d);
        for (index_t k = 1; k < K; k += 3) {  // equal codes
            std::ranges::copy(codes.row(0), codes.row(k).begin());
        }
        std::vector<index_t> padding;
        if (K > 10) {
            padding = {0, 2, 5};
            codes(2, 0) = static_cast<T>(isic_test::not_a_number);
        }
        const auto device_codes = isic::upload(gpu, codes);
        const auto device_vectors = isic::upload(gpu, vectors);
        for (const auto metric : {isic::metric::l2, isic::metric::cosine}) {
            const std::vector<index_t> expected = isic::nearest_codes(vectors, codes, metric, padding);
            const auto found =
                isic_test::ids_on(gpu, isic::nearest_codes(gpu, device_vectors, device_codes, metric, padding));
            REQUIRE(found.size() == expected.size());
            for (std::size_t i = 0; i < found.size(); ++i) {
                CHECK(found[i] == expected[i]);
            }
        }
    }
}

TEST_CASE("nearest codes refuse what the CPU refuses") {
    isic::cuda_backend gpu;
    isic_test::random r(22);
    const auto codes = isic::upload(gpu, r.matrix<float>(4, 3));
    const auto vectors = isic::upload(gpu, r.matrix<float>(5, 3));
    check_throws<isic::shape_error>("nearest_codes",
                                    [&] { isic::nearest_codes(gpu, isic::upload(gpu, r.matrix<float>(5, 2)), codes); },
                                    {"3", "2"});
    const std::vector<index_t> all{0, 1, 2, 3};
    check_throws<isic::value_error>(
        "nearest_codes", [&] { isic::nearest_codes(gpu, vectors, codes, isic::metric::l2, all); }, {"padding only"});
    auto bad = r.matrix<float>(5, 3);
    bad(4, 2) = std::numeric_limits<float>::infinity();
    check_throws<isic::numeric_error>("nearest_codes", [&] { isic::nearest_codes(gpu, isic::upload(gpu, bad), codes); },
                                      {"vectors", "row 4", "column 2"});
    check_throws<isic::shape_error>("nearest_codes",
                                    [&] { isic::nearest_codes(gpu, vectors, isic::device_matrix<float>(gpu, 0, 3)); },
                                    {"codebook"});
    CHECK(isic::nearest_codes(gpu, isic::device_matrix<float>(gpu, 0, 3), codes).empty());
}
