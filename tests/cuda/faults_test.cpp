// SPDX-License-Identifier: Apache-2.0
// Every call of every entry point fails once: a typed error, nothing leaks, the codebook is old or new. Only on the stand-in.
#ifdef ISIC_STAND_IN
#include <functional>

#include <cuda_runtime_api.h>

#include <checks_kernels.hpp>
#include <codebook_kernels.hpp>
#include <isic/subspace.hpp>
#include <metrics_kernels.hpp>

#include "cuda/support.hpp"
#include "support/cuda/stand_in.hpp"

using isic::index_t;

namespace {

/// A fresh stand-in, whose work runs when somebody waits for it or at once.
void begin(bool deferred) {
    stand_in::reset();
    stand_in::control().deferred = deferred;
}

int code_for(const std::string& entry_point) {
    return entry_point.starts_with("cublas") ? 3 : entry_point.starts_with("cusolver") ? 2 : 2;  // all: out of memory
}

/// Runs `work` once to count its calls, then again with each call failing; `unchanged` checks its operands.
void fail_every_call(const std::function<void()>& work) {
    for (const bool deferred : {true, false}) {
        begin(deferred);
        work();
        CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
        const auto calls = stand_in::control().calls;
        int injected = 0;
        for (const auto& [name, count] : calls) {
            if (name.starts_with("cudaGetError") || name.starts_with("cublasGetStatus") || name == "cudaGetLastError" ||
                name == "cudaPeekAtLastError") {
                continue;  // cannot fail
            }
            const bool only_on_the_way_out =
                name.find("Destroy") != std::string::npos || name.find("Free") != std::string::npos;
            for (int nth = 1; nth <= count; ++nth) {
                CAPTURE(name);
                CAPTURE(nth);
                begin(deferred);
                stand_in::control().faults[name] = {.nth = nth, .code = code_for(name)};
                ++injected;
                bool threw = false;
                try {
                    work();
                } catch (const isic::cuda_error& e) {
                    threw = true;
                    CHECK(e.failure() == isic::cuda_failure::out_of_memory);
                    CHECK(std::string(e.what()).starts_with("isic::"));
                }
                // Cleaning up must not throw: what asks for the current device in a destructor, or its last wait, may fail.
                const bool may_be_quiet =
                    only_on_the_way_out || name == "cudaGetDevice" || name == "cudaStreamSynchronize";
                CHECK((threw || may_be_quiet));
                stand_in::control().faults.clear();
                if (!only_on_the_way_out) {
                    CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
                }
            }
        }
        CHECK(injected > 20);
    }
    stand_in::reset();
}

}  // namespace

TEST_CASE("fitting: every failing call is one typed error and leaks nothing") {
    isic_test::random r(41);
    const auto codes = r.matrix<float>(20, 6);
    const auto h = r.ids<std::int32_t>(40, 20);
    const auto s = r.ids<std::int32_t>(40, 20);
    for (const auto solver : {isic::eigen_solver::syevd, isic::eigen_solver::jacobi, isic::eigen_solver::randomised}) {
        CAPTURE(isic::to_string(solver));
        fail_every_call([&] {
            isic::cuda_backend gpu;
            const auto book = isic::upload(gpu, codes);
            isic::device_accumulator pairs(gpu, book.view());
            pairs.add(isic::upload_ids(gpu, h), isic::upload_ids(gpu, s));
            const auto fitted = isic::fit_subspace(pairs, {.rank = {.fixed = 1}, .solver = solver});
            const auto usage = pairs.usage();
            CHECK(fitted.subspace.rank() == 1);
            CHECK(usage.safe.size() == 20);
        });
    }
}

TEST_CASE("editing: every failing call leaves the old codebook, and nothing leaks") {
    isic_test::random r(42);
    const auto codes = r.matrix<float>(4, 6);
    const auto harm = isic::span_of(isic_test::from_rows<double>({{1}, {0}, {0}, {0}, {0}, {0}}));
    auto nearly_zero = codes;
    nearly_zero(3, 0) = 100;
    int half_edited = 0;
    fail_every_call([&] {
        isic::cuda_backend gpu;
        auto device = isic::upload(gpu, nearly_zero);
        gpu.synchronize();
        const auto faults = stand_in::control().faults;
        try {
            const auto done = isic::project_out(gpu, device, harm);
            CHECK(done.summary().near_zero == 1);
            CHECK(done.summary().after.total == 0.0);
        } catch (const isic::cuda_error&) {
            stand_in::control().faults.clear();
            half_edited += isic_test::bytes_on(gpu, device) != isic_test::bytes_of(nearly_zero) ? 1 : 0;
            throw;
        }
    });
    CHECK(half_edited == 0);
}

