/// \file
/// The exceptions of isic. A caller's mistake throws before anything is written; a numerical outcome is a field of the result.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI {

/// Base of everything isic throws.
class ISIC_API error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Rows, columns, lengths or strides that do not match.
class ISIC_API shape_error : public error {
public:
    using error::error;
};

/// A value outside its range: an option, an id, a probability, overlapping memory.
class ISIC_API value_error : public error {
public:
    using error::error;
};

/// NaN, infinity, or data that determine no result.
class ISIC_API numeric_error : public error {
public:
    using error::error;
};

/// A file that cannot be read, written or trusted.
class ISIC_API io_error : public error {
public:
    using error::error;
};

/// A device or its libraries failed.
class ISIC_API backend_error : public error {
public:
    using error::error;
};

namespace detail {

/// "isic::function: expected ..., got ...".
ISIC_API std::string message(std::string_view function, std::string_view expected, std::string_view got);

/// Throws Error with that message.
template <class Error>
[[noreturn]] void fail(std::string_view function, std::string_view expected, std::string_view got) {
    throw Error(message(function, expected, got));
}

template <class Error>
void require(bool ok, std::string_view function, std::string_view expected, std::string_view got) {
    if (!ok) {
        fail<Error>(function, expected, got);
    }
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/error-inl.hpp>
#endif
