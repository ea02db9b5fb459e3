/// \file
/// The exceptions of isic. A caller's mistake throws before anything is written; a numerical outcome is a result's field.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace isic {

/// Base of everything isic throws.
class error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Rows, columns, lengths or strides that do not fit together.
class shape_error : public error {
public:
    using error::error;
};

/// A value outside its range: an option, an id, a probability, overlapping memory.
class value_error : public error {
public:
    using error::error;
};

/// NaN, infinity, or data from which nothing can be computed.
class numeric_error : public error {
public:
    using error::error;
};

/// A file that cannot be read, written or trusted.
class io_error : public error {
public:
    using error::error;
};

/// A device or its libraries failed.
class backend_error : public error {
public:
    using error::error;
};

namespace detail {

/// Throws Error with "function: expected ..., got ...".
template <class Error>
[[noreturn]] void fail(std::string_view function, std::string_view expected, std::string_view got) {
    throw Error(fmt::format("isic::{}: expected {}, got {}", function, expected, got));
}

template <class Error>
void require(bool ok, std::string_view function, std::string_view expected, std::string_view got) {
    if (!ok) {
        fail<Error>(function, expected, got);
    }
}

/// Throws value_error unless low <= value <= high; NaN fails.
inline void require_range(std::string_view function, std::string_view name, double value, double low, double high) {
    if (!(value >= low && value <= high)) {
        fail<value_error>(function, fmt::format("{} in [{}, {}]", name, low, high), fmt::format("{}", value));
    }
}

/// Throws value_error for fewer threads than none.
inline void require_threads(std::string_view function, int threads) {
    if (threads < 0) {
        fail<value_error>(function, "threads >= 1, or 0 for as many as pay", fmt::format("{}", threads));
    }
}

inline void require_size(std::string_view function, std::string_view name, std::ptrdiff_t expected, std::ptrdiff_t got) {
    if (expected != got) {
        fail<shape_error>(function, fmt::format("{} {}", expected, name), fmt::format("{}", got));
    }
}

}  // namespace detail
}  // namespace isic
