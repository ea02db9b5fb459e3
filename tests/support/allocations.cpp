// SPDX-License-Identifier: Apache-2.0
#include "support/allocations.hpp"

#include <cstddef>
#include <cstdlib>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#define ISIC_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ISIC_TEST_SANITIZED
#endif
#endif

namespace {

thread_local int allocations = 0;
thread_local int fails_at = -1;  // of `allocations`

}  // namespace

int isic_test::allocation_count::now() {
    return allocations;
}

isic_test::failing_allocation::failing_allocation(int nth) {
    fails_at = allocations + nth;
}

isic_test::failing_allocation::~failing_allocation() {
    fails_at = -1;
}

bool isic_test::allocation_count::works() {
#ifdef ISIC_TEST_SANITIZED
    return false;
#else
    return true;
#endif
}

#ifndef ISIC_TEST_SANITIZED

namespace {

void* counted(std::size_t bytes, std::size_t alignment) {
    if (++allocations == fails_at) {
        throw std::bad_alloc();
    }
    const std::size_t whole = (bytes + alignment - 1) / alignment * alignment;
    if (void* const p = std::aligned_alloc(alignment, whole == 0 ? alignment : whole)) {
        return p;
    }
    throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
    return counted(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept {
    std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
    std::free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
    std::free(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
    std::free(p);
}

#endif
