// SPDX-License-Identifier: Apache-2.0
// How often this thread has asked the heap for memory, and a heap that says no.
#pragma once

namespace isic_test {

/// Counts from its construction on.
class allocation_count {
public:
    /// Not under sanitizers, whose allocator is not replaced.
    static bool works();

    allocation_count() : start_(now()) {}
    int so_far() const { return now() - start_; }

private:
    static int now();

    int start_;
};

/// While it lives, this thread's nth call of operator new from now on fails, once.
class failing_allocation {
public:
    explicit failing_allocation(int nth);
    ~failing_allocation();
    failing_allocation(const failing_allocation&) = delete;
    failing_allocation& operator=(const failing_allocation&) = delete;
};

}  // namespace isic_test
