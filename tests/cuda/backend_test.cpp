// SPDX-License-Identifier: Apache-2.0
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;

TEST_CASE("a device is there, and a backend says which") {
    REQUIRE(isic::cuda::available());
    CHECK(isic::cuda::unavailable_reason().empty());
    CHECK(isic::cuda::device_count() >= 1);
    isic::cuda_backend gpu;
    CHECK(gpu.device() == 0);
    CHECK(gpu.stream() != nullptr);
    CHECK_FALSE(gpu.name().empty());
    gpu.synchronize();
    isic::cuda_backend moved = std::move(gpu);
    CHECK(moved.stream() != nullptr);
}

TEST_CASE("a device that is not there is refused with its number") {
    try {
        isic::cuda_backend({.device = 99});
        FAIL("no error");
    } catch (const isic::cuda_error& e) {
        CHECK(e.failure() == isic::cuda_failure::no_device);
        CHECK(e.library() == "CUDA");
        CHECK(std::string(e.what()).find("99") != std::string::npos);
    }
}

TEST_CASE("one stream waits for another, either way round") {
    isic::cuda_backend writer;
    isic::cuda_backend reader;
    isic_test::random r(3);
    const isic::matrix<double> first = r.matrix(200, 16);
    const isic::matrix<double> second = r.matrix(200, 16);
    const std::size_t bytes = 200 * 16 * sizeof(double);
    auto source = isic::upload(writer, first);
    const auto other = isic::upload(writer, second);
    isic::device_matrix<double> seen(reader, 200, 16);
    const auto copy = [bytes](isic::cuda_backend& on, isic::device_matrix<double>& to,
                              const isic::device_matrix<double>& from) {
        isic::cuda::detail::copy_on_device(*on.shared_state(), to.data(), bytes, from.data(), bytes, bytes, 1);
    };
    copy(writer, source, other);
    reader.wait_stream(writer.stream());
    copy(reader, seen, source);
    CHECK(bytes_of(isic::download(reader, seen)) == bytes_of(second));
    copy(writer, source, isic::upload(writer, first));
    writer.record_stream(reader.stream());
    copy(reader, seen, source);
    CHECK(bytes_of(isic::download(reader, seen)) == bytes_of(first));
    reader.wait_stream(reader.stream());  // nothing to wait for
    reader.wait_stream(nullptr);          // the default stream
}

TEST_CASE("memory of a device is told from the host's") {
    const isic::cuda_backend gpu;
    const isic::matrix<float> host(2, 2, 1.0F);
    const auto device = isic::upload(gpu, host);
    CHECK(isic::cuda::device_of(device.data()) == 0);
    CHECK(isic::cuda::device_of(device.data() + 3) == 0);
    CHECK_FALSE(isic::cuda::device_of(host.data()).has_value());
}

TEST_CASE_TEMPLATE("what is uploaded comes back bit for bit, from strided rows too", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(1);
    const isic::matrix<T> host = r.matrix<T>(37, 11);
    isic_test::strided<T> gaps(host, 3);
    const auto device = isic::upload(gpu, gaps.span());
    CHECK(device.rows() == 37);
    CHECK(device.cols() == 11);
    CHECK(bytes_of(isic::download(gpu, device)) == bytes_of(host));
    isic::matrix<T> wide(37, 20);
    isic::download<T>(gpu, device.view(), wide.data(), 20);
    CHECK(wide(36, 10) == host(36, 10));
    CHECK(wide(36, 11) == T(0));
    check_throws<isic::shape_error>("download", [&] { isic::download<T>(gpu, device.view(), wide.data(), 10); },
                                    {"11", "10"});
}

TEST_CASE("empty matrices and bad shapes") {
    isic::cuda_backend gpu;
    const isic::device_matrix<float> none(gpu, 0, 5);
    CHECK(none.empty());
    CHECK(isic::download(gpu, none).rows() == 0);
    check_throws<isic::shape_error>("device_matrix", [&] { isic::device_matrix<float>(gpu, -1, 5); }, {"-1"});
    check_throws<isic::shape_error>("device_span", [] { isic::device_span<float>(nullptr, 2, 3, 2); }, {"stride"});
    check_throws<isic::value_error>("device_span", [] { isic::device_span<float>(nullptr, 2, 3); }, {"null"});
    const std::vector<std::int32_t> ids{1, 2, 3};
    check_throws<isic::shape_error>("upload_ids", [&] { isic::upload_ids(gpu, ids, 2); }, {"3", "2"});
}

namespace {

struct counting_pool {
    isic::cuda_backend* from = nullptr;
    std::vector<isic::device_matrix<double>> blocks;
    int live = 0;
    int made = 0;
    bool refuses = false;
};

void* take(void* context, std::size_t bytes, void*) {
    auto& pool = *static_cast<counting_pool*>(context);
    if (pool.refuses) {
        return nullptr;
    }
    ++pool.live;
    ++pool.made;
    pool.blocks.emplace_back(*pool.from, 1, static_cast<index_t>(bytes / sizeof(double) + 1));
    pool.from->synchronize();
    return pool.blocks.back().data();
}

void give(void* context, void*, std::size_t, void*) {
    --static_cast<counting_pool*>(context)->live;
}

}  // namespace

TEST_CASE("a caller's stream and allocator are used, and only they") {
    isic::cuda_backend owner;
    counting_pool pool;
    pool.from = &owner;
    {
        isic::cuda_backend gpu({.stream = owner.stream(), .allocator = {take, give, &pool}});
        CHECK(gpu.stream() == owner.stream());
        isic_test::random r(2);
        const isic::matrix<float> host = r.matrix<float>(5, 4);
        const auto device = isic::upload(gpu, host);
        CHECK(pool.made == 1);
        CHECK(bytes_of(isic::download(gpu, device)) == bytes_of(host));
        CHECK(pool.live == 1);
        pool.refuses = true;
        try {
            isic::device_matrix<float>(gpu, 5, 5);
            FAIL("no error");
        } catch (const isic::cuda_error& e) {
            CHECK(e.failure() == isic::cuda_failure::out_of_memory);
        }
    }
    CHECK(pool.live == 0);
    check_throws<isic::value_error>("cuda_backend", [] { isic::cuda_backend({.allocator = {take, nullptr, nullptr}}); },
                                    {"allocator"});
}

TEST_CASE("device memory outlives the backend it came from") {
    isic::device_matrix<double> kept;
    isic::matrix<double> host(3, 3, 2.0);
    {
        isic::cuda_backend gpu;
        kept = isic::upload(gpu, host);
    }
    CHECK(kept.rows() == 3);
    kept = {};
    CHECK(kept.empty());
}
