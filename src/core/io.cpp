#include <isic/io.hpp>

#include <fmt/format.h>

#include <isic/error.hpp>

namespace isic {
namespace detail {

constinit const std::array<dtype_entry, 22> dtypes{{{dtype::boolean, 8, "BOOL", "|b1"},
                                                     {dtype::u8, 8, "U8", "|u1"},
                                                     {dtype::i8, 8, "I8", "|i1"},
                                                     {dtype::u16, 16, "U16", "<u2"},
                                                     {dtype::i16, 16, "I16", "<i2"},
                                                     {dtype::u32, 32, "U32", "<u4"},
                                                     {dtype::i32, 32, "I32", "<i4"},
                                                     {dtype::u64, 64, "U64", "<u8"},
                                                     {dtype::i64, 64, "I64", "<i8"},
                                                     {dtype::f16, 16, "F16", "<f2"},
                                                     {dtype::bf16, 16, "BF16", ""},
                                                     {dtype::f32, 32, "F32", "<f4"},
                                                     {dtype::f64, 64, "F64", "<f8"},
                                                     {dtype::c64, 64, "C64", "<c8"},
                                                     {dtype::f8_e4m3, 8, "F8_E4M3", ""},
                                                     {dtype::f8_e5m2, 8, "F8_E5M2", ""},
                                                     {dtype::f8_e8m0, 8, "F8_E8M0", ""},
                                                     {dtype::f8_e4m3fnuz, 8, "F8_E4M3FNUZ", ""},
                                                     {dtype::f8_e5m2fnuz, 8, "F8_E5M2FNUZ", ""},
                                                     {dtype::f6_e2m3, 6, "F6_E2M3", ""},
                                                     {dtype::f6_e3m2, 6, "F6_E3M2", ""},
                                                     {dtype::f4, 4, "F4", ""}}};

const dtype_entry& entry_of(dtype type) {
    for (const dtype_entry& entry : dtypes) {
        if (entry.type == type) {
            return entry;
        }
    }
    throw value_error(fmt::format("isic::dtype: expected a member of the enumeration, got {}", static_cast<int>(type)));
}

index_t element_count(const std::vector<index_t>& shape) {
    index_t count = 1;
    bool empty = false;
    for (const index_t n : shape) {
        if (n < 0 || (n > 0 && count > std::numeric_limits<index_t>::max() / n)) {
            return -1;
        }
        empty = empty || n == 0;
        count *= n == 0 ? 1 : n;
    }
    return empty ? 0 : count;
}

index_t byte_count(const std::vector<index_t>& shape, dtype type) {
    const index_t count = element_count(shape), bits = entry_of(type).bits;
    return count < 0 || count > std::numeric_limits<index_t>::max() / bits || count * bits % 8 != 0 ? -1 : count * bits / 8;
}

}  // namespace detail

index_t tensor::size() const {
    const index_t count = detail::element_count(shape);
    if (count < 0) {
        throw value_error(fmt::format("isic::tensor::size: expected sizes whose product fits, got [{}]", fmt::join(shape, ", ")));
    }
    return count;
}

void tensor::require_count(const std::vector<index_t>& shape, std::size_t values) {
    const index_t count = detail::element_count(shape);
    if (count != static_cast<index_t>(values)) {
        throw value_error(fmt::format("isic::tensor::of: expected {} values for shape [{}], got {}", count,
                                      fmt::join(shape, ", "), values));
    }
}

void tensor::require_bytes() const {
    const index_t expected = detail::byte_count(shape, type);
    if (static_cast<index_t>(bytes.size()) != expected) {
        throw value_error(fmt::format("isic::tensor::values: expected {} bytes for {} [{}], got {}", expected,
                                      detail::entry_of(type).safetensors, fmt::join(shape, ", "), bytes.size()));
    }
}

void tensor::fail_type() const {
    throw value_error(fmt::format("isic::tensor::values: expected a type that isic computes with, got {}",
                                  detail::entry_of(type).safetensors));
}

void tensor::fail_integer(const std::string& most, const std::string& got) {
    throw value_error(fmt::format("isic::tensor::values: expected integers up to {}, got {}", most, got));
}

void tensor::fail_floating() { throw value_error("isic::tensor::values: expected stored integers, got a floating type"); }

}  // namespace isic