TEST_CASE("updates: every failing call is one typed error and leaks nothing") {
    isic_test::random r(43);
    const auto codes = r.matrix<float>(3, 6);
    const auto vectors = r.matrix<float>(6, 6);
    const auto gradient = r.matrix<float>(3, 6);
    isic::constraint limits;
    limits.orthogonal_to = isic::span_of(r.matrix(6, 2));
    limits.locked.assign(3, false);
    limits.within = 1;
    limits.anchor = isic::detail::to_double(codes.view());
    const auto ids = r.ids<std::int64_t>(6, 3);
    fail_every_call([&] {
        isic::cuda_backend gpu;
        auto device = isic::upload(gpu, codes);
        const auto z = isic::upload(gpu, vectors);
        const isic::device_constraint fence(gpu, limits, 3, 6);
        isic::device_adam_state<float> state;
        isic::adam_update(gpu, device, isic::upload(gpu, gradient), state, {}, fence).get();
        const auto batch = isic::assign(gpu, z, isic::upload_ids(gpu, ids), 3);
        isic::ridge_update(gpu, device, batch, 1.0, fence).get();
        isic::device_ema_state<> ema;
        isic::ema_update(gpu, device, ema, batch, 0.9, fence).get();
    });
}

TEST_CASE("search and metrics: every failing call is one typed error and leaks nothing") {
    isic_test::random r(47);
    const auto codes = r.matrix<float>(3, 6);
    const auto edited = r.matrix<float>(3, 6);
    const auto vectors = r.matrix<float>(6, 6);
    const auto ids = r.ids<std::int64_t>(6, 3);
    fail_every_call([&] {
        isic::cuda_backend gpu;
        const auto before = isic::upload(gpu, codes);
        const auto after = isic::upload(gpu, edited);
        isic::nearest_code_churn(gpu, isic::upload(gpu, vectors), before, after);
        isic::drift(gpu, before, after);
        isic::usage_counts(gpu, isic::upload_ids(gpu, ids), 3);
    });
}

TEST_CASE("inner loops and an index: every failing call is one typed error and leaks nothing") {
    isic_test::random r(46);
    const auto codes = r.matrix<float>(3, 6);
    const auto vectors = r.matrix<float>(6, 6);
    const isic::subspace harm = isic::span_of(r.matrix(6, 2));
    const auto ids = r.ids<std::int64_t>(6, 3);
    fail_every_call([&] {
        isic::cuda_backend gpu;
        auto device = isic::upload(gpu, codes);
        const auto z = isic::upload(gpu, vectors);
        const isic::fused::device_basis<float> basis(gpu, harm);
        isic::fused::project_out(gpu, device, basis);
        isic::device_adam_state<float> adam;
        isic::device_ema_state<float> ema;
        try {
            isic::fused::adam_update(gpu, device, isic::upload(gpu, codes), adam, {}, {.orthogonal_to = basis});
            isic::fused::ema_update(gpu, device, z, isic::upload_ids(gpu, ids), ema, 0.9, {.orthogonal_to = basis});
        } catch (const isic::cuda_error&) {
            CHECK((adam.steps == 0 || !adam.mean.empty()));
            throw;
        }
        const isic::device_code_index index(gpu, device);
        isic::download<std::int64_t>(gpu, index.nearest(z).view(), std::vector<std::int64_t>(6).data(), 6);
    });
}

TEST_CASE("solvers that do not converge or refuse an argument") {
    isic_test::random r(44);
    const auto rows = r.matrix(30, 6);
    for (const auto& [solver, routine] :
         {std::pair{isic::eigen_solver::syevd, "syevd"}, {isic::eigen_solver::jacobi, "gesvdj"}}) {
        for (const int info : {7, -3}) {
            CAPTURE(routine);
            begin(true);
            stand_in::control().info[routine] = info;
            try {
                isic::cuda_backend gpu;
                isic::fit_subspace(gpu, isic::upload(gpu, rows), {.rank = {.fixed = 1}, .solver = solver});
                FAIL("no error");
            } catch (const isic::cuda_error& e) {
                CHECK(e.failure() ==
                      (info > 0 ? isic::cuda_failure::not_converged : isic::cuda_failure::invalid_value));
                CHECK(e.code() == info);
                CHECK(e.library() == "cuSOLVER");
            }
            CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
        }
    }
    stand_in::reset();
}

TEST_CASE("where Jacobi does not converge, the automatic solver is syevd") {
    isic_test::random r(47);
    const auto rows = r.matrix<double>(30, 6);
    for (const bool says_so : {true, false}) {
        begin(true);
        if (says_so) {
            stand_in::control().info["gesvdj"] = 7;
        } else {
            stand_in::control().gesvdj_gives_nan = true;
        }
        {
            isic::cuda_backend gpu;
            const auto device = isic::upload(gpu, rows);
            const auto found = isic::fit_subspace(gpu, device, {.rank = {.fixed = 1}});
            CHECK(found.solver == isic::eigen_solver::syevd);
            const isic::subspace expected = isic::fit_subspace(rows, {.rank = {.fixed = 1}});
            CHECK(isic_test::largest_difference(found.subspace.basis, expected.basis) < 1e-9);
            CHECK_THROWS_AS(
                isic::fit_subspace(gpu, device, {.rank = {.fixed = 1}, .solver = isic::eigen_solver::jacobi}),
                isic::cuda_error);
        }
        CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
    }
    stand_in::reset();
}

