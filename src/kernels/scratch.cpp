#include <algorithm>

#include <isic/kernels.hpp>

namespace isic::kernels {

namespace {

constexpr std::size_t alignment_of_all = 64;

}  // namespace

scratch_memory::~scratch_memory() {
    for (const block& b : blocks_) {
        std::pmr::new_delete_resource()->deallocate(b.data, b.bytes, alignment_of_all);
    }
}

void* scratch_memory::do_allocate(std::size_t bytes, std::size_t alignment) {
    if (alignment > alignment_of_all) {
        throw std::bad_alloc();
    }
    const auto fits = [&](const block& b) { return b.free && b.bytes >= bytes && b.bytes <= 2 * bytes + 64; };
    auto found = std::ranges::find_if(blocks_, fits);
    if (found == blocks_.end()) {
        blocks_.reserve(blocks_.size() + 1);
        blocks_.push_back({std::pmr::new_delete_resource()->allocate(bytes, alignment_of_all), bytes, true});
        found = blocks_.end() - 1;
    }
    found->free = false;
    return found->data;
}

void scratch_memory::do_deallocate(void* p, std::size_t, std::size_t) {
    std::ranges::find(blocks_, p, &block::data)->free = true;
}

}  // namespace isic::kernels
