// How often this thread has asked the heap for memory.
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

}  // namespace isic_test