TEST_CASE("a backend works on its device, whichever is the current one") {
    begin(true);
    stand_in::control().devices = 2;
    {
        isic::cuda_backend gpu({.device = 1});
        isic_test::random r(48);
        const auto rows = r.matrix<float>(30, 6);
        const auto device = isic::upload(gpu, rows);
        cudaPointerAttributes where{};
        REQUIRE(cudaPointerGetAttributes(&where, device.data()) == cudaSuccess);
        CHECK(where.device == 1);
        const auto found = isic::fit_subspace(gpu, device, {.rank = {.fixed = 1}});
        CHECK(isic_test::largest_difference(found.subspace.basis,
                                            isic::fit_subspace(rows, {.rank = {.fixed = 1}}).basis) < 1e-9);
        int current = -1;
        CHECK(cudaGetDevice(&current) == cudaSuccess);
        CHECK(current == 0);
    }
    CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
    stand_in::reset();
}

TEST_CASE("no driver, no device, too little memory, a sticky error") {
    begin(true);
    stand_in::control().driver = false;
    CHECK_FALSE(isic::cuda::available());
    CHECK(isic::cuda::unavailable_reason().find("cudaErrorInsufficientDriver (35)") != std::string::npos);
    CHECK(isic::cuda::device_count() == 0);
    CHECK_THROWS_AS(isic::cuda_backend(), isic::cuda_error);
    begin(true);
    stand_in::control().devices = 0;
    CHECK_FALSE(isic::cuda::available());
    CHECK(isic::cuda::unavailable_reason().find("(100)") != std::string::npos);
    try {
        isic::cuda_backend();
        FAIL("no error");
    } catch (const isic::cuda_error& e) {
        CHECK(e.failure() == isic::cuda_failure::no_device);
        CHECK(e.code() == 100);
    }
    begin(true);
    CHECK(isic::cuda::available());
    stand_in::control().capacity = 1000;
    try {
        isic::cuda_backend gpu;
        isic::device_matrix<double>(gpu, 20, 20);
        FAIL("no error");
    } catch (const isic::cuda_error& e) {
        CHECK(e.failure() == isic::cuda_failure::out_of_memory);
        CHECK(std::string(e.what()).find("3200 bytes") != std::string::npos);
    }
    CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
    begin(true);
    {
        isic::cuda_backend gpu;
        isic_test::random r(45);
        const auto device = isic::upload(gpu, r.matrix<float>(5, 5));
        stand_in::control().faults["cudaStreamSynchronize"] = {.nth = 0, .code = 700, .sticky = true};
        for (int i = 0; i < 2; ++i) {
            try {
                gpu.synchronize();
                FAIL("no error");
            } catch (const isic::cuda_error& e) {
                CHECK(e.failure() == isic::cuda_failure::other);
                CHECK(e.code() == 700);
            }
        }
    }
    stand_in::reset();
}

TEST_CASE("no launch is refused for the number of rows") {
    using namespace isic::cuda::detail;
    const index_t many = index_t{1} << 33;
    const isic::any_device_view rows{nullptr, isic::dtype::f32, many, 1, 1};
    const scaled_rows unscaled{rows, nullptr};
    const code_panels panels{nullptr, nullptr, many / panel_rows, 4, nullptr};
    begin(true);  // nothing of it is run
    CHECK(check_finite(rows, nullptr, nullptr, nullptr) == cudaSuccess);
    CHECK(hash_rows(rows, nullptr, nullptr) == cudaSuccess);
    CHECK(measure_norms(rows, nullptr, nullptr) == cudaSuccess);
    CHECK(measure_leakage(rows, {nullptr, 0, 1}, nullptr, nullptr, false, nullptr, nullptr) == cudaSuccess);
    CHECK(center_of_rows(unscaled, nullptr, many, nullptr, nullptr, nullptr) == cudaSuccess);
    CHECK(pack_codes(unscaled, nullptr, nullptr, panels, nullptr) == cudaSuccess);
    CHECK(pack_queries(unscaled, nullptr, nullptr, {nullptr, nullptr, many / panel_rows, 4}, nullptr) == cudaSuccess);
    CHECK(least_scores({{nullptr, nullptr, many / panel_rows, 4}, panels, many / panel_rows, nullptr}, 1, nullptr) ==
          cudaSuccess);
    stand_in::reset();
}
#endif
